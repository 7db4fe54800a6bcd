// SPDX-License-Identifier: Apache-2.0
//! The analyzer as a program: arguments in, answer on stdout, everything else on stderr, exit code out.

#![forbid(unsafe_code)]
#![expect(unreachable_pub, reason = "the modules of a program are private")]

mod answer;
mod args;
mod command;
mod exit;
mod flow;
#[cfg(feature = "live")]
mod live;
#[cfg(not(feature = "live"))]
#[path = "live/absent.rs"]
mod live;
mod load;
mod render;
mod sink;
mod suggest;
mod yaml;

use std::io::Write;

use clap::{Parser, ValueEnum};

pub use args::Cli;
pub use exit::ExitStatus;

use crate::{
    args::{Command, InputArgs, Output, OutputArgs},
    exit::{UnknownError, UsageError},
    load::World,
};

/// What every document that programs parse says it is written in, beside its kind.
pub(crate) const API_VERSION: &str = "netpol-analyze/v1";

/// Runs the program with the arguments of the process.
pub fn main() -> ExitStatus {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a mistake; both print themselves.
            let status = if error.use_stderr() {
                ExitStatus::Usage
            } else {
                ExitStatus::Success
            };
            return match error.print() {
                Err(error) if status == ExitStatus::Success && !sink::is_closed(&error) => {
                    ExitStatus::Internal
                }
                _ => status,
            };
        }
    };
    match run(&cli) {
        Ok(status) => status,
        Err(error) => {
            render::diagnostics::failure(&error);
            if error.is::<UnknownError>() {
                ExitStatus::Incomplete
            } else {
                ExitStatus::Usage
            }
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitStatus> {
    let leads = matches!(cli.command, Command::Exposure(_) | Command::Snapshot(_));
    let input = InputArgs {
        entrances: leads,
        ..cli.input.clone()
    };
    let io = Io {
        output: &cli.output,
        input: &input,
    };
    match &cli.command {
        Command::Reach(args) => command::reach::run(&io, args, false),
        Command::Why(args) => command::reach::run(&io, args, true),
        Command::Matrix(args) => command::matrix::run(&io, args),
        Command::Diff(args) => command::diff::run(&io, args),
        Command::Exposure(args) => command::exposure::run(&io, args),
        Command::Lint(args) => command::lint::run(&io, args),
        Command::Replay(args) => command::replay::run(&io, args),
        Command::Migrate => command::migrate::run(&io),
        Command::Graph => command::graph::run(&io),
        Command::Snapshot(args) => command::snapshot::run(&io, args),
        Command::Inputs => command::inputs::run(&io),
        Command::Rule(args) => command::rule::run(&io, args),
        Command::Completions(args) => command::shell::completions(&io, args),
        Command::Generate(args) => command::generate::run(&io, args),
        Command::Test(args) => command::test::run(&io, args),
        Command::Names(args) => command::names::run(&io, args),
        Command::Man => command::shell::man(&io),
    }
}

/// Where a command's input comes from and its answer goes.
pub(crate) struct Io<'a> {
    pub(crate) input: &'a InputArgs,
    pub(crate) output: &'a OutputArgs,
}

impl Io<'_> {
    /// Reads the input and says what is wrong with it; `None` if nothing can be answered.
    pub(crate) fn load(&self) -> anyhow::Result<Option<World>> {
        let world = World::load(self.input)?;
        Ok(self.accept(world))
    }

    /// Says what is wrong with an input; `None` if nothing can be answered.
    pub(crate) fn accept(&self, world: World) -> Option<World> {
        render::diagnostics::input_problems(&world, self.output.quiet);
        (!world.is_unusable()).then_some(world)
    }

    /// The format, if it is one of the command's own, `F`: they are called as those of `-o` are.
    pub(crate) fn format<F: ValueEnum>(&self) -> Result<F, UsageError> {
        match &self.output.output {
            Output::Format(format) => {
                let wanted = args::value_name(format);
                F::from_str(&wanted, false).map_err(|_| {
                    let known: Vec<String> =
                        F::value_variants().iter().map(args::value_name).collect();
                    UsageError::new(format!("this command has no format `{wanted}`"))
                        .help(format!("it has {}", known.join(", ")))
                })
            }
            Output::File(path) => Err(UsageError::new(format!(
                "`{}` is no format",
                path.display()
            ))
            .help("--out FILE writes the answer to a file")),
        }
    }

    /// The line that ends answers for people, unless it is not wanted.
    pub(crate) fn scope(&self, world: &World) -> String {
        if self.output.quiet {
            return String::new();
        }
        format!("{}\n", world.scope())
    }

    /// Where the answer goes, for answers that are written piece by piece.
    pub(crate) fn sink(&self) -> anyhow::Result<Box<dyn Write>> {
        sink::open(self.output.out.as_deref())
    }

    /// Writes the answer.
    pub(crate) fn answer(&self, text: &str) -> anyhow::Result<()> {
        let mut out = self.sink()?;
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Writes an answer for people.
    pub(crate) fn prose(&self, text: &str) -> anyhow::Result<()> {
        self.answer(&render::plain::lines(text))
    }

    /// Writes the answer as one JSON document.
    pub(crate) fn json(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(value)?;
        text.push('\n');
        self.answer(&text)
    }

    /// Writes the answer as one JSON document a line.
    pub(crate) fn jsonl<T: serde::Serialize>(
        &self,
        items: impl IntoIterator<Item = T>,
    ) -> anyhow::Result<()> {
        let mut text = String::new();
        for item in items {
            text.push_str(&serde_json::to_string(&item)?);
            text.push('\n');
        }
        self.answer(&text)
    }

    /// Writes the answer as one YAML document.
    pub(crate) fn yaml(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        self.answer(&yaml::to_string(value)?)
    }
}
