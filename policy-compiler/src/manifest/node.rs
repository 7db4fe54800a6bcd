// SPDX-License-Identifier: Apache-2.0
//! A document as a tree in which everything knows where it was written.

use std::{collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;

/// A value and the line and column (from 1) of its first character.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub content: Content,
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// What a [`Node`] holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// `null`, `~` or nothing at all.
    Null,
    /// A boolean; in YAML also `yes`, `no`, `on` and `off`, as every Kubernetes client reads them. (The
    /// letters `y` and `n` stay strings, with a warning: readers do not agree about them.)
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written. Keys are unique.
    Map(Vec<Entry>),
}

/// One key of a mapping and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key; numbers and booleans are spelt out, as conversion to JSON does.
    pub key: String,
    /// The key was a YAML boolean (`on:`), which became `true` or `false`.
    pub boolean_key: bool,
    /// Line of the key.
    pub line: u32,
    /// Column of the key, in characters.
    pub column: u32,
    /// The value.
    pub value: Node,
}

impl Node {
    /// The entry called `key`, if this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Content::Null
            | Content::Bool(_)
            | Content::Number(_)
            | Content::String(_)
            | Content::List(_) => None,
        }
    }

    /// The value of `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The string, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::String(text) => Some(text),
            Content::Null
            | Content::Bool(_)
            | Content::Number(_)
            | Content::List(_)
            | Content::Map(_) => None,
        }
    }

    /// The value without positions.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::String(value) => Value::String(value.clone()),
            Content::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_value()))
                    .collect(),
            ),
        }
    }

    /// Where booleans are written, values and keys.
    pub(super) fn booleans(&self, found: &mut Vec<(u32, u32)>) {
        match &self.content {
            Content::Bool(_) => found.push((self.line, self.column)),
            Content::List(items) => items.iter().for_each(|item| item.booleans(found)),
            Content::Map(entries) => {
                for entry in entries {
                    if entry.boolean_key {
                        found.push((entry.line, entry.column));
                    }
                    entry.value.booleans(found);
                }
            }
            Content::Null | Content::Number(_) | Content::String(_) => {}
        }
    }

    /// Makes strings of the letters that YAML 1.1 reads as booleans and YAML 1.2 does not: a namespace
    /// may be called `y`. `letters` are those that stand where a boolean was read.
    pub(super) fn keep_letters(&mut self, letters: &BTreeMap<(u32, u32), char>) {
        match &mut self.content {
            Content::Bool(_) => {
                if let Some(letter) = letters.get(&(self.line, self.column)) {
                    self.content = Content::String((*letter).into());
                }
            }
            Content::List(items) => items.iter_mut().for_each(|item| item.keep_letters(letters)),
            Content::Map(entries) => {
                for entry in entries {
                    let letter = letters.get(&(entry.line, entry.column));
                    if let (true, Some(letter)) = (entry.boolean_key, letter) {
                        entry.key = (*letter).into();
                        entry.boolean_key = false;
                    }
                    entry.value.keep_letters(letters);
                }
            }
            Content::Null | Content::Number(_) | Content::String(_) => {}
        }
    }

    /// Adds `lines` to every position: the document starts that far into its file.
    pub(super) fn shift(&mut self, lines: u32) {
        self.line += lines;
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| item.shift(lines)),
            Content::Map(entries) => {
                for entry in entries {
                    entry.line += lines;
                    entry.value.shift(lines);
                }
            }
            Content::Null | Content::Bool(_) | Content::Number(_) | Content::String(_) => {}
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self {
            content: spanned.value,
            line: line_of(spanned.referenced.line()),
            column: line_of(spanned.referenced.column()),
        })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Content, E> {
        Number::from_f64(value)
            .map(Content::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<Key>>()? {
            entries.push(Entry {
                line: line_of(key.referenced.line()),
                column: line_of(key.referenced.column()),
                boolean_key: key.value.boolean,
                key: key.value.text,
                value: map.next_value()?,
            });
        }
        Ok(Content::Map(entries))
    }
}

struct Key {
    text: String,
    boolean: bool,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a scalar as key of a mapping")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
                Ok(Key {
                    text: value.to_string(),
                    boolean: true,
                })
            }

            fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
                Ok(plain(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
                Ok(plain(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
                Ok(plain(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Key, E> {
                Ok(plain(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Key, E> {
                Ok(plain(value))
            }
        }
        fn plain(text: String) -> Key {
            Key {
                text,
                boolean: false,
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

fn line_of(position: u64) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
