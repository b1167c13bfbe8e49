package io.outboxd.listener;

import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.Scope;
import io.opentelemetry.context.propagation.TextMapGetter;
import io.outboxd.LaterException;
import io.outboxd.Message;

/** Runs a handler in a span of the trace that the message carries. Without OpenTelemetry there is none. */
final class Tracing {
    private static final boolean IS_KNOWN = isKnown();

    private Tracing() {}

    static void run(Message message, Runnable work) {
        if (IS_KNOWN) {
            Spans.run(message, work);
        } else {
            work.run();
        }
    }

    private static boolean isKnown() {
        try {
            Class.forName("io.opentelemetry.api.GlobalOpenTelemetry", false, Tracing.class.getClassLoader());
            return true;
        } catch (ClassNotFoundException e) {
            return false;
        }
    }

    /** Is loaded only if OpenTelemetry is there. */
    private static final class Spans {
        private static final TextMapGetter<Message> HEADERS = new TextMapGetter<>() {
            @Override
            public Iterable<String> keys(Message message) {
                return message.headers().keySet();
            }

            @Override
            public String get(Message message, String name) {
                return message.header(name);
            }
        };

        static void run(Message message, Runnable work) {
            Context from = W3CTraceContextPropagator.getInstance().extract(Context.root(), message, HEADERS);
            Span span = GlobalOpenTelemetry.getTracer("io.outboxd")
                    .spanBuilder("process " + message.subject())
                    .setParent(from)
                    .setSpanKind(SpanKind.CONSUMER)
                    .setAttribute("messaging.system", "nats")
                    .setAttribute("messaging.operation.type", "process")
                    .setAttribute("messaging.destination.name", message.subject())
                    .setAttribute("messaging.message.id", message.id())
                    .startSpan();
            try (Scope scope = span.makeCurrent()) {
                work.run();
            } catch (LaterException e) {
                throw e; // no fault
            } catch (RuntimeException e) {
                span.recordException(e);
                span.setStatus(StatusCode.ERROR);
                throw e;
            } finally {
                span.end();
            }
        }
    }
}
