// SPDX-License-Identifier: Apache-2.0
//! How names, labels and ports are spelt (apimachinery `util/validation`).

/// DNS-1123 label: at most 63 of `a-z`, `0-9`, `-`, ends alphanumeric.
pub(super) fn dns_label(text: &str) -> Result<(), &'static str> {
    let body = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() <= 63 && bounded(text, body, |c| body(c) || c == b'-') {
        Ok(())
    } else {
        Err("not a DNS label: at most 63 characters of a-z, 0-9 and -, alphanumeric at both ends")
    }
}

/// DNS-1123 subdomain: DNS labels without their length limit, joined by dots, at most 253 characters.
pub(super) fn dns_subdomain(text: &str) -> Result<(), &'static str> {
    let body = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() <= 253
        && text
            .split('.')
            .all(|label| bounded(label, body, |c| body(c) || c == b'-'))
    {
        Ok(())
    } else {
        Err(
            "not a DNS subdomain: at most 253 characters of a-z, 0-9, - and ., alphanumeric at both ends of every part",
        )
    }
}

/// Label key: optional DNS subdomain and `/`, then a name of at most 63 characters.
pub(super) fn label_key(text: &str) -> Result<(), &'static str> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let prefix_fits = prefix.is_none_or(|prefix| dns_subdomain(prefix).is_ok());
    if prefix_fits && name.len() <= 63 && bounded(name, alphanumeric, name_body) {
        Ok(())
    } else {
        Err(
            "not a label key: an optional DNS subdomain and /, then at most 63 alphanumeric characters, -, _ and ., alphanumeric at both ends",
        )
    }
}

/// Label value: empty, or at most 63 characters.
pub(super) fn label_value(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() <= 63 && bounded(text, alphanumeric, name_body) {
        Ok(())
    } else {
        Err(
            "not a label value: at most 63 alphanumeric characters, -, _ and ., alphanumeric at both ends",
        )
    }
}

/// IANA service name, which is what container ports are called.
pub(super) fn port_name(text: &str) -> Result<(), &'static str> {
    let body = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() <= 15
        && bounded(text, body, |c| body(c) || c == b'-')
        && text.bytes().any(|c| c.is_ascii_lowercase())
        && !text.contains("--")
    {
        Ok(())
    } else {
        Err(
            "not a port name: at most 15 characters of a-z, 0-9 and single -, with a letter, alphanumeric at both ends",
        )
    }
}

/// A fully qualified domain name of at least two labels, or `*.` and one; the pattern of the CRDs of
/// policy.networking.k8s.io, whose `A-z` at the start of a label also takes the characters between.
pub(super) fn domain_name(text: &str) -> Result<(), &'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    let first = |c: u8| c.is_ascii_digit() || (b'A'..=b'z').contains(&c);
    let label = |label: &str| match label.as_bytes() {
        [] => false,
        [only] => first(*only),
        [start, body @ .., end] => {
            first(*start)
                && alphanumeric(*end)
                && body
                    .iter()
                    .all(|c| alphanumeric(*c) || matches!(c, b'-' | b'_'))
        }
    };
    if name.contains('.') && name.split('.').all(label) {
        Ok(())
    } else {
        Err("not a domain name of at least two labels, of which the first may be `*`")
    }
}

fn alphanumeric(c: u8) -> bool {
    c.is_ascii_alphanumeric()
}

fn name_body(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')
}

/// Not empty, `edge` at both ends and `body` throughout.
fn bounded(text: &str, edge: impl Fn(u8) -> bool, body: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|c| edge(*c))
        && bytes.last().is_some_and(|c| edge(*c))
        && bytes.iter().all(|c| body(*c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert_eq!(dns_label(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a.b", "a_b", &"a".repeat(64), "ä"] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        assert_eq!(dns_subdomain("a.b-c.0"), Ok(()));
        for bad in ["", ".", "a..b", "a.", "a.B"] {
            assert!(dns_subdomain(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels() {
        for good in ["app", "app.kubernetes.io/name", "A_b.c-d"] {
            assert_eq!(label_key(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.b/c", "-a", "a b"] {
            assert!(label_key(bad).is_err(), "{bad}");
        }
        for good in ["", "x", "X_1.y-z"] {
            assert_eq!(label_value(good), Ok(()), "{good}");
        }
        for bad in ["-x", "x-", "a/b", "a b", &"a".repeat(64)] {
            assert!(label_value(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_and_domains() {
        for good in ["web", "h2c", "a-b", "1a"] {
            assert_eq!(port_name(good), Ok(()), "{good}");
        }
        for bad in [
            "80",
            "Web",
            "-a",
            "a--b",
            "a-",
            "",
            "abcdefghijklmnop",
            "1-2",
        ] {
            assert!(port_name(bad).is_err(), "{bad}");
        }
        for good in ["a.example", "*.a.example", "a.example.", "x-1.y_z.example"] {
            assert_eq!(domain_name(good), Ok(()), "{good}");
        }
        for bad in [
            "localhost",
            "*.*.example",
            "*.",
            "",
            ".a.b",
            "a..b",
            "a.b..",
            "a.-b",
            "*.com",
        ] {
            assert!(domain_name(bad).is_err(), "{bad}");
        }
    }
}
