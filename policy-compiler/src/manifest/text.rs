// SPDX-License-Identifier: Apache-2.0
//! How a file's text falls into documents, and each document into a tree of nodes.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_saphyr::{Error, alias_limits, budget, budget::BudgetBreach, options};

use super::Node;

/// A piece of a file between document markers.
pub(super) struct Chunk<'a> {
    /// Lines of the file before the piece.
    pub(super) lines_before: u32,
    pub(super) text: &'a str,
}

/// Why a piece of text is no document.
pub(super) struct Malformed {
    pub(super) message: String,
    pub(super) line: u32,
    pub(super) column: u32,
}

/// Splits `text` at document markers, as kubectl does, so that one malformed document leaves the others
/// readable. YAML allows `---` at the start of a line nowhere else, not even inside a scalar. Pieces
/// without content are left out; directives stay with the document they precede.
pub(super) fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let mut start = Chunk {
        lines_before: 0,
        text,
    };
    let mut offset = 0;
    let mut begin = 0;
    let mut has_content = false;
    for (line, content) in (0..).zip(text.split_inclusive('\n')) {
        let opens = is_marker(content, "---");
        if opens && has_content {
            start.text = text.get(begin..offset).unwrap_or_default();
            chunks.push(std::mem::replace(
                &mut start,
                Chunk {
                    lines_before: line,
                    text,
                },
            ));
            begin = offset;
            has_content = false;
        }
        let body = if opens {
            content.get(3..).unwrap_or_default()
        } else {
            content
        };
        let body = body.trim_start();
        has_content |= !(body.is_empty()
            || body.starts_with('#')
            || body.starts_with('%') && content.starts_with('%')
            || is_marker(content, "..."));
        offset += content.len();
    }
    if has_content {
        start.text = text.get(begin..).unwrap_or_default();
        chunks.push(start);
    }
    chunks
}

/// Splits a stream of JSON objects, each on lines of its own, which is no YAML. Anything else stays whole.
pub(super) fn split_json(chunk: Chunk<'_>) -> Vec<Chunk<'_>> {
    if !chunk.text.trim_start().starts_with('{') {
        return vec![chunk];
    }
    let mut chunks = Vec::new();
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    let (mut begin, mut offset) = (0, 0);
    let mut lines_before = chunk.lines_before;
    for (line, content) in (chunk.lines_before..).zip(chunk.text.split_inclusive('\n')) {
        if depth == 0 && offset > begin && content.trim_start().starts_with('{') {
            chunks.push(Chunk {
                lines_before,
                text: chunk.text.get(begin..offset).unwrap_or_default(),
            });
            (begin, lines_before) = (offset, line);
        }
        for c in content.bytes() {
            match c {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'{' if !quoted => depth += 1,
                b'}' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        offset += content.len();
    }
    chunks.push(Chunk {
        lines_before,
        text: chunk.text.get(begin..).unwrap_or_default(),
    });
    // Text that is no JSON may have braces in single quotes or comments.
    if chunks
        .iter()
        .all(|chunk| serde_json::from_str::<IgnoredAny>(chunk.text).is_ok())
    {
        chunks
    } else {
        vec![chunk]
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// What a piece of text holds.
pub(super) struct Parsed {
    pub(super) nodes: Vec<Node>,
    /// Lines and columns of plain `y`, `Y`, `n` and `N`.
    pub(super) letters: Vec<(u32, u32)>,
}

/// Reads one piece; usually that is one document. Positions count from the start of the file.
pub(super) fn parse(chunk: &Chunk<'_>) -> Result<Parsed, Malformed> {
    // What is not amplified is bounded by the text itself, which its reader has in memory already.
    let options = options! {
        alias_limits: alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: 16,
        },
        budget: budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_total_comment_bytes: usize::MAX,
            max_documents: usize::MAX,
        },
        emit_comments: false,
        // Kubernetes reads YAML 1.1: `010` is eight.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options::<Node>(chunk.text, options)
        .map(|mut nodes| {
            let mut booleans = Vec::new();
            for node in &nodes {
                node.booleans(&mut booleans);
            }
            let letters = letters(chunk.text, booleans);
            for node in &mut nodes {
                node.keep_letters(&letters);
                node.shift(chunk.lines_before);
            }
            let letters = letters
                .into_keys()
                .map(|(line, column)| (line + chunk.lines_before, column))
                .collect();
            Parsed { nodes, letters }
        })
        .map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), |at| {
                (
                    u32::try_from(at.line()).unwrap_or(u32::MAX),
                    u32::try_from(at.column()).unwrap_or(u32::MAX),
                )
            });
            Malformed {
                message: explain(error.without_snippet()),
                line: chunk.lines_before.saturating_add(line.max(1)),
                column: column.max(1),
            }
        })
}

/// Of `places`, those where one of the letters stands that YAML 1.1 reads as booleans; one pass over
/// `text`, however many places there are on a line.
fn letters(text: &str, mut places: Vec<(u32, u32)>) -> BTreeMap<(u32, u32), char> {
    places.sort_unstable();
    places.dedup();
    let mut letters = BTreeMap::new();
    let mut places = places.into_iter().peekable();
    for (number, line) in (1..).zip(text.lines()) {
        let mut chars = (1..).zip(line.chars());
        while let Some(place) = places.next_if(|place| place.0 <= number) {
            let written = chars.find(|(column, _)| *column == place.1);
            let next = chars.clone().next().map(|(_, next)| next);
            let ends = |next: char| next.is_whitespace() || matches!(next, ',' | ':' | ']' | '}');
            if let Some((_, letter @ ('y' | 'Y' | 'n' | 'N'))) = written
                && next.is_none_or(ends)
            {
                letters.insert(place, letter);
            }
        }
        if places.peek().is_none() {
            break;
        }
    }
    letters
}

fn explain(error: &Error) -> String {
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("duplicate key `{key}`"),
        Error::DuplicateMappingKey { key: None, .. } => "duplicate key".to_owned(),
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => format!("nested deeper than {MAX_DEPTH} levels"),
        other => {
            let text = other.to_string();
            if text.starts_with("alias replay ") {
                return "aliases expand to more than 200,000 values".to_owned();
            }
            if text.starts_with("recursion limit exceeded") {
                return format!("nested deeper than {MAX_DEPTH} levels");
            }
            let end = text.find(" at line ").unwrap_or(text.len());
            text.get(..end).unwrap_or_default().to_owned()
        }
    }
}

/// Deepest nesting of lists and mappings; the deepest Kubernetes object has about twenty levels.
const MAX_DEPTH: usize = 64;
