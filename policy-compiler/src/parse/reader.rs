// SPDX-License-Identifier: Apache-2.0
//! Walks a JSON object field by field and notes everything that does not fit.

use std::sync::Arc;

use serde_json::{Map, Value};
use strsim::osa_distance;

use super::Parsed;
use crate::{
    diagnostic::{Diagnostic, Location, ObjectRef, Severity, one_line},
    manifest::{Locator, Step, spell},
    model::FailClosed,
};

/// The place in an object and what was found so far.
pub(super) struct Reader<'a> {
    locator: &'a Locator<'a>,
    object: Option<ObjectRef>,
    path: Vec<Step<'a>>,
    diagnostics: Vec<Diagnostic>,
    rejected: bool,
    rule: Option<Rule>,
}

/// The rule of a cluster-scoped policy being read.
struct Rule {
    depth: usize,
    closed: Option<FailClosed>,
}

/// An object's fields.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The object has fields that are not in its schema.
    pub(super) has_unknown: bool,
}

impl<'a> Fields<'a> {
    /// The value of a field; `null` is the same as absent.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How many of `names` are set.
    pub(super) fn count(&self, names: &[&str]) -> usize {
        names.iter().filter(|name| self.has(name)).count()
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(locator: &'a Locator<'a>) -> Self {
        Self {
            locator,
            object: None,
            path: Vec::new(),
            diagnostics: Vec::new(),
            rejected: false,
            rule: None,
        }
    }

    /// Names the object in this and earlier diagnostics.
    pub(super) fn identify(&mut self, object: ObjectRef) {
        for diagnostic in &mut self.diagnostics {
            diagnostic.object = Some(object.clone());
        }
        self.object = Some(object);
    }

    pub(super) fn finish<T>(self, object: Option<T>) -> Parsed<T> {
        Parsed {
            object,
            diagnostics: self.diagnostics,
            rejected: self.rejected,
        }
    }

    // --- where -----------------------------------------------------------------------------------

    /// Runs `read` one step further down.
    pub(super) fn within<T>(&mut self, step: Step<'a>, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let result = read(self);
        self.path.pop();
        result
    }

    /// Reads a field that is set.
    pub(super) fn field<T>(
        &mut self,
        fields: &Fields<'a>,
        name: &'static str,
        read: impl FnOnce(&mut Self, &'a Value) -> T,
    ) -> Option<T> {
        let value = fields.get(name)?;
        Some(self.within(Step::Field(name), |r| read(r, value)))
    }

    /// Reads every item of a list; nothing if the value is none.
    pub(super) fn items<T>(
        &mut self,
        value: &'a Value,
        mut read: impl FnMut(&mut Self, &'a Value) -> T,
    ) -> Vec<T> {
        let items = self.list(value).unwrap_or_default();
        (0..)
            .zip(items)
            .map(|(index, item)| self.within(Step::Index(index), |r| read(r, item)))
            .collect()
    }

    pub(super) fn here(&self) -> Option<Location> {
        self.locator.find(&self.path)
    }

    // --- what ------------------------------------------------------------------------------------

    /// The fields of an object whose schema knows `known`; others are reported. `null` has no fields.
    pub(super) fn object(
        &mut self,
        value: &'a Value,
        known: &[&'static str],
    ) -> Option<Fields<'a>> {
        let mut fields = self.any_object(value)?;
        for name in fields.map.keys() {
            if !known.contains(&name.as_str()) {
                fields.has_unknown = true;
                self.unknown_field(name, known);
            }
        }
        Some(fields)
    }

    /// The fields of an object whose schema is larger than what is read of it. A field that is one of
    /// `read` but for case is reported.
    pub(super) fn open_object(
        &mut self,
        value: &'a Value,
        read: &[&'static str],
    ) -> Option<Fields<'a>> {
        let mut fields = self.any_object(value)?;
        for name in fields.map.keys() {
            let like = |known: &&&str| name.eq_ignore_ascii_case(known) && name != **known;
            if read.iter().any(|known| like(&known)) {
                fields.has_unknown = true;
                self.unknown_field(name, read);
            }
        }
        Some(fields)
    }

    fn any_object(&mut self, value: &'a Value) -> Option<Fields<'a>> {
        match value {
            Value::Object(map) => Some(Fields {
                map,
                has_unknown: false,
            }),
            other => {
                self.wrong_type("an object", other);
                None
            }
        }
    }

    fn unknown_field(&mut self, name: &'a str, known: &[&'static str]) {
        self.path.push(Step::Field(name));
        let at = self.locator.find_key(&self.path);
        let diagnostic = self.report(
            "unknown-field",
            Severity::Error,
            &format!("unknown field `{name}`"),
        );
        diagnostic.at = at;
        let renamed = RENAMED
            .iter()
            .find(|(old, _)| *old == name)
            .map(|(_, new)| *new);
        let renamed = renamed.filter(|new| known.contains(new));
        diagnostic.help = Some(match renamed.or_else(|| similar(name, known)) {
            Some(known) => format!("there is a field named `{known}`"),
            None => "an API server drops the field; kubectl refuses the object".to_owned(),
        });
        self.path.pop();
    }

    pub(super) fn list(&mut self, value: &'a Value) -> Option<&'a [Value]> {
        match value {
            Value::Array(items) => Some(items),
            Value::Null => None,
            other => {
                self.wrong_type("a list", other);
                None
            }
        }
    }

    pub(super) fn string(&mut self, value: &'a Value) -> Option<&'a str> {
        if let Value::String(text) = value {
            return Some(text);
        }
        self.wrong_type("a string", value);
        None
    }

    pub(super) fn boolean(&mut self, value: &'a Value) -> Option<bool> {
        if let Value::Bool(value) = value {
            return Some(*value);
        }
        self.wrong_type("a boolean", value);
        None
    }

    /// A whole number; `80.0` is one, as conversion from YAML to JSON writes it without the fraction.
    pub(super) fn integer(&mut self, value: &'a Value) -> Option<i64> {
        let whole = whole_number(value);
        if whole.is_none() {
            self.wrong_type("a whole number", value);
        }
        whole
    }

    pub(super) fn wrong_type(&mut self, expected: &str, found: &Value) {
        let what = match found {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let diagnostic = self.reject(format!("expected {expected}, found {what}"));
        if expected == "a string" {
            diagnostic.help = match found {
                Value::Number(number) => Some(format!("put it in quotes: \"{number}\"")),
                Value::Bool(_) => Some(
                    "put it in quotes: y, n, yes, no, on, off, true and false are booleans in YAML"
                        .to_owned(),
                ),
                Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
            };
        }
    }

    // --- what is wrong ---------------------------------------------------------------------------

    /// An API server refuses the object.
    pub(super) fn reject(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        self.reject_as("invalid-object", &message.into())
    }

    /// As [`Reader::reject`], for a field of the object at the reader's place.
    pub(super) fn reject_at(&mut self, name: &'static str, message: &str) {
        self.within(Step::Field(name), |r| {
            r.reject(message);
        });
    }

    /// As [`Reader::reject`], for the key `key` of the map at the reader's place: the path is that of
    /// the map, as API servers have it, the place that of the key.
    pub(super) fn reject_key(&mut self, key: &str, message: String) {
        let at = self.place_of_key(key);
        self.reject(message).at = at;
    }

    /// Where the key `key` of the map at the reader's place is written.
    pub(super) fn place_of_key(&self, key: &str) -> Option<Location> {
        let mut path = self.path.clone();
        path.push(Step::Key(key));
        self.locator.find_key(&path)
    }

    /// As [`Reader::reject`] for a problem with a name of its own.
    pub(super) fn reject_as(&mut self, id: &'static str, message: &str) -> &mut Diagnostic {
        self.rejected = true;
        let diagnostic = self.report(id, Severity::Error, message);
        diagnostic.is_refused = true;
        diagnostic
    }

    /// An API server takes the object, and it does not mean what is written.
    pub(super) fn error(
        &mut self,
        id: &'static str,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.report(id, Severity::Error, &message.into())
    }

    pub(super) fn warn(&mut self, id: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.report(id, Severity::Warning, &message.into())
    }

    fn report(&mut self, id: &'static str, severity: Severity, message: &str) -> &mut Diagnostic {
        self.diagnostics.push(Diagnostic {
            object: self.object.clone(),
            path: one_line(&spell(&self.path)),
            ..Diagnostic::new(id, severity, message, self.here())
        });
        let last = self.diagnostics.len() - 1;
        &mut self.diagnostics[last]
    }

    // --- rules of cluster-scoped policies --------------------------------------------------------

    /// Reads a rule; what closes it on the way is the second result.
    pub(super) fn rule<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> (T, Option<FailClosed>) {
        self.rule = Some(Rule {
            depth: self.path.len(),
            closed: None,
        });
        let result = read(self);
        (result, self.rule.take().and_then(|rule| rule.closed))
    }

    /// The rule cannot be interpreted as written; the first reason stays.
    pub(super) fn close(&mut self, why: impl Into<Arc<str>>) {
        let Some(rule) = &mut self.rule else { return };
        if rule.closed.is_none() {
            let path = spell(self.path.get(rule.depth..).unwrap_or_default());
            rule.closed = Some(FailClosed {
                path: path.into(),
                why: why.into(),
            });
        }
    }
}

/// The number as an integer, if it has no fraction.
pub(super) fn whole_number(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        let limit = f64::from(i32::MAX);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and within 32 bits, checked before"
        )]
        (float.fract() == 0.0 && float.abs() <= limit).then_some(float as i64)
    })
}

/// Fields that another version of the same API calls otherwise.
const RENAMED: [(&str, &str); 3] = [
    ("namedPort", "destinationNamedPort"),
    ("ports", "protocols"),
    ("protocols", "ports"),
];

/// The name of `known` that `name` was probably meant to be.
pub(crate) fn similar<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = name.to_ascii_lowercase();
    known
        .iter()
        .map(|known| (osa_distance(&name, &known.to_ascii_lowercase()), *known))
        .filter(|(distance, known)| *distance * 3 <= known.len())
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_close() {
        let known = ["podSelector", "namespaceSelector", "ipBlock"];
        assert_eq!(similar("PodSelector", &known), Some("podSelector"));
        assert_eq!(similar("ipblok", &known), Some("ipBlock"));
        assert_eq!(similar("services", &known), None);
        assert_eq!(similar("form", &["from", "ports"]), Some("from"));
    }
}
