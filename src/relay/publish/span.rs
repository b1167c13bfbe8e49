//! The producer span of one publish. Its parent is the span that wrote the event.

use opentelemetry::KeyValue;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use outboxd_client::Headers;
use outboxd_client::trace::carry;

use super::burst::Member;
use super::outcome::Outcome;
use crate::document::record::OutboxRecord;
use crate::telemetry::traces::remote;

/// An event's headers, as OpenTelemetry reads them.
struct Carrier<'a>(&'a Headers);

impl Extractor for Carrier<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}

/// The span of one event's publish, from the first try to the last.
#[derive(Debug)]
pub(crate) struct Publishing(Span);

impl Publishing {
    /// Begins a span. It is named after the stream, because a subject may contain ids. Writes its
    /// trace into the headers of an event that has none.
    pub(crate) fn begin(
        tracer: &SdkTracer,
        stream: &str,
        record: &mut OutboxRecord,
        bytes: usize,
    ) -> Self {
        let attributes = [
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", record.subject.as_str().to_owned()),
            KeyValue::new("messaging.message.id", record.id.to_string()),
            KeyValue::new("messaging.message.body.size", i64::try_from(bytes).unwrap_or(i64::MAX)),
            KeyValue::new("outboxd.attempts", i64::from(record.attempts)),
        ];

        let span = tracer
            .span_builder(format!("publish {stream}"))
            .with_kind(SpanKind::Producer)
            .with_attributes(attributes)
            .start_with_context(tracer, &remote(&Carrier(&record.headers)));
        carry(&mut record.headers, span.span_context());
        Self(span)
    }

    pub(super) fn end(self, member: &Member) {
        let Self(mut span) = self;
        let outcome = match member {
            Member::Ended(outcome) => outcome,
            Member::Back => {
                span.set_attribute(KeyValue::new("outboxd.given_back", true));
                return span.end();
            }
        };

        match outcome {
            Outcome::Acked(acked) if acked.duplicate => {
                span.set_attribute(KeyValue::new("outboxd.duplicate", true))
            }
            Outcome::Acked(_) => {}
            Outcome::Rejected(rejection) => {
                span.set_attribute(KeyValue::new("error.type", rejection.code.to_string()));
                span.set_status(Status::error(rejection.error.to_string()));
            }
            Outcome::Abandoned => {
                span.set_attribute(KeyValue::new("error.type", "abandoned"));
                span.set_status(Status::error("the relay stops; the event stays in the outbox"));
            }
        }

        span.end();
    }
}
