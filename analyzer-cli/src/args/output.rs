// SPDX-License-Identifier: Apache-2.0
//! How does the answer look, and where does it go?

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How the answer looks. Accepted before and after the command.
#[derive(Args, Clone, Debug)]
pub struct OutputArgs {
    /// Format of the answer: text, wide, json, jsonl, yaml, csv, md, dot, svg, html, mermaid, sarif,
    /// junit, github; which ones make sense depends on the command. The file, for `snapshot`
    #[arg(long = "output", short = 'o', value_name = "FORMAT", value_parser = parse_output, default_value = "text", global = true, help_heading = "Output")]
    pub output: Output,
    /// Write the answer to a file
    #[arg(long, value_name = "FILE", global = true, help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// No scope line, no warnings; never hides that an answer is incomplete
    #[arg(long, short, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// What `-o` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A format.
    Format(Format),
    /// A file; only `snapshot` writes one.
    File(PathBuf),
}

fn parse_output(text: &str) -> Result<Output, String> {
    if let Ok(format) = Format::from_str(text, true) {
        return Ok(Output::Format(format));
    }
    if text.contains(['.', '/']) || text == "-" {
        return Ok(Output::File(text.into()));
    }
    let names: Vec<String> = Format::value_variants().iter().map(value_name).collect();
    Err(format!(
        "there is no such format; there are {}",
        names.join(", ")
    ))
}

impl OutputArgs {
    /// The format, unless `-o` names a file.
    pub fn format(&self) -> Option<Format> {
        match &self.output {
            Output::Format(format) => Some(*format),
            Output::File(_) => None,
        }
    }
}

/// What a value is called on the command line.
pub fn value_name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// Every output format. A command has formats of its own, called as some of these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For people with wide terminals.
    Wide,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// The JSON document as YAML.
    Yaml,
    /// Comma-separated values.
    Csv,
    /// Markdown.
    Md,
    /// Graphviz.
    Dot,
    /// A picture.
    Svg,
    /// A self-contained page.
    Html,
    /// A Mermaid flow chart.
    Mermaid,
    /// Static analysis results, for code scanning.
    Sarif,
    /// Test results.
    Junit,
    /// Annotations of a GitHub workflow.
    Github,
}

/// The formats of an answer that is a document and a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tabular {
    /// As [`Format::Text`].
    Text,
    /// As [`Format::Wide`].
    Wide,
    /// As [`Format::Json`].
    Json,
    /// As [`Format::Jsonl`].
    Jsonl,
    /// As [`Format::Yaml`].
    Yaml,
    /// As [`Format::Csv`].
    Csv,
    /// As [`Format::Md`].
    Md,
}

/// The format of an answer that is no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextOnly {
    /// As [`Format::Text`].
    Text,
}
