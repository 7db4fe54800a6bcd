// SPDX-License-Identifier: Apache-2.0
//! What does a finding mean? `rule`.

use policy_compiler::lint::{self, Lint};

use crate::{
    Io,
    args::RuleArgs,
    exit::{ExitStatus, UsageError},
    render::table,
    suggest::nearest,
};

/// Runs `rule`.
pub fn run(io: &Io<'_>, args: &RuleArgs) -> anyhow::Result<ExitStatus> {
    let Some(wanted) = &args.code else {
        let rows: Vec<Vec<String>> = lint::all()
            .into_iter()
            .map(|lint| {
                let severity = format!("{:?}", lint.severity).to_lowercase();
                vec![
                    lint.code.to_owned(),
                    severity,
                    lint.name.to_owned(),
                    lint.what.to_owned(),
                ]
            })
            .collect();
        io.answer(&table::columns(&rows, ""))?;
        return Ok(ExitStatus::Success);
    };
    let Some(lint) = lint::find(wanted) else {
        let known = lint::all()
            .into_iter()
            .flat_map(|lint| [lint.code, lint.name]);
        let error = UsageError::new(format!("there is no rule `{wanted}`"));
        return Err(match nearest(wanted, known.map(str::to_owned)) {
            Some(near) => error.help(format!("there is `{near}`")),
            None => error.help("`netpol-analyze rule` lists all of them"),
        }
        .into());
    };
    io.answer(&page(lint))?;
    Ok(ExitStatus::Success)
}

/// The code and name of a diagnostic; the code is empty if no rule is documented for it.
pub fn code_of(id: &'static str) -> (&'static str, &'static str) {
    match lint::find(id) {
        Some(lint) => (lint.code, lint.name),
        None => ("", id),
    }
}

fn page(lint: &Lint) -> String {
    let severity = format!("{:?}", lint.severity).to_lowercase();
    let indent = |text: &str| format!("    {}\n", text.trim_end().replace('\n', "\n    "));
    format!(
        "# {} {} ({severity})\n\n## What it does\n\n{}\n\n## Why it matters\n\n{}\n\n## Example\n\n{}\n## Use instead\n\n{}",
        lint.code,
        lint.name,
        lint.what,
        lint.why,
        indent(lint.example),
        indent(lint.instead),
    )
}
