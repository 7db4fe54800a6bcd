// SPDX-License-Identifier: Apache-2.0
//! How is a rewritten document written, with the comments of what it was made from?

use std::{collections::BTreeMap, sync::Arc};

use granit_parser::{Event, Parser, Placement};
use policy_compiler::manifest::{Content, Document, Entry, Node};

/// The document as YAML. Comments come from the text it was read from: those of fields that it kept.
pub fn document(document: &Document, texts: &BTreeMap<Arc<str>, String>) -> String {
    let comments = texts.get(&document.location.file);
    let mut writer = Writer {
        comments: comments.map(|text| Comments::of(text)).unwrap_or_default(),
        text: String::new(),
    };
    writer.node(&document.node, 0);
    writer.text
}

/// The comments of a file, by the line they are about.
#[derive(Debug, Default)]
struct Comments {
    /// On lines of their own, before this line.
    above: BTreeMap<u32, Vec<String>>,
    /// At the end of this line.
    right: BTreeMap<u32, String>,
}

impl Comments {
    fn of(text: &str) -> Self {
        let mut comments = Self::default();
        let mut waiting: Vec<String> = Vec::new();
        for event in Parser::new_from_str(text) {
            // What cannot be read has its diagnostic; the comments before it are found all the same.
            let Ok((event, span)) = event else { break };
            let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
            match event {
                Event::Comment(comment, Placement::Right) => {
                    comments.right.insert(line, comment.into_owned());
                }
                Event::Comment(comment, _) => waiting.push(comment.into_owned()),
                Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::MappingStart(..)
                | Event::Alias(_)
                    if !waiting.is_empty() =>
                {
                    let own = comments.above.entry(line).or_default();
                    own.append(&mut waiting);
                }
                Event::DocumentEnd => waiting.clear(),
                _ => {}
            }
        }
        comments
    }
}

struct Writer {
    comments: Comments,
    text: String,
}

impl Writer {
    fn node(&mut self, node: &Node, indent: usize) {
        match &node.content {
            Content::Map(entries) if !entries.is_empty() => self.map(entries, indent, None),
            Content::List(items) if !items.is_empty() => self.list(items, indent),
            Content::Null
            | Content::Bool(_)
            | Content::Number(_)
            | Content::String(_)
            | Content::List(_)
            | Content::Map(_) => self.line(indent, &scalar(node), &[node.line]),
        }
    }

    /// Entries, the first one on a line that `lead` begins.
    fn map(&mut self, entries: &[Entry], indent: usize, mut lead: Option<&str>) {
        for entry in entries {
            let own = lead.take();
            if own.is_none() {
                self.above(entry.line, indent);
            }
            let indent_here = own.map_or(indent, |lead| indent - lead.len());
            let start = own.unwrap_or_default();
            let key = spell_string(&entry.key);
            match &entry.value.content {
                Content::Map(entries) if !entries.is_empty() => {
                    self.line(indent_here, &format!("{start}{key}:"), &[entry.line]);
                    self.map(entries, indent + 2, None);
                }
                Content::List(items) if !items.is_empty() => {
                    self.line(indent_here, &format!("{start}{key}:"), &[entry.line]);
                    self.list(items, indent);
                }
                Content::Null
                | Content::Bool(_)
                | Content::Number(_)
                | Content::String(_)
                | Content::List(_)
                | Content::Map(_) => {
                    let line = format!("{start}{key}: {}", scalar(&entry.value));
                    self.line(indent_here, &line, &[entry.line, entry.value.line]);
                }
            }
        }
    }

    fn list(&mut self, items: &[Node], indent: usize) {
        for item in items {
            self.above(item.line, indent);
            match &item.content {
                Content::Map(entries) if !entries.is_empty() => {
                    self.map(entries, indent + 2, Some("- "));
                }
                Content::Null
                | Content::Bool(_)
                | Content::Number(_)
                | Content::String(_)
                | Content::List(_)
                | Content::Map(_) => {
                    self.line(indent, &format!("- {}", scalar(item)), &[item.line]);
                }
            }
        }
    }

