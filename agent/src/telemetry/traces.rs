// SPDX-License-Identifier: Apache-2.0
//! Spans for a collector that speaks OTLP over HTTP.

use std::env;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, Tracer},
};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// What spans are of, unless `OTEL_SERVICE_NAME` says otherwise.
const NAME: &str = "netpol-agent";

/// Either of these says where the collector is
/// (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// Sends spans until it is dropped, and what is left then.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "spans were lost");
        }
    }
}

/// Sends spans on, if the environment says where to.
pub(super) fn layer<S>() -> Option<(OpenTelemetryLayer<S, Tracer>, Traces)>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    ENDPOINTS.into_iter().find_map(env::var_os)?;
    let exporter = match SpanExporter::builder().with_http().build() {
        Ok(exporter) => exporter,
        Err(error) => {
            // Nobody listens to log lines yet.
            anstream::eprintln!("warning: spans are not sent: {error}");
            return None;
        }
    };
    let mut resource = Resource::builder();
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(NAME);
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(NAME));
    Some((layer, Traces(provider)))
}
