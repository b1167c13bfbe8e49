"""The trace that an event belongs to, in the headers ``traceparent`` and ``tracestate`` (W3C).

OpenTelemetry is optional: without ``opentelemetry-api`` nothing is written and nothing continued.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

try:
    from opentelemetry import trace as _api
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # pragma: no cover - depends on what is installed
    AVAILABLE = False
else:
    AVAILABLE = True


def current_trace() -> dict[str, str]:
    """The span that the calling code is in, as headers."""
    headers: dict[str, str] = {}
    if AVAILABLE:
        TraceContextTextMapPropagator().inject(headers)
    return headers


@contextmanager
def in_trace(subject: str, message_id: str, headers: Mapping[str, str]) -> Iterator[None]:
    """A span for the work on a message, in the trace that the message carries."""
    if not AVAILABLE:
        yield
        return

    parent = TraceContextTextMapPropagator().extract(headers, Context())
    attributes = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.destination.name": subject,
        "messaging.message.id": message_id,
    }
    tracer = _api.get_tracer("outboxd-client")
    kind = _api.SpanKind.CONSUMER
    with tracer.start_as_current_span(f"process {subject}", parent, kind, attributes):
        yield
