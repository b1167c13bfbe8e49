//! The trace that an event belongs to, in its headers as W3C writes it (`traceparent`,
//! `tracestate`).

use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry::{Context, TraceFlags};

use crate::event::Headers;

/// The W3C header that names a trace and the span within it.
pub const TRACEPARENT: &str = "traceparent";
/// The W3C header with what tracing systems add to `traceparent`.
pub const TRACESTATE: &str = "tracestate";

/// The span that the calling code is in, if any.
pub fn current() -> SpanContext {
    Context::current().span().span_context().clone()
}

/// Writes a span into headers that name none. Headers too full for it stay as they are: a trace is
/// no reason to refuse an event.
pub fn carry(headers: &mut Headers, span: &SpanContext) {
    if !span.is_valid() || headers.get(TRACEPARENT).is_some() {
        return;
    }

    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    let traceparent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), flags);

    if headers.insert(TRACEPARENT, &traceparent).is_ok() && headers.get(TRACESTATE).is_none() {
        let state = span.trace_state().header();
        if !state.is_empty() {
            let _ = headers.insert(TRACESTATE, &state);
        }
    }
}
