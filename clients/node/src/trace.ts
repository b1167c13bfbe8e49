// The trace that an event belongs to, in the headers `traceparent` and `tracestate` (W3C).
//
// OpenTelemetry is optional: without `@opentelemetry/api` nothing is written and nothing continued.
import type * as Otel from '@opentelemetry/api';

let loading: Promise<typeof Otel | undefined> | undefined;

function otel(): Promise<typeof Otel | undefined> {
  loading ??= import('@opentelemetry/api').catch(() => undefined);
  return loading;
}

/** The span that the calling code is in, as headers. */
export async function currentTrace(): Promise<Record<string, string>> {
  const api = await otel();
  const span = api?.trace.getSpanContext(api.context.active());
  if (!api || !span || !api.isSpanContextValid(span)) return {};

  const flags = (span.traceFlags & api.TraceFlags.SAMPLED).toString(16).padStart(2, '0');
  const headers: Record<string, string> = {
    traceparent: `00-${span.traceId}-${span.spanId}-${flags}`,
  };
  const state = span.traceState?.serialize();
  if (state) headers['tracestate'] = state;
  return headers;
}

/** Runs `work` in a span of its own, in the trace that the message carries. */
export async function inTrace<T>(
  message: { subject: string; headers: Record<string, string> },
  work: () => Promise<T>,
): Promise<T> {
  const api = await otel();
  if (!api) return work();

  const remote = parse(api, message.headers);
  const from = remote ? api.trace.setSpanContext(api.ROOT_CONTEXT, remote) : api.ROOT_CONTEXT;
  const attributes = {
    'messaging.system': 'nats',
    'messaging.operation.type': 'process',
    'messaging.destination.name': message.subject,
  };
  const options = { kind: api.SpanKind.CONSUMER, attributes };
  const tracer = api.trace.getTracer('outboxd-client');
  return tracer.startActiveSpan(`process ${message.subject}`, options, from, async (span) => {
    try {
      return await work();
    } catch (error) {
      span.recordException(error as Error);
      span.setStatus({ code: api.SpanStatusCode.ERROR });
      throw error;
    } finally {
      span.end();
    }
  });
}

function parse(api: typeof Otel, headers: Record<string, string>): Otel.SpanContext | undefined {
  const parent = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-|$)/.exec(headers['traceparent'] ?? '');
  if (!parent || parent[1] === 'ff') return undefined;

  const span: Otel.SpanContext = {
    traceId: parent[2]!,
    spanId: parent[3]!,
    traceFlags: Number.parseInt(parent[4]!, 16) & api.TraceFlags.SAMPLED,
    isRemote: true,
  };
  if (headers['tracestate']) span.traceState = api.createTraceState(headers['tracestate']);
  return api.isSpanContextValid(span) ? span : undefined;
}
