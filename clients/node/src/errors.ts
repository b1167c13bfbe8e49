// Why an event was not written.

/** What was wrong: the part of the event, or how the outbox was called. */
export type OutboxErrorCode =
  | 'transaction'
  | 'subject'
  | 'key'
  | 'id'
  | 'header'
  | 'payload'
  | 'too-long'
  | 'deliver-at'
  | 'validator';

/**
 * The outbox refused an event, or was called outside a transaction. Nothing was written. The error
 * has none of the driver's labels, so `withTransaction` aborts and does not run the body again.
 */
export class OutboxError extends Error {
  override readonly name = 'OutboxError';

  constructor(
    readonly code: OutboxErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** What the validator of the collection demands, or undefined if `error` is another error. */
export function validatorReasons(error: unknown): string | undefined {
  const failed = error as { code?: unknown; errInfo?: unknown; writeErrors?: unknown };
  if (failed?.code !== 121) return undefined;

  const first = Array.isArray(failed.writeErrors) ? failed.writeErrors[0] : undefined;
  const info = failed.errInfo ?? first?.errInfo ?? first?.err?.errInfo;
  const reasons = new Set<string>();
  collect(info, reasons);
  return reasons.size > 0 ? [...reasons].join('; ') : 'it gave no reason';
}

/** Walks `errInfo`, which nests operators, properties and items in each other. */
function collect(part: unknown, reasons: Set<string>): void {
  if (Array.isArray(part)) {
    for (const item of part) collect(item, reasons);
    return;
  }
  if (typeof part !== 'object' || part === null) return;

  const detail = part as Record<string, any>;
  // The rules that a schema can't express end in `{ $not: ["the rule in words"] }`.
  const words = detail['specifiedAs']?.$expr?.$cond?.[2]?.$not?.[0];
  if (typeof words === 'string') reasons.add(words);
  if (typeof detail['propertyName'] === 'string') {
    const description = detail['description'] ?? 'it breaks the schema';
    reasons.add(`${detail['propertyName']}: ${description}`);
  }
  for (const name of (detail['missingProperties'] as string[] | undefined) ?? []) {
    reasons.add(`${name} is missing`);
  }
  for (const name of (detail['additionalProperties'] as string[] | undefined) ?? []) {
    reasons.add(`${name} is not allowed`);
  }
  for (const [name, value] of Object.entries(detail)) {
    if (name !== 'specifiedAs' && name !== 'consideredValue') collect(value, reasons);
  }
}