    fn above(&mut self, line: u32, indent: usize) {
        for comment in self.comments.above.remove(&line).unwrap_or_default() {
            self.line(indent, &format!("#{comment}"), &[]);
        }
    }

    /// One line, with the comment at the end of the first of `sources` that has one.
    fn line(&mut self, indent: usize, content: &str, sources: &[u32]) {
        self.text.push_str(&" ".repeat(indent));
        self.text.push_str(content);
        let comment = sources
            .iter()
            .find_map(|line| self.comments.right.remove(line));
        if let Some(comment) = comment {
            self.text.push_str(" #");
            self.text.push_str(&comment);
        }
        self.text.push('\n');
    }
}

/// A value on one line. Lists in lists and what is empty are written as JSON, which is YAML.
fn scalar(node: &Node) -> String {
    match &node.content {
        Content::String(text) => spell_string(text),
        Content::Null
        | Content::Bool(_)
        | Content::Number(_)
        | Content::List(_)
        | Content::Map(_) => node.to_value().to_string(),
    }
}

/// A string, in quotes where it would be read as something else.
fn spell_string(text: &str) -> String {
    let plain = (!text.contains(['\n', '\r']))
        .then(|| serde_yaml::to_string(text).ok())
        .flatten();
    match plain {
        Some(spelt) if spelt.trim_end() == text && is_ambiguous(text) => format!("'{text}'"),
        Some(spelt) if spelt.trim_end_matches('\n').lines().count() == 1 => {
            spelt.trim_end_matches('\n').to_owned()
        }
        _ => serde_json::Value::from(text).to_string(),
    }
}

/// Whether some reader of YAML 1.1, as Kubernetes' own is one, takes the text for a boolean or a number.
fn is_ambiguous(text: &str) -> bool {
    let word = ["y", "n", "yes", "no", "on", "off"];
    let numeric = |c: char| c.is_ascii_hexdigit() || "_:.+-xo".contains(c);
    word.iter().any(|word| text.eq_ignore_ascii_case(word))
        || text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
            && text.chars().all(numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let (documents, diagnostics) = policy_compiler::manifest::read("a.yaml", text);
        assert_eq!(diagnostics, []);
        let texts = BTreeMap::from([("a.yaml".into(), text.to_owned())]);
        let written: String = documents.iter().map(|it| document(it, &texts)).collect();
        assert_eq!(written, expect);
        let (again, _) = policy_compiler::manifest::read("b.yaml", &written);
        let values =
            |documents: &[Document]| documents.iter().map(Document::value).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&documents));
    }

    #[test]
    fn comments_stay_with_their_fields() {
        check(
            "# about it\nkind: A # a kind\napiVersion: v1\nmetadata:\n  # its name\n  name: a\nspec:\n  list:\n  # first\n  - {a: 1, b: [x]} # both\n  - b: \"# no comment\"\n",
            "# about it\nkind: A # a kind\napiVersion: v1\nmetadata:\n  # its name\n  name: a\nspec:\n  list:\n  # first\n  - a: 1 # both\n    b:\n    - x\n  - b: '# no comment'\n",
        );
    }

    #[test]
    fn what_looks_like_something_else_is_quoted() {
        check(
            "kind: A\napiVersion: v1\nmetadata: {name: a, annotations: {\"on\": \"yes\", num: \"80\", old: \"1_0:20\", e: \"\", t: \"two\\nlines\"}}\nspec: {m: {}, l: [], z: null, ll: [[1]]}\n",
            "kind: A\napiVersion: v1\nmetadata:\n  name: a\n  annotations:\n    'on': 'yes'\n    num: '80'\n    old: '1_0:20'\n    e: ''\n    t: \"two\\nlines\"\nspec:\n  m: {}\n  l: []\n  z: null\n  ll:\n  - [1]\n",
        );
    }
}
