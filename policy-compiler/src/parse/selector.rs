// SPDX-License-Identifier: Apache-2.0
//! Label selectors, checked as apimachinery checks them.

use std::sync::Arc;

use serde_json::Value;

use super::{meta::string_map, reader::Reader, syntax};
use crate::{
    diagnostic::Diagnostic,
    manifest::Step,
    model::{Operator, Requirement, Selector},
};

/// Who checks a selector before the engine sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckedBy {
    /// The API server's own validation refuses invalid selectors.
    ApiServer,
    /// Nobody: CRD schemas know the types of the fields and no more.
    Nobody,
}

/// A selector and how far it can be trusted.
pub(super) struct Read {
    /// The valid requirements.
    pub(super) selector: Selector,
    /// Some requirement is invalid.
    pub(super) invalid: bool,
    /// There are fields that no selector has; an API server drops them.
    pub(super) has_unknown: bool,
}

impl Read {
    /// The selector, if it means what is written.
    pub(super) fn exact(self) -> Option<Selector> {
        (!self.invalid && !self.has_unknown).then_some(self.selector)
    }
}

/// Reads `matchLabels` and `matchExpressions` at the reader's place.
pub(super) fn selector<'a>(r: &mut Reader<'a>, value: &'a Value, checked: CheckedBy) -> Read {
    let mut read = Read {
        selector: Selector::default(),
        invalid: false,
        has_unknown: false,
    };
    let Some(fields) = r.object(value, &["matchLabels", "matchExpressions"]) else {
        read.invalid = true;
        return read;
    };
    read.has_unknown = fields.has_unknown;
    let mut requirements = Vec::new();
    r.field(&fields, "matchLabels", |r, value| {
        let entries = value.as_object().map_or(0, serde_json::Map::len);
        let labels = string_map(r, value);
        read.invalid |= labels.len() < entries || !value.is_object();
        for (key, value) in labels {
            let checks = [
                (&key, syntax::label_key(&key)),
                (&value, syntax::label_value(&value)),
            ];
            for (text, check) in checks {
                if let Err(why) = check {
                    read.invalid = true;
                    let at = r.place_of_key(&key);
                    refuse(r, checked, format!("`{text}` is {why}")).at = at;
                }
            }
            requirements.push(Requirement {
                key,
                operator: Operator::In,
                values: vec![value],
            });
        }
    });
    r.field(&fields, "matchExpressions", |r, value| {
        read.invalid |= !value.is_array();
        for (index, item) in r.list(value).unwrap_or_default().iter().enumerate() {
            r.within(Step::Index(index), |r| {
                match requirement(r, item, checked) {
                    Some((requirement, has_unknown)) => {
                        requirements.push(requirement);
                        read.has_unknown |= has_unknown;
                    }
                    None => read.invalid = true,
                }
            });
        }
    });
    read.selector = Selector::new(requirements);
    read
}

fn requirement<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    checked: CheckedBy,
) -> Option<(Requirement, bool)> {
    let fields = r.object(value, &["key", "operator", "values"])?;
    let mut valid = true;
    let key = r.field(&fields, "key", |r, value| {
        let key = r.string(value)?;
        valid &= key_is_valid(r, key, checked);
        Some(key)
    });
    let operator = r.field(&fields, "operator", |r, value| {
        let operator = r.string(value)?;
        let known = known_operator(operator);
        if known.is_none() {
            let message = format!("`{operator}` is none of In, NotIn, Exists, DoesNotExist");
            refuse(r, checked, message);
        }
        known
    });
    let values = r.field(&fields, "values", |r, value| {
        valid &= value.is_array();
        let values = r.items(value, |r, value| {
            let value = r.string(value)?;
            value_is_valid(r, value, checked).then(|| Arc::<str>::from(value))
        });
        valid &= values.iter().all(Option::is_some);
        values.into_iter().flatten().collect::<Vec<_>>()
    });
    for (name, missing) in [("key", key.is_none()), ("operator", operator.is_none())] {
        if missing {
            // `key` and `operator` are required by every schema.
            r.reject_at(name, "a value is required");
        }
    }
    let (key, operator) = (key??, operator??);
    let given = values.as_ref().is_some_and(|values| !values.is_empty()) || !valid;
    let complaint = match operator {
        Operator::In | Operator::NotIn if !given => Some("needs at least one value"),
        Operator::Exists | Operator::DoesNotExist if given && fields.has("values") => {
            Some("takes no values")
        }
        Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist => None,
    };
    if let Some(complaint) = complaint {
        r.within(Step::Field("values"), |r| {
            refuse(r, checked, format!("operator {operator:?} {complaint}"));
        });
        valid = false;
    }
    valid.then(|| {
        let requirement = Requirement {
            key: key.into(),
            operator,
            values: values.unwrap_or_default(),
        };
        (requirement, fields.has_unknown)
    })
}

fn known_operator(text: &str) -> Option<Operator> {
    match text {
        "In" => Some(Operator::In),
        "NotIn" => Some(Operator::NotIn),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::DoesNotExist),
        _ => None,
    }
}

fn key_is_valid(r: &mut Reader<'_>, key: &str, checked: CheckedBy) -> bool {
    let valid = syntax::label_key(key);
    if let Err(why) = valid {
        refuse(r, checked, format!("`{key}` is {why}"));
    }
    valid.is_ok()
}

fn value_is_valid(r: &mut Reader<'_>, value: &str, checked: CheckedBy) -> bool {
    let valid = syntax::label_value(value);
    if let Err(why) = valid {
        refuse(r, checked, format!("`{value}` is {why}"));
    }
    valid.is_ok()
}

fn refuse<'r>(r: &'r mut Reader<'_>, checked: CheckedBy, message: String) -> &'r mut Diagnostic {
    match checked {
        CheckedBy::ApiServer => r.reject(message),
        CheckedBy::Nobody => r.error("invalid-selector", message),
    }
}
