// SPDX-License-Identifier: Apache-2.0
//! Which parts of an API object survive decoding?
//!
//! A node agent sees every pod of the cluster, and most of a pod's 5 to 10 KiB is of no interest to
//! policies. [`Keep`] names what is, and everything else is skipped in the stream, without ever being
//! built. Decoding with a [`Keep`] cannot fail on well-formed JSON, whatever the types in it, so one odd
//! object never breaks the list or watch it arrives in.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What to keep of a value. In a list it applies to every item; scalars are always kept.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    /// All of it.
    All,
    /// None of it.
    Nothing,
    /// Of a map, only these fields, each as given.
    Fields(&'static [(&'static str, Keep)]),
    /// Of a map all fields, but these only as given.
    AllBut(&'static [(&'static str, Keep)]),
}

impl Keep {
    /// What to keep of field `name`.
    fn field(self, name: &str) -> Self {
        let (fields, other) = match self {
            Self::All => return Self::All,
            Self::Nothing => return Self::Nothing,
            Self::Fields(fields) => (fields, Self::Nothing),
            Self::AllBut(fields) => (fields, Self::All),
        };
        let given = fields.iter().find(|(field, _)| *field == name);
        given.map_or(other, |(_, keep)| *keep)
    }
}

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Filter(self))
    }
}

struct Filter(Keep);

impl<'de> Visitor<'de> for Filter {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.deserialize(deserializer)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.0)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = map.next_key_seed(Key(self.0))? {
            match key {
                Some((name, keep)) => {
                    kept.insert(name, map.next_value_seed(keep)?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(kept))
    }
}

/// Reads a field name, and allocates it only if the field is kept.
struct Key(Keep);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<(String, Keep)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<(String, Keep)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(match self.0.field(name) {
            Keep::Nothing => None,
            keep @ (Keep::All | Keep::Fields(_) | Keep::AllBut(_)) => Some((name.to_owned(), keep)),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const POD: Keep = Keep::Fields(&[
        ("metadata", Keep::Fields(&[("name", Keep::All)])),
        (
            "spec",
            Keep::Fields(&[("containers", Keep::Fields(&[("ports", Keep::All)]))]),
        ),
    ]);

    #[track_caller]
    fn check(keep: Keep, text: &str, expected: &Value) {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = keep.deserialize(&mut deserializer).unwrap();
        deserializer.end().unwrap();
        assert_eq!(&value, expected);
    }

    #[test]
    fn keeps_named_fields_through_lists() {
        check(
            POD,
            r#"{"metadata":{"name":"a","managedFields":[{"x":[1,{}]}]},
                "spec":{"containers":[{"name":"c","ports":[{"containerPort":80}]},{"image":"i"}]},
                "status":{"phase":"Running"}}"#,
            &json!({"metadata": {"name": "a"}, "spec": {"containers": [{"ports": [{"containerPort": 80}]}, {}]}}),
        );
    }

    #[test]
    fn unexpected_types_are_kept_for_the_parser_to_report() {
        check(
            POD,
            r#"{"metadata":[null,true,-1,1.5],"spec":"text"}"#,
            &json!({"metadata": [null, true, -1, 1.5], "spec": "text"}),
        );
    }

    #[test]
    fn unknown_fields_stay_where_all_but_some_is_kept() {
        const KEEP: Keep = Keep::AllBut(&[
            (
                "metadata",
                Keep::AllBut(&[("managedFields", Keep::Nothing)]),
            ),
            ("status", Keep::Nothing),
        ]);
        check(
            KEEP,
            r#"{"metadata":{"name":"a","managedFields":[]},"spec":{"new":1},"status":{},"extra":2}"#,
            &json!({"metadata": {"name": "a"}, "spec": {"new": 1}, "extra": 2}),
        );
    }
}
