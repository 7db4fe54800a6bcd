// SPDX-License-Identifier: Apache-2.0
//! Findings as workflow commands, which GitHub shows as annotations.

use std::fmt::Write as _;

use policy_compiler::diagnostic::{Diagnostic, Severity};

use super::plain;

/// One command a finding.
pub fn annotations(findings: &[Diagnostic]) -> String {
    let mut text = String::new();
    for finding in findings {
        let (code, name) = crate::command::rule::code_of(finding.id);
        let level = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "notice",
        };
        let place = finding.at.as_ref().map(|at| {
            format!(
                "file={},line={},col={},",
                property(&at.file),
                at.line,
                at.column
            )
        });
        let title = property(format!("{code} {name}").trim());
        let object = finding.object.as_ref().map(|object| format!("{object}: "));
        let help = finding.help.as_ref().map(|help| format!("\n{help}"));
        let message = format!(
            "{}{}{}",
            object.unwrap_or_default(),
            finding.message,
            help.unwrap_or_default()
        );
        let _ = writeln!(
            text,
            "::{level} {}title={title}::{}",
            place.unwrap_or_default(),
            data(&message)
        );
    }
    text
}

fn data(text: &str) -> String {
    plain::lines(text).replace('%', "%25").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
