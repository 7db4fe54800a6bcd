// SPDX-License-Identifier: Apache-2.0
//! Which findings can be corrected mechanically, and what is the text then?
//!
//! Corrections change as few characters as possible, so that comments and layout stay. What has to be
//! guessed is not corrected.

use std::ops::Range;

use ipnet::IpNet;

use crate::{
    diagnostic::{Diagnostic, Location},
    manifest::{Content, Document, Node},
};

/// Other text for a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Bytes of the file.
    pub range: Range<usize>,
    /// What is written there instead.
    pub text: String,
}

/// The corrections of one file. They do not overlap; what a correction brings to light takes another
/// round.
pub fn edits(file: &str, text: &str, documents: &[Document], findings: &[Diagnostic]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for finding in findings {
        let Some(at) = finding.at.as_ref().filter(|at| *at.file == *file) else {
            continue;
        };
        let Some(document) = document_at(documents, at) else {
            continue;
        };
        let source = Source { text, document };
        let edit = match finding.id {
            "unknown-field" => source.rename(finding, at),
            "quoted-port-number" => source.unquote(at),
            "cidr-host-bits" => source.truncate(at),
            "legacy-peer-shape" => source.unwrap_selector(finding),
            "rule-shadowed" | "rule-redundant" => source.remove_copy(finding),
            _ => None,
        };
        edits.extend(edit);
    }
    edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let mut end = 0;
    edits.retain(|edit| {
        let apart = edit.range.start >= end;
        if apart {
            end = edit.range.end;
        }
        apart
    });
    edits
}

/// `text` with `edits`, which are in order and do not overlap.
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut done = 0;
    for edit in edits {
        fixed.push_str(text.get(done..edit.range.start).unwrap_or_default());
        fixed.push_str(&edit.text);
        done = edit.range.end;
    }
    fixed.push_str(text.get(done..).unwrap_or_default());
    fixed
}

/// A document and the text of its file.
struct Source<'a> {
    text: &'a str,
    document: &'a Document,
}

