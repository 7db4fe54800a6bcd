// SPDX-License-Identifier: Apache-2.0
//! Where do log lines and spans go, and in which shape?

#[cfg(feature = "opentelemetry")]
mod traces;

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Keeps telemetry going. Dropping it sends what is still to be sent.
#[derive(Debug)]
#[must_use]
pub struct Telemetry {
    #[cfg(feature = "opentelemetry")]
    _traces: Option<traces::Traces>,
}

/// Sends log lines to standard error, filtered by `filter` (the syntax of `RUST_LOG`).
///
/// Built with the feature `opentelemetry`, it also sends spans to where `OTEL_EXPORTER_OTLP_ENDPOINT`
/// says, if that is set.
///
/// A second call in one process changes nothing, so tests may call it freely.
pub fn init(format: LogFormat, filter: &str) -> Telemetry {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let lines = match format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text => lines.with_target(false).boxed(),
    };
    let registry = tracing_subscriber::registry().with(filter).with(lines);
    #[cfg(feature = "opentelemetry")]
    {
        let (layer, traces) = traces::layer().unzip();
        let _ = registry.with(layer).try_init();
        Telemetry { _traces: traces }
    }
    #[cfg(not(feature = "opentelemetry"))]
    {
        let _ = registry.try_init();
        Telemetry {}
    }
}
