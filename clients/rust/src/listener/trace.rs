//! A message's trace goes on in what its handler does: the handler runs in a span whose parent is
//! the one that the message names, and events that it enqueues carry that span.

use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer,
};
use opentelemetry::{Context, KeyValue, global};

use crate::message::Message;
use crate::trace::{TRACEPARENT, TRACESTATE};

/// Runs `work` in a span of its own, in the trace of whoever caused the message. Without a tracer,
/// the span that the message names is the current one.
pub(super) async fn within<T>(message: &Message, work: impl Future<Output = T>) -> T {
    let parent = match parent(message) {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    };

    let tracer = global::tracer("outboxd-client");
    let mut attributes = vec![
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", message.subject.clone()),
        KeyValue::new("messaging.consumer.group.name", message.group.clone()),
    ];
    attributes.extend(message.id.clone().map(|id| KeyValue::new("messaging.message.id", id)));

    let span = tracer
        .span_builder(format!("process {}", message.subject))
        .with_kind(SpanKind::Consumer)
        .with_attributes(attributes)
        .start_with_context(&tracer, &parent);
    work.with_context(parent.with_span(span)).await
}

/// The span that the headers name, if they name one as W3C writes it.
fn parent(message: &Message) -> Option<SpanContext> {
    let mut parts = message.header(TRACEPARENT)?.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);

    let is_hex = |text: &str, len| {
        text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_known = version != "ff" && (version != "00" || parts.next().is_none());
    if !is_known
        || !is_hex(version, 2)
        || !is_hex(trace, 32)
        || !is_hex(span, 16)
        || !is_hex(flags, 2)
    {
        return None;
    }

    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = message.header(TRACESTATE).and_then(|state| state.parse::<TraceState>().ok());
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        state.unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn message(traceparent: &str) -> Message {
        let mut message = Message::new("orders", "shop.outbox.1", "ticket.created", "{}");
        message.headers.push(("Traceparent".to_owned(), traceparent.to_owned()));
        message
    }

    #[test]
    fn a_span_is_read_as_w3c_writes_it_and_anything_else_is_no_span() {
        let span = parent(&message(&format!("00-{TRACE}-00f067aa0ba902b7-01"))).expect("a span");
        assert_eq!(span.trace_id().to_string(), TRACE);
        assert!(span.is_sampled() && span.is_remote());

        let wrong = [
            "".to_owned(),
            "not a trace".to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
        ];
        for text in wrong {
            assert_eq!(parent(&message(&text)), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_a_handler_enqueues_carries_the_trace_of_its_message() {
        let message = message(&format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let carried = within(&message, async {
            tokio::task::yield_now().await;
            crate::trace::current()
        });
        assert_eq!(carried.await.trace_id().to_string(), TRACE);
        assert!(!crate::trace::current().is_valid());
    }
}
