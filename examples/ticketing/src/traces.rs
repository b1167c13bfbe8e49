//! Exports the service's spans over OTLP. Off unless the environment names a collector, in
//! OpenTelemetry's own variables (`OTEL_…`).

use std::sync::OnceLock;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::failure::Failure;

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Starts exporting spans if `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`
/// is set. `service` is the service's name unless `OTEL_SERVICE_NAME` is set, `instance` the
/// process's.
///
/// # Errors
/// When the exporter refuses the settings.
pub fn start(service: &'static str, instance: &str) -> Result<(), Failure> {
    let given = |name: &str| std::env::var(name).is_ok_and(|text| !text.is_empty());
    if !given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") && !given("OTEL_EXPORTER_OTLP_ENDPOINT") {
        return Ok(());
    }

    // The exporter's HTTP client has TLS compiled in; an error only means that one is chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = SpanExporter::builder().with_http().build()?;

    let instance = KeyValue::new("service.instance.id", instance.to_owned());
    let mut resource = Resource::builder().with_attribute(instance);
    if !given("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name(service);
    }

    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build();
    // The listener's spans.
    opentelemetry::global::set_tracer_provider(provider.clone());
    let _ = PROVIDER.set(provider);

    Ok(())
}

/// The tracer, if spans are exported.
pub fn tracer() -> Option<SdkTracer> {
    PROVIDER.get().map(|provider| provider.tracer("ticketing"))
}

/// Sends the spans that still wait; takes a few seconds at most.
pub async fn stop() {
    if let Some(provider) = PROVIDER.get() {
        let done = tokio::task::spawn_blocking(|| provider.shutdown()).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "some spans were not sent");
        }
    }
}

/// The span that headers carry, and nothing else.
pub fn remote<H: Extractor>(headers: &H) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), headers)
}
