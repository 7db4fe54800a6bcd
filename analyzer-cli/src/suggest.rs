// SPDX-License-Identifier: Apache-2.0
//! What was probably meant?

use strsim::osa_distance;

/// The candidate that differs least from `text`, if it is close enough to be a slip.
pub fn nearest(text: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let limit = (text.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (osa_distance(text, &candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
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
