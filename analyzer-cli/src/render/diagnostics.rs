// SPDX-License-Identifier: Apache-2.0
//! Problems on stderr, the way rustc shows them: place, excerpt, caret, help.

use std::{fmt::Write as _, io::Write as _};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use policy_compiler::diagnostic::{Diagnostic, Severity};

use super::plain;
use crate::{exit::UsageError, load::World};

/// Shows what is wrong with the input. `quiet` leaves out what does not make the answer unsound.
pub fn input_problems(world: &World, quiet: bool) {
    let mut text = String::new();
    let mut hidden = 0;
    for name in world.empty.iter().filter(|_| !quiet) {
        let _ = writeln!(
            text,
            "warning: there is no object in `{}`\n",
            plain::line(name)
        );
    }
    for diagnostic in &world.loaded.diagnostics {
        let shown = match diagnostic.severity {
            Severity::Error => true,
            Severity::Warning => !quiet,
            Severity::Info => false,
        };
        let (code, name) = crate::command::rule::code_of(diagnostic.id);
        if !shown
            || (diagnostic.severity != Severity::Error
                && world.is_silenced(code, name, diagnostic.at.as_ref()))
        {
            continue;
        }
        if text.len() > MOST_TEXT {
            hidden += 1;
            continue;
        }
        text.push_str(&one(diagnostic, world));
        text.push('\n');
    }
    if hidden > 0 {
        let _ = writeln!(
            text,
            "... and {hidden} more; `netpol-analyze lint` lists all of them\n"
        );
    }
    print(&text);
}

/// Shows why the program cannot answer.
pub fn failure(error: &anyhow::Error) {
    let mut text = format!("error: {}\n", chain(error));
    if let Some(hint) = error
        .downcast_ref::<UsageError>()
        .and_then(UsageError::hint)
    {
        let _ = writeln!(text, "  help: {hint}");
    }
    print(&plain::lines(&text));
}

/// Shows a remark.
pub fn note(message: &str) {
    print(&format!("{message}\n"));
}

/// One problem with its excerpt, for standard error.
pub fn one(diagnostic: &Diagnostic, world: &World) -> String {
    spell(diagnostic, world, colour(&std::io::stderr()))
}

/// One problem with its excerpt, for an answer, which goes to standard output unless it goes to a file.
pub fn in_answer(diagnostic: &Diagnostic, world: &World, to_file: bool) -> String {
    spell(diagnostic, world, !to_file && colour(&std::io::stdout()))
}

fn spell(diagnostic: &Diagnostic, world: &World, colour: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Info => Level::INFO,
    };
    let mut message = plain::line(&diagnostic.message).into_owned();
    if let Some(object) = &diagnostic.object {
        let path = if diagnostic.path.is_empty() {
            String::new()
        } else {
            format!(", {}", diagnostic.path)
        };
        let _ = write!(message, " ({})", plain::line(&format!("{object}{path}")));
    }
    let (code, _) = crate::command::rule::code_of(diagnostic.id);
    let excerpt = diagnostic.at.as_ref().and_then(|at| {
        let line = world.line(&at.file, at.line)?;
        let column = usize::try_from(at.column).ok()?.saturating_sub(1);
        let start = line
            .char_indices()
            .nth(column)
            .map_or(line.len(), |(start, _)| start);
        let rest = line.get(start..).unwrap_or_default();
        let end = rest
            .find([':', ' ', ',', '}', ']'])
            .filter(|end| *end > 0)
            .unwrap_or(rest.len());
        // Long lines, JSON in one line for instance, would fill the screen.
        let (line, start) = clip(line, start);
        Some((line, start, end, at))
    });
    let mut help = Vec::new();
    if let Some(text) = &diagnostic.help {
        help.push(Level::HELP.message(plain::lines(text).into_owned()));
    }
    let title = level.primary_title(message);
    let title = if code.is_empty() {
        title.id(diagnostic.id)
    } else {
        title.id(code)
    };
    let group = match &excerpt {
        Some((line, start, end, at)) => {
            let end = (start + end).min(line.len());
            let end = (0..=end)
                .rev()
                .find(|end| line.is_char_boundary(*end))
                .unwrap_or(*start);
            let snippet = Snippet::source(line.as_str())
                .line_start(usize::try_from(at.line).unwrap_or(1))
                .path(plain::line(&at.file).into_owned())
                .annotation(AnnotationKind::Primary.span(*start..end.max(*start)));
            title.element(snippet)
        }
        None => match &diagnostic.at {
            Some(at) => title.element(
                annotate_snippets::Origin::path(plain::line(&at.file).into_owned())
                    .line(usize::try_from(at.line).unwrap_or(1))
                    .char_column(usize::try_from(at.column).unwrap_or(1)),
            ),
            None => Group::with_title(title),
        },
    };
    let report = [group.elements(help)];
    let renderer = if colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    format!("{}\n", renderer.render(&report))
}

fn clip(line: &str, start: usize) -> (String, usize) {
    if line.len() <= MOST_LINE {
        return (line.to_owned(), start);
    }
    let boundary = |at: usize| {
        (0..=at.min(line.len()))
            .rev()
            .find(|at| line.is_char_boundary(*at))
    };
    let from = boundary(start.saturating_sub(MOST_LINE / 2)).unwrap_or_default();
    let to = boundary(from + MOST_LINE).unwrap_or(line.len());
    (
        line.get(from..to).unwrap_or_default().to_owned(),
        start - from,
    )
}

fn colour(stream: &impl std::io::IsTerminal) -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && stream.is_terminal()
}

fn print(text: &str) {
    // Nobody reads stderr any more; the exit code still tells.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Bytes of problems before the rest is only counted.
const MOST_TEXT: usize = 100_000;

/// Bytes of a line that an excerpt shows at most.
const MOST_LINE: usize = 160;
