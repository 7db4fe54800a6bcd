// SPDX-License-Identifier: Apache-2.0
//! How are equal strings held once?

use std::{collections::BTreeSet, sync::Arc};

/// Strings in use. A string that only the set itself still holds is forgotten some time later.
#[derive(Debug, Default)]
pub(super) struct Strings {
    known: BTreeSet<Arc<str>>,
    sweep_at: usize,
}

impl Strings {
    /// The one copy of `string`.
    pub(super) fn share(&mut self, string: Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(&string) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (self.known.len() * 2).max(1024);
        }
        self.known.insert(string.clone());
        string
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_become_one() {
        let mut strings = Strings::default();
        let a = strings.share("web".into());
        let b = strings.share("web".into());
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn unused_strings_are_forgotten() {
        let mut strings = Strings::default();
        let kept = strings.share("kept".into());
        for number in 0..100_000 {
            strings.share(format!("hash-{number}").into());
        }
        assert!(strings.known.len() <= 2048, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&kept, &strings.share("kept".into())));
    }
}
