//! Traces, as OTLP over HTTP. Off unless the environment names a collector, in OpenTelemetry's own
//! words: `OTEL_…` says where to, which of the traces, and as whom; OpenTelemetry's SDK reads it.
//!
//! The relay adds one producer span for each publish of an event. It is a child of the span that
//! wrote the event, which the event carries in its `traceparent` header and which reaches the
//! consumer unchanged: the trace goes from the request that wrote the record over the relay to
//! whoever consumes. An event that carries none gets the relay's own span instead.
//!
//! Spans wait in a queue of bounded length and are sent by a thread of their own. When the
//! collector is slow or away they are dropped; no event ever waits for it.

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

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Begins to export spans if the environment says where to: `OTEL_EXPORTER_OTLP_ENDPOINT`, or
/// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`. `service` is the service's name unless `OTEL_SERVICE_NAME`
/// says otherwise, `instance` the process's.
///
/// # Errors
/// [`ErrorKind::Config`] when it says so in a way that can't be followed.
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
                "environment {name}: {protocol:?} is not spoken here; give \"http/protobuf\", and the port the collector has \
                 for it (4318 as a rule)"
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

/// What makes spans, if they are exported.
pub(crate) fn tracer() -> Option<SdkTracer> {
    PROVIDER.get().map(|provider| provider.tracer("outboxd"))
}

/// Sends the spans that still wait; for a few seconds at most.
pub(crate) async fn stop() {
    if let Some(provider) = PROVIDER.get() {
        let done = tokio::task::spawn_blocking(|| provider.shutdown()).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "not every span was sent");
        }
    }
}

/// The span that headers carry, and nothing else.
pub(crate) fn remote<H: Extractor>(headers: &H) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), headers)
}
