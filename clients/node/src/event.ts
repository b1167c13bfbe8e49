// What a service hands to the outbox, and the document that it becomes.
import { OutboxError } from './errors.js';
import { checkPayload, isWellFormed } from './payload.js';

/** Longest subject, key and string id, in bytes. */
export const MAX_NAME_BYTES = 255;
/** Most headers of an event. */
export const MAX_HEADERS = 64;
/** Most bytes of all names and values of headers. */
export const MAX_HEADER_BYTES = 32 * 1024;

/** An ObjectId of whichever version of the driver. */
export interface ObjectIdLike {
  toHexString(): string;
}

/** The id of an event: an ObjectId, a UUID or a string of printable ASCII. */
export type EventId = ObjectIdLike | string;

/** A map from subjects to the types of their payloads. */
export type EventMap = Record<string, any>;

/** An event on its way into the outbox. */
export interface OutboxEvent<Events extends EventMap = EventMap, S extends keyof Events = keyof Events> {
  /** Where the event is published: tokens of printable ASCII, joined by dots. */
  subject: S & string;
  /**
   * The id of the record that the event is about. Events of one key are published in order. Leave
   * the field out for an event without order; `undefined` and `null` are refused.
   */
  key?: string | ObjectIdLike;
  /** A document or an array, published as JSON, or a string or binary, published byte for byte. */
  payload: Events[S];
  /** NATS headers. One that is null or undefined is left out. */
  headers?: Record<string, string | null | undefined>;
  /** The id of the event; a new ObjectId if left out. It names one event, for ever. */
  id?: EventId;
}

/** An event with one of the subjects of `Events` and the payload of that subject. */
export type AnyEvent<Events extends EventMap> = {
  [S in keyof Events & string]: OutboxEvent<Events, S>;
}[keyof Events & string];

/** The types of the driver in use. */
export interface BsonTypes {
  ObjectId: new () => ObjectIdLike;
  Timestamp: new (value: { t: number; i: number }) => object;
}

/** Makes the document of an event; everything that the contract refuses is refused here. */
export function toDocument(
  event: OutboxEvent,
  bson: BsonTypes,
  trace: Record<string, string>,
  maxPayloadBytes: number,
): Record<string, unknown> {
  if (typeof event !== 'object' || event === null) {
    throw new OutboxError('payload', 'an event is an object with subject, key and payload');
  }
  const ts = new bson.Timestamp({ t: 0, i: 0 });
  const bsonVersion = (ts as Record<symbol, unknown>)[Symbol.for('@@mdb.bson.version')];
  const document: Record<string, unknown> = {
    _id: 'id' in event ? checkId(event.id) : new bson.ObjectId(),
    // The server fills an empty Timestamp with its cluster time: the order within a key.
    ts,
    subject: checkSubject(event.subject),
  };
  if ('key' in event) document['key'] = checkKey(event.key);

  const { value, bytes } = checkPayload(event.payload, bsonVersion);
  if (bytes > maxPayloadBytes) {
    throw new OutboxError(
      'too-long',
      `payload of ${bytes} bytes is over the limit of ${maxPayloadBytes}; store the content ` +
        'elsewhere and publish a reference',
    );
  }
  document['payload'] = value;

  const headers = withTrace(checkHeaders(event.headers), trace);
  if (Object.keys(headers).length > 0) document['headers'] = headers;
  document['isLocked'] = true;
  document['failures'] = [];
  return document;
}

function checkSubject(subject: unknown): string {
  const refuse = (reason: string) => new OutboxError('subject', `invalid subject: ${reason}`);
  if (typeof subject !== 'string') throw refuse(`it is ${subject === null ? 'null' : typeof subject}, not text`);
  if (subject === '') throw refuse('it is empty');
  if (Buffer.byteLength(subject) > MAX_NAME_BYTES) throw refuse('it is longer than 255 bytes');
  if (/[*>]/.test(subject)) throw refuse('wildcards are for subscribers');
  if (!/^[!-~]+$/.test(subject)) throw refuse('only printable ASCII without spaces is allowed');
  if (subject.split('.').includes('')) throw refuse('it has an empty token');
  if (subject.startsWith('$')) throw refuse('subjects that begin with `$` belong to the server');
  if (/^_INBOX(\.|$)/.test(subject)) throw refuse('`_INBOX` belongs to replies');
  return subject;
}

