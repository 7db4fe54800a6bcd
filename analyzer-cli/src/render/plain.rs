// SPDX-License-Identifier: Apache-2.0
//! Words that others wrote. Names of objects, rules and tests come from files that nobody has checked; what
//! in them ends a line, moves a cursor or turns the direction of writing is spelt out.

use std::borrow::Cow;

/// The text on one line: `a\nb`, `\u{1b}[31m`.
pub fn line(text: &str) -> Cow<'_, str> {
    spelt(text, is_control)
}

/// The text, whose lines may end.
pub fn lines(text: &str) -> Cow<'_, str> {
    spelt(text, |it| it != '\n' && is_control(it))
}

fn spelt(text: &str, wanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if wanted(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Controls, ends of lines and paragraphs, and marks that reorder what stands beside them.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_spelt_out() {
        let text = "a\nb\u{1b}[31m\r\u{85}\u{202e}é|\t";
        assert_eq!(line(text), r"a\nb\u{1b}[31m\r\u{85}\u{202e}é|\t");
        assert_eq!(lines(text), "a\nb\\u{1b}[31m\\r\\u{85}\\u{202e}é|\\t");
        assert_eq!(line("t/a"), "t/a");
    }
}
