// SPDX-License-Identifier: Apache-2.0
//! What does a bar chart look like?

use std::fmt::Write as _;

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// Whether it is this project's.
    pub(crate) is_ours: bool,
}

/// How long bars are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// In proportion to their values; values below zero have no length.
    Linear,
    /// In proportion to the logarithms of their values, which are above zero.
    Logarithmic,
}

const WIDTH: f64 = 860.0;
const LABELS: f64 = 260.0;
const NUMBERS: f64 = 90.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 44.0;
const OURS: &str = "#0b6e4f";
const OTHERS: &str = "#9aa5b1";

/// A chart of horizontal bars, as SVG. The same bars make the same bytes.
pub(crate) fn bars(title: &str, unit: &str, scale: Scale, bars: &[Bar]) -> String {
    let rows = u32::try_from(bars.len()).unwrap_or(u32::MAX);
    let height = HEAD + ROW * f64::from(rows) + 8.0;
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let least = bars.iter().map(|bar| bar.value).fold(most, f64::min);
    let floor = 10_f64.powf(least.max(f64::MIN_POSITIVE).log10().floor());
    let share = |value: f64| match scale {
        Scale::Linear if most > 0.0 => (value / most).max(0.0),
        Scale::Logarithmic if most > floor => {
            (value / floor).log10().max(0.0) / (most / floor).log10()
        }
        Scale::Linear | Scale::Logarithmic => 0.0,
    };
    let note = match scale {
        Scale::Linear => unit.to_owned(),
        Scale::Logarithmic => format!("{unit}, logarithmic from {}", number(floor)),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" role=\"img\" aria-label=\"{title}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n\
         <text x=\"{}\" y=\"22\" text-anchor=\"end\" fill=\"#555555\">{note}</text>\n",
        WIDTH - 12.0,
        title = escaped(title),
        note = escaped(&note),
    );
    let mut top = HEAD;
    for bar in bars {
        let length = share(bar.value) * (WIDTH - LABELS - NUMBERS);
        let colour = if bar.is_ours { OURS } else { OTHERS };
        let baseline = top + 15.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{}\" width=\"{length:.1}\" height=\"16\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{baseline}\">{}</text>",
            LABELS - 8.0,
            escaped(&bar.label),
            top + 2.0,
            LABELS + length + 6.0,
            number(bar.value),
        );
        top += ROW;
    }
    svg += "</svg>\n";
    svg
}

/// Three digits that count, without an exponent.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    // Rounded to nothing, the sign says nothing.
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        _ => text,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
