// Events in MongoDB's transactions, with Mongoose.
import { type ClientSession, type Connection, type Document, type Model, Schema } from 'mongoose';

import { OutboxError } from './errors.js';
import type { BsonTypes, EventMap } from './event.js';
import { BaseOutbox, type OutboxOptions, requireTransaction } from './outbox.js';

/** A service's outbox, on a connection of Mongoose. The connection may open later. */
export class Outbox<Events extends EventMap = EventMap> extends BaseOutbox<Events> {
  constructor(connection: Connection, options: OutboxOptions = {}) {
    const { mongo } = (connection as unknown as { base: { mongo: BsonTypes } }).base;
    super((name) => connection.collection(name) as never, () => mongo, options);
  }
}

/** Settings of `outboxEvents`. */
export interface PluginOptions {
  /** Where the events go. */
  outbox: BaseOutbox<any>;
  /** The first token of the subjects: `ticket` makes `ticket.created`, `.updated` and `.deleted`. */
  name: string;
  /** The field that counts the versions of a record; `version`. */
  versionField?: string;
  /** The key of a record's events; its `_id`. */
  key?: (stored: any) => string;
  /** Makes the payload; by default the record as stored, with `id` as text in the place of `_id`. */
  payload?: (stored: any) => object;
}

/** What is known before a change, for the hook after it. */
interface Before {
  /** The version that was read; undefined for a new record. */
  version?: number;
  /** The record that a removal found. */
  stored?: any;
}

/** Writes that go past the document, and with it past versions and events. */
const QUERIES = [
  'deleteMany',
  'deleteOne',
  'findOneAndDelete',
  'findOneAndReplace',
  'findOneAndUpdate',
  'replaceOne',
  'updateMany',
  'updateOne',
] as const;

const befores = new WeakMap<object, Before>();
/** The queries by which Mongoose removes a document; others of the kind are refused. */
const removals = new WeakSet<object>();

/**
 * A plugin of a schema: it versions the records and enqueues an event with each change, in the
 * session of the save, built from the record as stored.
 *
 * A save matches the version that was read and raises it by one; if another one was faster it fails
 * with Mongoose's VersionError. A save or a removal without a transaction is refused, and so are
 * writes that go past the document, such as `updateOne` of a model. Run the transaction with
 * `connection.transaction`: it resets the documents when it runs the body again.
 */
export function outboxEvents(schema: Schema<any, any, any, any, any, any, any>, options: PluginOptions): void {
  const version = options.versionField ?? 'version';
  const keyOf = options.key ?? ((stored) => stored._id.toString());
  const payloadOf = options.payload ?? asMessage;
  if (!options.outbox || !options.name) throw new TypeError('outboxEvents needs `outbox` and `name`');

  if (schema.path(version) === undefined) schema.add({ [version]: { type: Number, default: 0 } });
  schema.set('versionKey', version);
  schema.set('optimisticConcurrency', true);

  const enqueue = (session: ClientSession, change: string, stored: any) =>
    options.outbox.enqueue(session, {
      subject: `${options.name}.${change}`,
      key: keyOf(stored),
      payload: payloadOf(stored),
    });

  schema.pre('save', function (this: Document) {
    sessionOf(this);
    // Without it Mongoose would neither match nor raise the version.
    if (!this.isNew && !this.isSelected(version)) {
      throw new OutboxError('transaction', `the record was loaded without its field ${version}; select that too`);
    }
    if (!this.isNew && this.$isDefault(version)) {
      throw new OutboxError(
        'transaction',
        `the record has no ${version}, because it is older than the plugin; ` +
          `set it: collection.updateMany({ ${version}: null }, { $set: { ${version}: 0 } })`,
      );
    }
    befores.set(this, this.isNew ? {} : { version: this.get(version) });
  });
  schema.post('save', async function (this: Document) {
    const before = befores.get(this);
    befores.delete(this);
    // A save of a record that was not modified, by later hooks either, raises no version.
    if (before === undefined || before.version === this.get(version)) return;

    const session = sessionOf(this);
    await enqueue(session, before.version === undefined ? 'created' : 'updated', await read(this, session));
  });

  schema.pre('deleteOne', { document: true, query: false }, async function (this: Document) {
    const stored = await read(this, sessionOf(this));
    if (stored && stored[version] !== this.get(version)) {
      throw new OutboxError('transaction', `the record has version ${stored[version]}, and version ${this.get(version)} was read; load it again`);
    }
    befores.set(this, { stored });
  });
  schema.post('deleteOne', { document: true, query: false }, async function (this: Document) {
    const stored = befores.get(this)?.stored;
    befores.delete(this);
    if (!stored) return;
    await enqueue(sessionOf(this), 'deleted', { ...stored, [version]: stored[version] + 1 });
  });

  schema.method('deleteOne', removal, { suppressWarning: true });
  for (const call of QUERIES) {
    schema.pre(call, { document: false, query: true } as never, function (this: object) {
      if (!removals.has(this)) refuse(call);
    });
  }
  schema.pre('insertMany', () => refuse('insertMany'));
  schema.pre('bulkWrite' as never, () => refuse('bulkWrite'));
}

/** Mongoose's own `deleteOne` of a document, whose query is then known. */
function removal(this: Document, options?: object): object {
  let owner: any = this;
  while (owner.deleteOne === removal) owner = Object.getPrototypeOf(owner);
  const query = owner.deleteOne.call(this, options) as object;
  removals.add(query);
  return query;
}

function refuse(call: string): never {
  throw new OutboxError(
    'transaction',
    `${call} goes past the document, so it would write no event; load the record, change it and save it`,
  );
}

/** The session of a record's change, with a transaction; with `transactionAsyncLocalStorage`, that of the transaction around it. */
function sessionOf(record: Document): ClientSession {
  const { base } = record.db as unknown as { base: { transactionAsyncLocalStorage?: { getStore(): { session?: ClientSession } | undefined } } };
  const session = record.$session() ?? base.transactionAsyncLocalStorage?.getStore()?.session;
  requireTransaction(session);
  record.$session(session!);
  return session!;
}

/** The record as stored, read in the session of the change. */
function read(record: Document, session: ClientSession): Promise<any> {
  const { collection } = record.constructor as unknown as { collection: any };
  return collection.findOne({ _id: record._id }, { session });
}

function asMessage(stored: any): object {
  const { _id, ...rest } = stored;
  return { id: _id.toString(), ...rest };
}

/**
 * A model to look at the events of an outbox, in tests for example. It can't be registered wrongly
 * and writes nothing: `Outbox` does.
 */
export function outboxModel(connection: Connection, collection = 'outbox'): Model<any> {
  const options = { collection, versionKey: false, minimize: false, strict: false, autoCreate: false, autoIndex: false } as const;
  const schema = new Schema({ _id: Schema.Types.Mixed }, options);
  const writes = () => {
    throw new OutboxError('transaction', 'this model only reads; write events with Outbox.enqueue');
  };
  for (const call of [...QUERIES, 'save', 'insertMany', 'bulkWrite']) schema.pre(call as never, writes);
  return connection.model(`outboxd:${collection}`, schema);
}

export { OutboxError, type OutboxErrorCode } from './errors.js';
export type { AnyEvent, EventId, EventMap, ObjectIdLike, OutboxEvent } from './event.js';
export { Inbox, Later, Unprocessable } from './inbox.js';
export type { FailedMessage, InboxOptions, Verdict } from './inbox.js';
export type { OutboxOptions, Session } from './outbox.js';
export { Replica, type Versioned } from './replica.js';
