// SPDX-License-Identifier: Apache-2.0
//! Columns for people, and the same cells for programs that read CSV and Markdown.

use std::borrow::Cow;

use super::plain;

/// Lays rows out in columns, two spaces apart, without trailing blanks.
pub fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| plain::line(cell)).collect())
        .collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A name short enough for a line: of many ranges the first.
pub fn brief(name: &str) -> String {
    match name.split(',').collect::<Vec<_>>().as_slice() {
        [first, _, rest @ ..] if rest.len() > 1 => format!("{first} and {} ranges", rest.len() + 1),
        _ => name.to_owned(),
    }
}

/// RFC 4180.
pub fn csv(rows: &[Vec<String>]) -> String {
    let cell = |cell: &String| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    };
    rows.iter()
        .map(|row| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\r\n")
        .collect()
}

/// A Markdown table; the first row is the head.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push_str(&markdown_rows(std::slice::from_ref(row)));
        if index == 0 {
            text.push_str(&markdown_rows(&[vec!["---".to_owned(); row.len()]]));
        }
    }
    text
}

/// Rows of a Markdown table.
pub fn markdown_rows(rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .map(|cell| plain::line(cell).replace('|', "\\|"))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    rows.iter().map(line).collect()
}

/// Text inside XML, HTML and SVG, on one line. XML has no way to write most controls.
pub fn escape_xml(text: &str) -> String {
    plain::line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
        .replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_as_the_format_wants() {
        let rows = vec![vec!["a".to_owned(), "b,\"c\"".to_owned()]];
        assert_eq!(csv(&rows), "a,\"b,\"\"c\"\"\"\r\n");
        assert_eq!(markdown(&rows), "| a | b,\"c\" |\n| --- | --- |\n");
        assert_eq!(columns(&rows, "  "), "  a  b,\"c\"\n");
        assert_eq!(escape_xml("<a&b>"), "&lt;a&amp;b&gt;");
        assert_eq!(escape_xml("a\n\u{1}b\u{ffff}"), "a\\n\\u{1}b\u{fffd}");
        let cell = vec![vec!["a\n::error::b|\u{1b}[31m".to_owned()]];
        assert_eq!(columns(&cell, ""), "a\\n::error::b|\\u{1b}[31m\n");
        assert_eq!(markdown_rows(&cell), "| a\\n::error::b\\|\\u{1b}[31m |\n");
    }
}
