// SPDX-License-Identifier: Apache-2.0
//! What was probably meant?

/// The candidate that differs least from `text`, if it is close enough to be a slip.
pub fn nearest(text: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let limit = (text.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (distance(text, &candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many characters have to be inserted, removed or replaced.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row.first().copied().unwrap_or_default();
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, to) in b.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or_default();
            let left = row.get(j).copied().unwrap_or_default();
            let cost = (diagonal + usize::from(from != *to))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = cost;
            }
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let names = || ["shop/web", "shop/api"].map(str::to_owned).into_iter();
        assert_eq!(nearest("shop/wbe", names()), Some("shop/web".to_owned()));
        assert_eq!(nearest("infra/dns", names()), None);
    }
}
