// SPDX-License-Identifier: Apache-2.0
//! What does the connectivity look like? `graph`.

mod report;

use std::fmt::Write as _;

use clap::ValueEnum;

use super::matrix::Matrix;
use crate::{
    Io,
    exit::ExitStatus,
    flow::{PortQuery, is_all, is_nothing, spell_ports},
    render::{
        plain,
        table::{brief, escape_xml},
    },
};

/// Runs `graph`: workloads that policies cannot tell apart are one node.
pub fn run(io: &Io<'_>) -> anyhow::Result<ExitStatus> {
    let format: Format = io.format()?;
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let evaluator = world.evaluator();
    let matrix = || Matrix::new(&evaluator, &PortQuery::All, true);
    let picture =
        Picture::of(&matrix().merged(|endpoint| super::matrix::workload_of(&world, endpoint)));
    io.answer(&match format {
        Format::Mermaid => picture.mermaid(),
        Format::Svg => picture.svg(),
        Format::Html => {
            let small = |picture: &Picture| picture.edges.len() <= MOST_EDGES;
            let shown = if small(&picture) {
                Some((picture.svg(), false))
            } else {
                let of_namespaces = Picture::of(&matrix().merged(super::matrix::namespace_of));
                small(&of_namespaces).then(|| (of_namespaces.svg(), true))
            };
            let shown = shown.map(|(svg, by_namespace)| report::Shown { svg, by_namespace });
            report::page(&world, &evaluator, shown)?
        }
        Format::Text | Format::Dot => picture.dot(),
    })?;
    let unknown = picture.edges.iter().any(|edge| edge.unknown);
    let known = if unknown {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    };
    Ok(known.max(world.status()))
}

/// Arrows that a reader, and a browser, can still follow.
const MOST_EDGES: usize = 3_000;

/// The formats of a picture: text is Graphviz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Dot,
    Mermaid,
    Svg,
    Html,
}

struct Picture {
    nodes: Vec<String>,
    edges: Vec<Edge>,
}

struct Edge {
    from: usize,
    to: usize,
    label: String,
    /// Something gets through for some members or families only.
    partial: bool,
    unknown: bool,
}

impl Picture {
    fn of(matrix: &Matrix) -> Self {
        let nodes = matrix
            .classes
            .iter()
            .map(|class| match class.members.as_slice() {
                [ranges] if class.external => brief(ranges),
                [a, b, c, rest @ ..] if rest.len() > 1 => {
                    format!("{a}\n{b}\n{c}\nand {} more", rest.len())
                }
                members => members.join("\n"),
            });
        let mut edges = Vec::new();
        for (from, to, cell) in matrix.cells() {
            let allowed = matrix.set(cell.allowed);
            let sometimes = matrix.set(cell.sometimes);
            let unknown = matrix.set(cell.unknown);
            let shown = allowed.union(&sometimes).union(&unknown);
            if from == to || is_nothing(&shown) {
                continue;
            }
            edges.push(Edge {
                from,
                to,
                label: if is_all(&shown) {
                    "all".to_owned()
                } else {
                    spell_ports(&shown)
                },
                partial: !is_nothing(&sometimes),
                unknown: !is_nothing(&unknown),
            });
        }
        Self {
            nodes: nodes.collect(),
            edges,
        }
    }

    fn dot(&self) -> String {
        let quoted = |text: &str| {
            plain::lines(text)
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        };
        let mut text = String::from(
            "digraph policies {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n",
        );
        for (id, node) in self.nodes.iter().enumerate() {
            let _ = writeln!(text, "  n{id} [label=\"{}\"];", quoted(node));
        }
        for edge in &self.edges {
            let style = if edge.unknown {
                ", style=dotted"
            } else if edge.partial {
                ", style=dashed"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "  n{} -> n{} [label=\"{}\"{style}];",
                edge.from,
                edge.to,
                quoted(&edge.label)
            );
        }
        text.push_str("}\n");
        text
    }

    fn mermaid(&self) -> String {
        let quoted = |text: &str| {
            plain::lines(text)
                .replace('"', "#quot;")
                .replace('\n', "<br/>")
        };
        let mut text = String::from("flowchart LR\n");
        for (id, node) in self.nodes.iter().enumerate() {
            let _ = writeln!(text, "  n{id}[\"{}\"]", quoted(node));
        }
        for edge in &self.edges {
            let arrow = if edge.unknown || edge.partial {
                "-.->"
            } else {
                "-->"
            };
            let _ = writeln!(
                text,
                "  n{} {arrow}|\"{}\"| n{}",
                edge.from,
                quoted(&edge.label),
                edge.to
            );
        }
        text
    }

    /// Nodes on a circle, which needs no layout program and shows who has many connections.
    fn svg(&self) -> String {
        let count = self.nodes.len().max(1);
        #[expect(
            clippy::cast_precision_loss,
            reason = "pictures of billions of nodes help nobody"
        )]
        let (count, radius) = (count as f64, 120.0 + 28.0 * count as f64);
        let center = radius + 160.0;
        let place = |id: usize| {
            #[expect(clippy::cast_precision_loss, reason = "as above")]
            let angle = std::f64::consts::TAU * id as f64 / count;
            (center + radius * angle.cos(), center + radius * angle.sin())
        };
        let side = 2.0 * center;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side:.0} {side:.0}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"connectivity\">\n\
             <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#456\"/></marker></defs>\n"
        );
        for edge in &self.edges {
            let ((x1, y1), (x2, y2)) = (place(edge.from), place(edge.to));
            // Shortened, so that arrow heads stay outside the boxes; bent, so that both ways are seen.
            let (dx, dy) = (x2 - x1, y2 - y1);
            let length = (dx * dx + dy * dy).sqrt().max(1.0);
            let (ex, ey) = (x2 - dx / length * 46.0, y2 - dy / length * 30.0);
            let (cx, cy) = (
                f64::midpoint(x1, x2) - dy * 0.12,
                f64::midpoint(y1, y2) + dx * 0.12,
            );
            let dash = if edge.unknown {
                " stroke-dasharray=\"2 4\""
            } else if edge.partial {
                " stroke-dasharray=\"6 4\""
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "<path d=\"M{x1:.0} {y1:.0}Q{cx:.0} {cy:.0} {ex:.0} {ey:.0}\" fill=\"none\" stroke=\"#456\" stroke-opacity=\"0.6\" marker-end=\"url(#arrow)\"{dash}><title>{}</title></path>",
                escape_xml(&edge.label)
            );
        }
        for (id, node) in self.nodes.iter().enumerate() {
            let (x, y) = place(id);
            let lines: Vec<&str> = node.lines().collect();
            let widest = lines
                .iter()
                .map(|line| line.chars().count())
                .max()
                .unwrap_or_default();
            #[expect(clippy::cast_precision_loss, reason = "names are short")]
            let (width, height) = (widest as f64 * 7.2 + 16.0, lines.len() as f64 * 15.0 + 10.0);
            let (left, top) = (x - width / 2.0, y - height / 2.0);
            let _ = writeln!(
                text,
                "<rect x=\"{left:.0}\" y=\"{top:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"4\" fill=\"#fff\" stroke=\"#234\"/>"
            );
            for (number, line) in lines.iter().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "names are short")]
                let baseline = top + 17.0 + number as f64 * 15.0;
                let _ = writeln!(
                    text,
                    "<text x=\"{x:.0}\" y=\"{baseline:.0}\" text-anchor=\"middle\">{}</text>",
                    escape_xml(line)
                );
            }
        }
        text.push_str("</svg>\n");
        text
    }
}