impl Source<'_> {
    /// Another name for a field that nearly has one.
    fn rename(&self, finding: &Diagnostic, at: &Location) -> Option<Edit> {
        let help = finding.help.as_deref()?;
        let known = help.strip_prefix("there is a field named `")?;
        let known = known.strip_suffix('`')?;
        let (parent, written) = match finding.path.rsplit_once('.') {
            Some((parent, written)) => (self.node(parent)?, written),
            None => (&self.document.node, finding.path.as_str()),
        };
        // With both, one of them would have to be chosen.
        if parent.entry(known).is_some() {
            return None;
        }
        let range = self.token(at.line, at.column, written)?;
        Some(Edit {
            range,
            text: known.to_owned(),
        })
    }

    /// A number instead of a string of digits.
    fn unquote(&self, at: &Location) -> Option<Edit> {
        let start = self.offset(at.line, at.column)?;
        let rest = self.text.get(start..)?;
        let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c))?;
        let digits = rest.get(1..)?.split(quote).next()?;
        digits.parse::<u16>().ok()?;
        Some(Edit {
            range: start..start + digits.len() + 2,
            text: digits.to_owned(),
        })
    }

    /// The block that is meant by an address inside it.
    fn truncate(&self, at: &Location) -> Option<Edit> {
        let start = self.offset(at.line, at.column)?;
        let rest = self.text.get(start..)?;
        let inside = rest.trim_start_matches(['"', '\'']);
        let start = start + rest.len() - inside.len();
        let end = inside.find(|c: char| !(c.is_ascii_hexdigit() || ":./".contains(c)));
        let written = inside.get(..end.unwrap_or(inside.len()))?;
        let block: IpNet = written.parse().ok()?;
        Some(Edit {
            range: start..start + written.len(),
            text: block.trunc().to_string(),
        })
    }

    /// `namespaces: {namespaceSelector: {...}}` without the inner field.
    fn unwrap_selector(&self, finding: &Diagnostic) -> Option<Edit> {
        let path = finding.path.strip_suffix(".namespaceSelector")?;
        let peer = self.node(path)?;
        let inner = peer.entry("namespaceSelector")?;
        let Content::Map(entries) = &peer.content else {
            return None;
        };
        let Content::Map(selector) = &inner.value.content else {
            return None;
        };
        // Beside other fields of the old shape it has no equal.
        if entries.len() != 1 {
            return None;
        }
        let start = self.offset(inner.line, inner.column)?;
        let value = self.offset(inner.value.line, inner.value.column)?;
        if self.text.get(value..)?.starts_with('{') {
            let outer = self.offset(peer.line, peer.column)?;
            let opened = self.text.get(outer..)?.starts_with('{');
            let end = value + closing_brace(self.text.get(value..)?)?;
            if !opened {
                return Some(Edit {
                    range: start..end,
                    // A flow mapping may stand where a block was.
                    text: self.text.get(value..end)?.to_owned(),
                });
            }
            let close = outer + closing_brace(self.text.get(outer..)?)?;
            return Some(Edit {
                range: outer..close,
                text: self.text.get(value..end)?.to_owned(),
            });
        }
        // The fields of the selector move up and to the left.
        let first = selector.first()?;
        let from = self.line_start(start)?;
        let to = self.offset(first.line, 1)?;
        if first.line <= inner.line {
            return None;
        }
        let dedent = usize::try_from(first.column.checked_sub(inner.column)?).ok()?;
        let end = self.block_end(to, usize::try_from(first.column).ok()?.saturating_sub(1));
        let kept = self.text.get(from..to)?;
        // Comments between the two fields stay.
        let mut moved: String = kept.split_inclusive('\n').skip(1).collect();
        for line in self.text.get(to..end)?.split_inclusive('\n') {
            let blank = line.len() - line.trim_start_matches(' ').len();
            moved.push_str(line.get(blank.min(dedent)..)?);
        }
        Some(Edit {
            range: from..end,
            text: moved,
        })
    }

    /// Nothing instead of a rule that an earlier one of the same list repeats word for word.
    fn remove_copy(&self, finding: &Diagnostic) -> Option<Edit> {
        let (list, index) = finding.path.strip_suffix(']')?.rsplit_once('[')?;
        let index: usize = index.parse().ok()?;
        let Content::List(items) = &self.node(list)?.content else {
            return None;
        };
        let copy = items.get(index)?;
        let value = copy.to_value();
        items
            .get(..index)?
            .iter()
            .find(|item| item.to_value() == value)?;
        let start = self.offset(copy.line, copy.column)?;
        let from = self.line_start(start)?;
        let lead = self.text.get(from..start)?;
        // Only items of block lists have lines of their own.
        if !lead.trim_start().starts_with('-') || lead.trim() != "-" {
            return None;
        }
        let dash = lead.len() - lead.trim_start().len();
        let next = from + self.text.get(from..)?.find('\n').map_or(0, |end| end + 1);
        let end = self.block_end(next, dash + 1);
        Some(Edit {
            range: from..end,
            text: String::new(),
        })
    }

    /// Where the lines from `start` on end that are indented by at least `indent`. Blank lines and
    /// comments after the last of them belong to what follows.
    fn block_end(&self, start: usize, indent: usize) -> usize {
        let (mut end, mut at) = (start, start);
        for line in self
            .text
            .get(start..)
            .unwrap_or_default()
            .split_inclusive('\n')
        {
            at += line.len();
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if line.len() - line.trim_start_matches(' ').len() < indent {
                break;
            }
            end = at;
        }
        end
    }

    fn node(&self, path: &str) -> Option<&Node> {
        let mut node = &self.document.node;
        for step in path.split('.') {
            let (name, indices) = step.split_once('[').unwrap_or((step, ""));
            node = node.get(name)?;
            for index in indices.split('[').filter(|index| !index.is_empty()) {
                let Content::List(items) = &node.content else {
                    return None;
                };
                node = items.get(index.strip_suffix(']')?.parse::<usize>().ok()?)?;
            }
        }
        Some(node)
    }

    /// Where `word` is written, with or without quotes.
    fn token(&self, line: u32, column: u32, word: &str) -> Option<Range<usize>> {
        let start = self.offset(line, column)?;
        let rest = self.text.get(start..)?;
        let inside = rest.trim_start_matches(['"', '\'']);
        let start = start + (rest.len() - inside.len()).min(1);
        let found = self.text.get(start..)?.starts_with(word);
        found.then(|| start..start + word.len())
    }

    fn offset(&self, line: u32, column: u32) -> Option<usize> {
        let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
        let mut start = 0;
        for text in self.text.split_inclusive('\n').take(line.checked_sub(1)?) {
            start += text.len();
        }
        let rest = self.text.get(start..)?;
        let mut characters = rest.char_indices();
        let (inside, _) = characters.nth(column.checked_sub(1)?)?;
        Some(start + inside)
    }

    fn line_start(&self, offset: usize) -> Option<usize> {
        let before = self.text.get(..offset)?;
        Some(before.rfind('\n').map_or(0, |end| end + 1))
    }
}

/// The last document that starts at or before the place.
fn document_at<'d>(documents: &'d [Document], at: &Location) -> Option<&'d Document> {
    let before = documents.iter().filter(|document| {
        let start = &document.location;
        start.file == at.file && (start.line, start.column) <= (at.line, at.column)
    });
    before.max_by_key(|document| (document.location.line, document.location.column))
}

/// Where the flow mapping that `text` starts with ends.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0usize, None);
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) => quote = Some(open).filter(|open| *open != c),
            (None, '"' | '\'') => quote = Some(c),
            (None, '#' | '\n') => return None,
            (None, '{') => depth += 1,
            (None, '}') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index + 1);
                }
            }
            _ => {}
        }
    }
    None
}
