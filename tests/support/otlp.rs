//! What takes traces: an OTLP receiver over HTTP on loopback, as a collector has one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message as _;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// `service.name`
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// 2 for an error.
    pub(crate) status: i32,
    pub(crate) took: Duration,
    attributes: Vec<KeyValue>,
}

impl Span {
    /// The attribute of this name, as text.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        text(&self.attributes, name)
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let collector = Self { url: format!("http://{address}"), spans: Arc::default() };
        let router =
            axum::Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    /// What makes a process export to it, soon.
    pub(crate) fn env(&self) -> [(&str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url), ("OTEL_BSP_SCHEDULE_DELAY", "100")]
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("no panic while it was held").clone()
    }

    /// The span of this service and trace with this name, if it has arrived.
    pub(crate) fn span(&self, service: &str, trace: &str, name: &str) -> Option<Span> {
        self.spans()
            .into_iter()
            .find(|span| span.service == service && span.trace == trace && span.name == name)
    }
}

async fn take(State(collector): State<Collector>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut spans = collector.spans.lock().expect("no panic while it was held");
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = text(&resource, "service.name").unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.clone(),
                name: span.name,
                kind: span.kind,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                status: span.status.map_or(0, |status| status.code),
                took: Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano),
                attributes: span.attributes,
            });
        }
    }
    StatusCode::OK
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        any_value::Value::BoolValue(flag) => Some(flag.to_string()),
        other => panic!("an attribute of a kind the tests don't know: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
