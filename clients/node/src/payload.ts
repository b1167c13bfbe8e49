// How a payload becomes a value that the driver writes and the relay publishes as expected.
//
// A document or an array is published as plain JSON. JavaScript's own values are treated as
// `JSON.stringify` treats them: a field that is undefined or a function is left out, in an array it
// is null, `toJSON` is called, and a Date is the text that it makes. BSON's values keep their types:
// an ObjectId or a UUID is published as a string, binary as base64. Values that JSON lacks are
// refused with their path.
import { types } from 'node:util';

import { OutboxError } from './errors.js';

/** Deepest nesting of documents and arrays in a payload. */
export const MAX_DEPTH = 100;
/** Longest payload as published, in bytes: 1 MiB, the server's default, less 32 KiB for headers. */
export const MAX_PAYLOAD_BYTES = 1024 * 1024 - 32 * 1024;

/** The dates that RFC 3339 can write. */
const EARLIEST = -62_167_219_200_000;
const LATEST = 253_402_300_799_999;
const BSON_VERSION = Symbol.for('@@mdb.bson.version');
const PLAIN_NAME = /^[A-Za-z_$][A-Za-z0-9_$]{0,63}$/;
const MIN_LONG = -(2n ** 63n);
const MAX_LONG = 2n ** 63n - 1n;

/** A payload that was checked. */
export interface Checked {
  /** What the driver writes. */
  value: unknown;
  /** Bytes as published. */
  bytes: number;
}

/** Checks a payload. `bsonVersion` is the major version of the driver's BSON library. */
export function checkPayload(payload: unknown, bsonVersion: unknown): Checked {
  const bytes = binary(payload, 'payload', bsonVersion);
  if (bytes !== undefined) return { value: payload, bytes };

  if (typeof payload === 'string') {
    wellFormed(payload, 'payload');
    return { value: payload, bytes: Buffer.byteLength(payload) };
  }

  const walk = new Walk(bsonVersion);
  const object = typeof payload === 'object' && payload !== null && !types.isDate(payload);
  if (!object || bsonType(payload) !== undefined) {
    const kind = bsonType(payload) ?? kindOf(payload);
    throw refused(`it is of type ${kind}; a payload is a document, an array, a string or binary`);
  }

  const value = walk.value(walk.plain(payload, 'payload', ''), 'payload', 0);
  if (typeof value !== 'object' || value === null) {
    throw refused('its toJSON makes neither a document nor an array');
  }
  return { value, bytes: walk.bytes };
}

/** Refuses text that UTF-8 can't hold. The driver would write another text without notice. */
export function wellFormed(text: string, path: string): void {
  if (!isWellFormed(text)) {
    throw refused(`${path} has half of a surrogate pair; it has no plain form in JSON`);
  }
}

/** Whether UTF-8 can hold a text. */
export function isWellFormed(text: string): boolean {
  // A surrogate that is not a half of a pair.
  return !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}

function refused(reason: string): OutboxError {
  return new OutboxError('payload', `invalid payload: ${reason}`);
}

function notJson(path: string, what: string): OutboxError {
  return refused(`${path} is ${what}; it has no plain form in JSON`);
}

function bsonType(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const type = (value as { _bsontype?: unknown })._bsontype;
  return typeof type === 'string' ? type : undefined;
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  return types.isDate(value) ? 'date' : typeof value;
}

/** The number of bytes if a value is binary. */
function binary(value: unknown, path: string, bsonVersion: unknown): number | undefined {
  if (value instanceof Uint8Array) return value.byteLength;
  if (bsonType(value) !== 'Binary') return undefined;

  sameVersion(value, path, bsonVersion);
  return (value as { length(): number }).length();
}

/** Refuses values that the driver in use would refuse, with a sentence that says why. */
function sameVersion(value: unknown, path: string, bsonVersion: unknown): void {
  const version = (value as Record<symbol, unknown>)[BSON_VERSION];
  if (version === bsonVersion) return;

  throw refused(
    `${path} is made by version ${String(version)} of bson, and the driver has version ` +
      `${String(bsonVersion)}; import the type from the driver in use, with Mongoose from mongoose.mongo`,
  );
}

function checkDate(value: Date, path: string): void {
  const millis = value.getTime();
  if (Number.isNaN(millis)) throw notJson(path, 'an invalid date');
  if (millis < EARLIEST || millis > LATEST) throw notJson(path, 'a date outside the years 0 to 9999');
}

/** One pass over a payload: makes the value to write and counts the bytes as published. */
class Walk {
  bytes = 0;

  constructor(private readonly bsonVersion: unknown) {}

  /**
   * What `toJSON` makes of a value that has one. Values of BSON and binary are published by their
   * types, and an invalid date is refused rather than null.
   */
  plain(value: unknown, path: string, key: string): unknown {
    if (value === null || !['object', 'bigint', 'function'].includes(typeof value)) return value;
    if (bsonType(value) !== undefined || value instanceof Uint8Array) return value;
    if (types.isDate(value)) checkDate(value, path);

    const { toJSON } = value as { toJSON?: unknown };
    return typeof toJSON === 'function' ? toJSON.call(value, key) : value;
  }

