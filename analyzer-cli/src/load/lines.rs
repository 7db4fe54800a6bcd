// SPDX-License-Identifier: Apache-2.0
//! What stands on a line of an input? Found without reading the text again for every question.

/// A text and where its lines begin.
#[derive(Debug)]
pub struct Lines {
    /// Bytes from the beginning of the text.
    starts: Vec<usize>,
}

impl Lines {
    /// Finds the lines of `text`.
    pub fn new(text: &str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// The line with this number, counted from 1, without its end. `text` is what [`Lines::new`] got.
    pub fn get<'t>(&self, text: &'t str, number: u32) -> Option<&'t str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let start = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).copied().unwrap_or(text.len());
        text.get(start..end)?.lines().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_standard_library() {
        for text in ["", "\n", "a", "a\n", "a\r\nb\n\nä c\n# x", "\r\n\r\n"] {
            let lines = Lines::new(text);
            let count = u32::try_from(text.lines().count()).unwrap();
            let found: Vec<_> = (1..=count)
                .map(|at| lines.get(text, at).unwrap_or(""))
                .collect();
            assert_eq!(found, text.lines().collect::<Vec<_>>(), "{text:?}");
            assert_eq!(lines.get(text, 0), None);
            assert_eq!(lines.get(text, count + 2), None);
        }
    }
}
