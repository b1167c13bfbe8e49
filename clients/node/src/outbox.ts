// Writing events inside the service's own transaction.
import { OutboxError, validatorReasons } from './errors.js';
import { type AnyEvent, type BsonTypes, type EventId, type EventMap, type OutboxEvent, checkId, toDocument } from './event.js';
import { MAX_PAYLOAD_BYTES } from './payload.js';
import { currentTrace } from './trace.js';

/** A session of the driver, of whichever version. */
export interface Session {
  inTransaction(): boolean;
  /** The driver makes another one for each transaction. */
  readonly transaction?: unknown;
}

/** Settings of an outbox. */
export interface OutboxOptions {
  /** The collection; `outbox` unless the relay's configuration names another one. */
  collection?: string;
  /**
   * The longest payload as published, in bytes. Raise it together with `max_payload` of nats-server,
   * and keep it 32 KiB below that.
   */
  maxPayloadBytes?: number;
}

/** The calls of a collection that an outbox needs. */
export interface Writes {
  insertOne(document: any, options: any): Promise<unknown>;
  insertMany(documents: any[], options: any): Promise<unknown>;
  deleteOne(filter: any, options: any): Promise<{ deletedCount: number }>;
  updateOne(filter: any, update: any, options: any): Promise<{ matchedCount: number }>;
}

const EARLIEST = 0;
const LATEST = 253_402_300_799_999;

/**
 * A service's outbox. `outboxd migrate` creates the collection and its validator.
 *
 * Every call needs a session with a transaction under way. An event is published once that
 * transaction has committed, and never if it rolls back. With `@opentelemetry/api` installed, an
 * event carries the current span in its headers.
 */
export class BaseOutbox<Events extends EventMap = EventMap> {
  readonly #collection: (name: string) => Writes;
  readonly #bson: () => BsonTypes;
  readonly #name: string;
  readonly #maxPayloadBytes: number;

  protected constructor(collection: (name: string) => Writes, bson: () => BsonTypes, options: OutboxOptions) {
    this.#collection = collection;
    this.#bson = bson;
    this.#name = options.collection ?? 'outbox';
    this.#maxPayloadBytes = options.maxPayloadBytes ?? MAX_PAYLOAD_BYTES;
  }

  /** Writes an event; returns its id. */
  async enqueue<S extends keyof Events & string>(session: Session, event: OutboxEvent<Events, S>): Promise<EventId> {
    const transaction = requireTransaction(session);
    const [document] = await this.#documents([event as OutboxEvent]);
    await inTurn(session, transaction, () => explained(this.#collection(this.#name).insertOne(document, { session })));
    return document!['_id'] as EventId;
  }

  /**
   * Writes events in one command; returns their ids. Events of one key are published in the order
   * given. If one event is refused, none is written.
   */
  async enqueueMany(session: Session, events: Iterable<AnyEvent<Events>>): Promise<EventId[]> {
    const transaction = requireTransaction(session);
    const documents = await this.#documents([...events] as OutboxEvent[]);
    if (documents.length > 0) {
      await inTurn(session, transaction, () => explained(this.#collection(this.#name).insertMany(documents, { session })));
    }
    return documents.map((document) => document['_id'] as EventId);
  }

  /**
   * Writes an event that is published at `deliverAt`; returns its id, which `cancel` and
   * `reschedule` take. MongoDB's clock decides when it is due; a time that has passed is due at once.
   */
  async schedule<S extends keyof Events & string>(
    session: Session,
    event: OutboxEvent<Events, S>,
    deliverAt: Date,
  ): Promise<EventId> {
    const transaction = requireTransaction(session);
    const [document] = await this.#documents([event as OutboxEvent]);
    document!['deliverAt'] = checkTime(deliverAt);
    await inTurn(session, transaction, () => explained(this.#scheduled().insertOne(document, { session })));
    return document!['_id'] as EventId;
  }

  /**
   * Takes a scheduled event back. `true`: once the transaction has committed, the event is never
   * published. `false`: it is published or about to be, was cancelled before, or never scheduled.
   */
  async cancel(session: Session, id: EventId): Promise<boolean> {
    const transaction = requireTransaction(session);
    const event = { _id: checkId(id) };
    const { deletedCount } = await inTurn(session, transaction, () => this.#scheduled().deleteOne(event, { session }));
    return deletedCount > 0;
  }

  /**
   * Gives a scheduled event another time. `false`: no event with this id waits for its time, and
   * nothing changed.
   */
  async reschedule(session: Session, id: EventId, deliverAt: Date): Promise<boolean> {
    const at = checkTime(deliverAt);
    const transaction = requireTransaction(session);
    const waiting = { _id: checkId(id), deadAt: null };
    const later = { $set: { deliverAt: at } };
    const { matchedCount } = await inTurn(session, transaction, () => this.#scheduled().updateOne(waiting, later, { session }));
    return matchedCount > 0;
  }

  #scheduled(): Writes {
    return this.#collection(`${this.#name}_scheduled`);
  }

  async #documents(events: OutboxEvent[]): Promise<Record<string, unknown>[]> {
    const trace = await currentTrace();
    const bson = this.#bson();
    return events.map((event) => toDocument(event, bson, trace, this.#maxPayloadBytes));
  }
}

/** Refuses a call without a transaction; returns the transaction. */
export function requireTransaction(session: Session | null | undefined): unknown {
  if (session?.inTransaction?.()) return session.transaction;
  throw new OutboxError(
    'transaction',
    'the outbox was called outside a transaction; start one on the session, write the record and ' +
      'the event in it, and commit both',
  );
}

/** Ends with the latest call of each session. */
const turns = new WeakMap<Session, Promise<unknown>>();

/**
 * Runs the calls of a session one after another: a transaction has one operation at a time, and the
 * driver does not see to that. A call whose transaction has ended meanwhile writes nothing.
 */
function inTurn<T>(session: Session, transaction: unknown, call: () => Promise<T>): Promise<T> {
  const turn = Promise.resolve(turns.get(session)).then(() => {
    if (requireTransaction(session) !== transaction) {
      throw new OutboxError('transaction', 'the transaction has ended before this call of the outbox; await each call');
    }
    return call();
  });
  turns.set(session, turn.catch(() => {})); // its caller hears of it
  return turn;
}

function checkTime(at: unknown): Date {
  const millis = at instanceof Date ? at.getTime() : Number.NaN;
  if (Number.isNaN(millis)) throw new OutboxError('deliver-at', 'invalid time of delivery: it is not a valid Date');
  if (millis < EARLIEST || millis > LATEST) {
    throw new OutboxError('deliver-at', 'invalid time of delivery: it is outside the years 1970 to 9999');
  }
  return at as Date;
}

/** Puts the validator's reasons in words; leaves every other error of the driver as it is. */
async function explained<T>(writing: Promise<T>): Promise<T> {
  try {
    return await writing;
  } catch (error) {
    const reasons = validatorReasons(error);
    if (reasons === undefined) throw error;
    throw new OutboxError('validator', `the validator of the collection refuses the event: ${reasons}`, { cause: error });
  }
}
