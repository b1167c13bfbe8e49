package outbox

import (
	"context"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.opentelemetry.io/otel/trace"
)

// withTrace adds the span of ctx to headers that name none, as W3C writes it. Headers too full for
// it stay as they are: a trace is no reason to refuse an event.
func withTrace(ctx context.Context, headers bson.D) bson.D {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() || hasHeader(headers, "traceparent") {
		return headers
	}

	flags := span.TraceFlags() & trace.FlagsSampled
	parent := "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + flags.String()
	if checkHeader(headers, "traceparent", parent) != "" {
		return headers
	}
	headers = append(headers, bson.E{Key: "traceparent", Value: parent})

	state := span.TraceState().String()
	if state != "" && checkHeader(headers, "tracestate", state) == "" {
		headers = append(headers, bson.E{Key: "tracestate", Value: state})
	}
	return headers
}

func hasHeader(headers bson.D, name string) bool {
	for _, header := range headers {
		if strings.EqualFold(header.Key, name) {
			return true
		}
	}
	return false
}
