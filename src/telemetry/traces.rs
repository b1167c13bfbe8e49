//! Traces, as OTLP over HTTP. Off unless the environment names a collector, in OpenTelemetry's own
//! variables: `OTEL_…` sets the address, the sampling and the service's name, and OpenTelemetry's
//! SDK reads them.
//!
//! The relay adds one producer span for each publish of an event. Its parent is the span that wrote
//! the event. The event carries that parent in its `traceparent` header, which reaches the consumer
//! unchanged, so one trace leads from the request that wrote the record through the relay to the
//! consumer. An event without the header gets the relay's own span instead.
//!
//! Spans wait in a bounded queue, and a thread of their own sends them. When the collector is slow
//! or unreachable, spans are dropped; no event ever waits for it.

use std::sync::OnceLock;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::choose_tls;
use crate::error::{Error, ErrorKind, Result};

/// The exporter of the process. It is global because the environment that configures it is: every
/// outbox of a daemon exports to one collector, as one service.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Starts to export spans if the environment names a collector: `OTEL_EXPORTER_OTLP_ENDPOINT`, or
/// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`. `service` is the service's name unless `OTEL_SERVICE_NAME`
/// sets another, `instance` the name of the process.
///
/// # Errors
/// [`ErrorKind::Config`] when a variable has a value that outboxd does not support.
pub(crate) fn start(service: &'static str, instance: &str) -> Result<()> {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find_map(given);
    let disabled = given("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"))
        || given("OTEL_TRACES_EXPORTER").is_some_and(|text| text == "none");

    if endpoint.is_none() || disabled {
        return Ok(());
    }

    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        if let Some(protocol) = given(name).filter(|protocol| protocol != "http/protobuf") {
            let message = format!(
                "environment {name}: {protocol:?} is not supported; give \"http/protobuf\", and \
                 the collector's port for it (usually 4318)"
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
    }

    choose_tls();
    let exporter = SpanExporter::builder().with_http().build().map_err(|error| {
        Error::with_source(ErrorKind::Config, "environment OTEL_EXPORTER_OTLP_…", error)
    })?;

    let mut resource = Resource::builder()
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let named = |text: String| text.contains("service.name=");
    if given("OTEL_SERVICE_NAME").is_none() && !given("OTEL_RESOURCE_ATTRIBUTES").is_some_and(named)
    {
        resource = resource.with_service_name(service);
    }

    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build();
    let _ = PROVIDER.set(provider);
    Ok(())
}

/// Makes spans, if they are exported.
pub(crate) fn tracer() -> Option<SdkTracer> {
    PROVIDER.get().map(|provider| provider.tracer("outboxd"))
}

/// Sends the queued spans, for a few seconds at most.
pub(crate) async fn stop() {
    if let Some(provider) = PROVIDER.get() {
        let done = tokio::task::spawn_blocking(|| provider.shutdown()).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "some spans were not sent");
        }
    }
}

/// The span in these headers, without the spans of this process.
pub(crate) fn remote<H: Extractor>(headers: &H) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), headers)
}
