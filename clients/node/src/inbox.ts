// Acting once on each message: its id is written in the transaction of what it causes.
import { requireTransaction, type Session } from './outbox.js';

/** What became of a message: applied, or to be asked for again because an earlier one is missing. */
export type Verdict = 'done' | 'later';

/**
 * The work answered `later`. The error has the transaction rolled back, so that neither the work nor
 * the message id stays.
 */
export class Later extends Error {
  override readonly name = 'Later';

  constructor() {
    super('an earlier message is missing; ask for this one again');
  }
}

/** A message that can never be applied. The listener puts it aside with this reason at once. */
export class Unprocessable extends Error {
  override readonly name = 'Unprocessable';
}

/** Settings of an inbox. */
export interface InboxOptions {
  /** The collection; `inbox`. Messages that were put aside are in `<collection>_failed`. */
  collection?: string;
  /**
   * How long ids are kept; 30 days. A message must not come again after that, so it has to be
   * longer than the stream's dedupe window and the longest outage of a consumer.
   */
  expireAfterSeconds?: number;
}

/** A message that was put aside. */
export interface FailedMessage {
  id: string;
  subject: string;
  payload: Uint8Array;
  headers: Record<string, string>;
  stream: string;
  sequence: number;
  deliveries: number;
  reason: string;
}

/** A database of the driver, or a connection of Mongoose. */
export interface Database {
  collection(name: string): any;
  command?(command: object): Promise<unknown>;
  /** The driver's database of a connection of Mongoose. */
  db?: any;
}

/** Ids are kept for an hour at least, in seconds. */
const SHORTEST = 3600;
/** What MongoDB answers when an index is there with another expiry. */
const INDEX_OPTIONS_CONFLICT = 85;

/**
 * The ids of the messages that a group of consumers has acted on. Two groups in one database act on
 * a message once each.
 */
export class Inbox {
  readonly #db: Database;
  readonly collection: string;
  readonly expireAfterSeconds: number;

  constructor(
    db: Database,
    readonly group: string,
    options: InboxOptions = {},
  ) {
    if (typeof group !== 'string' || group === '') throw new TypeError('an inbox needs the name of its group');
    this.#db = db;
    this.collection = options.collection ?? 'inbox';
    this.expireAfterSeconds = options.expireAfterSeconds ?? 30 * 24 * 3600;
    if (!(this.expireAfterSeconds >= SHORTEST)) {
      throw new TypeError(`ids are kept for at least ${SHORTEST} s; expireAfterSeconds is ${this.expireAfterSeconds}`);
    }
  }

  /** Makes the collections, and the index that removes old ids. May run again at any time. */
  async migrate(): Promise<void> {
    const { collection, expireAfterSeconds } = this;
    const ids = this.#db.collection(collection);
    const name = 'outboxd_expiry';
    try {
      await ids.createIndex({ at: 1 }, { expireAfterSeconds, name });
    } catch (error) {
      if ((error as { code?: number }).code !== INDEX_OPTIONS_CONFLICT) throw error;
      const db = this.#db.command ? this.#db : this.#db.db;
      await db.command({ collMod: collection, index: { name, expireAfterSeconds } });
    }
    await this.#db.collection(`${this.collection}_failed`).createIndex({ at: 1 }, { name: 'outboxd_at' });
  }

  /**
   * Runs `work` unless the message was acted on before; returns whether it ran. The id is written
   * in the session's transaction, so that it and the work commit together.
   *
   * @throws {Later} if the work returns `later`; let the error out, so that the transaction aborts
   */
  async once(session: Session, message: { id: string }, work: () => Promise<Verdict | void>): Promise<boolean> {
    requireTransaction(session);
    if (typeof message.id !== 'string' || message.id === '') {
      throw new Unprocessable('the message has no Nats-Msg-Id');
    }

    const filter = { _id: { group: this.group, id: message.id } };
    const once = { $setOnInsert: { at: new Date() } };
    const written = await this.#db.collection(this.collection).updateOne(filter, once, { upsert: true, session });
    if (written.upsertedCount === 0) return false;

    if ((await work()) === 'later') throw new Later();
    return true;
  }

  /** Puts a message aside, with the reason. The same message is put aside once. */
  async fail(message: FailedMessage): Promise<void> {
    const { id, ...rest } = message;
    const filter = { _id: { group: this.group, id } };
    const failed = { $set: { at: new Date(), ...rest, payload: Buffer.from(rest.payload) } };
    await this.#db.collection(`${this.collection}_failed`).updateOne(filter, failed, { upsert: true });
  }
}
