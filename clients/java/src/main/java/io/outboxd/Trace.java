package io.outboxd;

import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Collectors;

/** The span that the calling code is in, as the headers that W3C names. Without OpenTelemetry there is none. */
final class Trace {
    /** Whether the service has OpenTelemetry. */
    static final boolean IS_KNOWN = isKnown();

    private Trace() {}

    static Map<String, String> current() {
        return IS_KNOWN ? Current.headers() : Map.of();
    }

    private static boolean isKnown() {
        try {
            Class.forName("io.opentelemetry.api.trace.Span", false, Trace.class.getClassLoader());
            return true;
        } catch (ClassNotFoundException e) {
            return false;
        }
    }

    /** Is loaded only if OpenTelemetry is there. */
    private static final class Current {
        static Map<String, String> headers() {
            SpanContext span = Span.current().getSpanContext();
            if (!span.isValid()) {
                return Map.of();
            }
            Map<String, String> headers = new LinkedHashMap<>();
            String flags = span.isSampled() ? "01" : "00";
            headers.put("traceparent", "00-" + span.getTraceId() + "-" + span.getSpanId() + "-" + flags);
            String state = span.getTraceState().asMap().entrySet().stream()
                    .map(entry -> entry.getKey() + "=" + entry.getValue())
                    .collect(Collectors.joining(","));
            if (!state.isEmpty()) {
                headers.put("tracestate", state);
            }
            return headers;
        }
    }
}