function checkKey(key: unknown): string {
  const refuse = (reason: string) => new OutboxError('key', `invalid key: ${reason}`);
  if (key === undefined || key === null) {
    throw refuse(`it is ${key}; leave the key out for an event without order`);
  }
  const text = idText(key);
  if (text === undefined) {
    throw refuse('it is neither text, an ObjectId nor a UUID of subtype 4');
  }
  if (text === '') throw refuse('it is empty; leave the key out for an event without order');
  if (!isWellFormed(text)) throw refuse('it has half of a surrogate pair');
  if (Buffer.byteLength(text) > MAX_NAME_BYTES) throw refuse('it is longer than 255 bytes');
  return text;
}

/** Checks an id as far as the driver does not. */
export function checkId(id: unknown): unknown {
  const refuse = (reason: string) => new OutboxError('id', `invalid event id: ${reason}`);
  if (idText(id) === undefined) {
    throw refuse('it is neither an ObjectId, a UUID of subtype 4 nor text');
  }
  if (typeof id !== 'string') return id;
  if (id.length === 0 || Buffer.byteLength(id) > MAX_NAME_BYTES) {
    throw refuse('a string id has 1 to 255 bytes');
  }
  if (!/^[!-~]+$/.test(id)) throw refuse('a string id is printable ASCII without spaces');
  return id;
}

/** The text of a string, an ObjectId or a UUID. */
function idText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value !== 'object' || value === null) return undefined;

  const id = value as { _bsontype?: string; sub_type?: number; toHexString?(): string; buffer?: Uint8Array; position?: number };
  if (id._bsontype === 'ObjectId') return id.toHexString!();
  if (id._bsontype !== 'Binary' || id.sub_type !== 4 || id.position !== 16) return undefined;
  const hex = Buffer.from(id.buffer!.subarray(0, 16)).toString('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function checkHeaders(headers: unknown): Record<string, string> {
  const made: Record<string, string> = {};
  if (headers === undefined || headers === null) return made;
  if (typeof headers !== 'object') throw new OutboxError('header', 'headers are an object of texts');

  const names = new Set<string>();
  let bytes = 0;
  for (const [name, value] of Object.entries(headers)) {
    const refuse = (reason: string) =>
      new OutboxError('header', `invalid header ${JSON.stringify(name.slice(0, 64))}: ${reason}`);
    if (!/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/.test(name)) {
      throw refuse("a name is letters, digits and !#$%&'*+-.^_`|~");
    }
    if (/^nats-/i.test(name)) throw refuse('names that begin with `Nats-` belong to the server');
    if (value === undefined || value === null) continue;

    if (typeof value !== 'string') throw refuse(`a value is text, and this one is a ${typeof value}`);
    if (!isWellFormed(value)) throw refuse('a value has half of a surrogate pair');
    // eslint-disable-next-line no-control-regex
    if (/[\u0000-\u001f\u007f-\u009f]/.test(value)) {
      throw refuse('a value has no control characters or line breaks');
    }
    if (names.has(name.toLowerCase())) throw refuse('it is there twice');
    names.add(name.toLowerCase());
    bytes += name.length + Buffer.byteLength(value);
    if (names.size > MAX_HEADERS) throw refuse('an event has at most 64 headers');
    if (bytes > MAX_HEADER_BYTES) throw refuse('all headers together are over 32 KiB');
    made[name] = value;
  }
  return made;
}

/** Adds the trace unless the headers name one. Headers too full for it stay as they are. */
function withTrace(headers: Record<string, string>, trace: Record<string, string>): Record<string, string> {
  const has = (name: string) => Object.keys(headers).some((taken) => taken.toLowerCase() === name);
  if (has('traceparent')) return headers;

  for (const [name, value] of Object.entries(trace)) {
    const all = { ...headers, [name]: value };
    const bytes = Object.entries(all).reduce((sum, [n, v]) => sum + n.length + Buffer.byteLength(v), 0);
    if (has(name) || Object.keys(all).length > MAX_HEADERS || bytes > MAX_HEADER_BYTES) break;
    headers = all;
  }
  return headers;
}
