// SPDX-License-Identifier: Apache-2.0
//! Where in a file a field of an object is written.

use std::{fmt::Write as _, sync::Arc};

use super::{Content, Node};
use crate::diagnostic::Location;

/// One step of a field path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A field of an object, `.spec`.
    Field(&'a str),
    /// An item of a list, `[0]`.
    Index(usize),
    /// A key of a map whose keys the user chooses, `[app]`.
    Key(&'a str),
}

/// Spells `steps` as API servers do: `spec.ingress[0].from[1]`, `metadata.labels[app]`.
pub fn spell(steps: &[Step<'_>]) -> String {
    let mut path = String::new();
    for step in steps {
        // Writing to a String cannot fail.
        let _ = match step {
            Step::Field(name) if path.is_empty() => write!(path, "{name}"),
            Step::Field(name) => write!(path, ".{name}"),
            Step::Index(index) => write!(path, "[{index}]"),
            Step::Key(key) => write!(path, "[{key}]"),
        };
    }
    path
}

/// Finds the places of an object's fields. An object that came from no file has no places.
#[derive(Clone, Copy, Debug, Default)]
pub struct Locator<'a> {
    source: Option<(&'a Arc<str>, &'a Node)>,
}

impl<'a> Locator<'a> {
    /// Finds places in `root`, the whole object, of `file`.
    pub fn new(file: &'a Arc<str>, root: &'a Node) -> Self {
        Self {
            source: Some((file, root)),
        }
    }

    /// For objects that an API server delivered: nothing has a place.
    pub fn none() -> Self {
        Self::default()
    }

    /// The place of the object.
    pub fn root(&self) -> Option<Location> {
        self.find(&[])
    }

    /// The place of the field at `path` (`spec.ingress[0].from`), or of its nearest ancestor that is
    /// written: the value of a scalar, the key of anything else, the first character of a list item.
    pub fn at(&self, path: &str) -> Option<Location> {
        self.find(&steps(path))
    }

    /// As [`Locator::at`], for a path already in steps.
    pub fn find(&self, steps: &[Step<'_>]) -> Option<Location> {
        let (file, root) = self.source?;
        let mut node = root;
        let mut place = (root.line, root.column);
        for step in steps {
            match (step, &node.content) {
                (Step::Field(key) | Step::Key(key), Content::Map(_)) => {
                    let Some(entry) = node.entry(key) else { break };
                    node = &entry.value;
                    place = match node.content {
                        Content::Bool(_) | Content::Number(_) | Content::String(_) => {
                            (node.line, node.column)
                        }
                        Content::Null | Content::List(_) | Content::Map(_) => {
                            (entry.line, entry.column)
                        }
                    };
                }
                (Step::Index(index), Content::List(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    node = item;
                    place = (node.line, node.column);
                }
                _ => break,
            }
        }
        Some(Location {
            file: file.clone(),
            line: place.0,
            column: place.1,
        })
    }

    /// The place of the key of the field at `steps`, or of its nearest ancestor that is written.
    pub fn find_key(&self, steps: &[Step<'_>]) -> Option<Location> {
        let (file, root) = self.source?;
        let (Step::Field(key) | Step::Key(key), parents) = steps.split_last()? else {
            return self.find(steps);
        };
        let parent = descend(root, parents);
        match parent.and_then(|parent| parent.entry(key)) {
            Some(entry) => Some(Location {
                file: file.clone(),
                line: entry.line,
                column: entry.column,
            }),
            None => self.find(steps),
        }
    }
}

fn descend<'a>(root: &'a Node, steps: &[Step<'_>]) -> Option<&'a Node> {
    steps.iter().try_fold(root, |node, step| match step {
        Step::Field(key) | Step::Key(key) => node.get(key),
        Step::Index(index) => match &node.content {
            Content::List(items) => items.get(*index),
            Content::Null
            | Content::Bool(_)
            | Content::Number(_)
            | Content::String(_)
            | Content::Map(_) => None,
        },
    })
}

/// Reads a spelt path back. A key that holds `]` or `[` cannot be told apart and ends the path early.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(bracketed) = rest.strip_prefix('[') {
            let Some((inside, after)) = bracketed.split_once(']') else {
                break;
            };
            steps.push(match inside.parse() {
                Ok(index) => Step::Index(index),
                Err(_) => Step::Key(inside),
            });
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if name.is_empty() {
                break;
            }
            steps.push(Step::Field(name));
            rest = after;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_spelling() {
        let path = "spec.ingress[0].from[12].podSelector.matchLabels[a.b/c]";
        assert_eq!(spell(&steps(path)), path);
        assert_eq!(steps("spec..x"), [Step::Field("spec")]);
        assert_eq!(steps("a[0"), [Step::Field("a")]);
    }
}