  /** Takes what `plain` has made. */
  value(value: unknown, path: string, depth: number): unknown {
    switch (typeof value) {
      case 'string':
        wellFormed(value, path);
        return this.text(value, value);
      case 'boolean':
        return this.text(value, value);
      case 'number':
        if (!Number.isFinite(value)) throw notJson(path, String(value));
        return this.text(value, value);
      case 'bigint':
        if (value < MIN_LONG || value > MAX_LONG) {
          throw notJson(path, 'a bigint beyond 64 bits; write a string');
        }
        return this.raw(value, String(value).length);
      case 'object':
        return value === null ? this.raw(null, 4) : this.object(value, path, depth);
      default:
        // Undefined, a function or a symbol in an array: as JSON.stringify does.
        return this.raw(null, 4);
    }
  }

  private object(value: object, path: string, depth: number): unknown {
    const type = bsonType(value);
    if (type !== undefined) return this.bson(value, type, path);
    if (value instanceof Uint8Array) return this.raw(value, base64(value.byteLength) + 2);
    if (types.isBoxedPrimitive(value) && !types.isSymbolObject(value)) {
      return this.value(value.valueOf(), path, depth);
    }
    if (depth >= MAX_DEPTH) throw refused('it is nested deeper than 100 levels, or contains itself');
    if (Array.isArray(value)) return this.array(value, path, depth);
    if (types.isMap(value)) throw notJson(path, 'a Map; write Object.fromEntries(map)');
    if (types.isSet(value)) throw notJson(path, 'a Set; write an array');
    if (types.isPromise(value)) throw notJson(path, 'a Promise; await it');
    if (types.isRegExp(value)) throw notJson(path, 'of type regex');
    if (ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value)) {
      throw notJson(path, 'an array buffer; write a Buffer');
    }
    return this.document(value, path, depth);
  }

  private document(value: object, path: string, depth: number): unknown {
    const made: Record<string, unknown> = {};
    let first = true;
    this.bytes += 2;

    for (const [name, given] of Object.entries(value)) {
      const at = PLAIN_NAME.test(name) ? `${path}.${name}` : `${path}[${JSON.stringify(name)}]`;
      const field = this.plain(given, at, name);
      // As JSON.stringify does. The driver would write null for undefined.
      if (field === undefined || typeof field === 'function' || typeof field === 'symbol') continue;

      if (name.includes('\0')) throw notJson(at, 'named with a null character');
      wellFormed(name, at);
      this.bytes += Buffer.byteLength(JSON.stringify(name)) + (first ? 1 : 2);
      first = false;
      const written = this.value(field, at, depth + 1);
      Object.defineProperty(made, name, {
        value: written, enumerable: true, writable: true, configurable: true,
      });
    }
    return made;
  }

  private array(value: unknown[], path: string, depth: number): unknown[] {
    this.bytes += 2 + Math.max(0, value.length - 1);
    return Array.from(value, (item, index) => {
      const at = `${path}[${index}]`;
      return this.value(this.plain(item, at, String(index)), at, depth + 1);
    });
  }

  private bson(value: object, type: string, path: string): unknown {
    sameVersion(value, path, this.bsonVersion);
    const text = String(value);
    switch (type) {
      case 'ObjectId':
        return this.raw(value, 26);
      case 'Binary': {
        const { sub_type: subtype, length } = value as { sub_type: number; length(): number };
        const bytes = length.call(value);
        return this.raw(value, subtype === 4 && bytes === 16 ? 38 : base64(bytes) + 2);
      }
      case 'Long':
        if ((value as { unsigned: boolean }).unsigned && BigInt(text) > MAX_LONG) {
          throw notJson(path, 'a whole number beyond 64 bits');
        }
        return this.raw(value, text.length);
      case 'Int32':
        return this.raw(value, text.length);
      case 'Double': {
        const number = Number(value);
        if (!Number.isFinite(number)) throw notJson(path, String(number));
        return this.raw(value, JSON.stringify(number).length);
      }
      case 'Decimal128':
        if (/nan|inf/i.test(text)) {
          throw notJson(path, `a decimal ${/nan/i.test(text) ? 'NaN' : text}`);
        }
        return this.raw(value, text.length + 2);
      case 'BSONSymbol':
        return this.text(value, text);
      default:
        throw notJson(path, `of type ${BSON_NAMES[type] ?? type}`);
    }
  }

  /** Counts a value as `JSON.stringify` writes `text`. */
  private text<T>(value: T, text: unknown): T {
    return this.raw(value, Buffer.byteLength(JSON.stringify(text)));
  }

  private raw<T>(value: T, bytes: number): T {
    this.bytes += bytes;
    return value;
  }
}

/** MongoDB's names of the types that JSON lacks. */
const BSON_NAMES: Record<string, string> = {
  BSONRegExp: 'regex',
  Code: 'javascript',
  MaxKey: 'maxKey',
  MinKey: 'minKey',
  Timestamp: 'timestamp',
};

function base64(bytes: number): number {
  return Math.ceil(bytes / 3) * 4;
}
