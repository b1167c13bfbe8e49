// Copies of another service's records, kept by the versions in its messages.
import { type Database, Unprocessable, type Verdict } from './inbox.js';
import type { Session } from './outbox.js';

/** A record in a message: its id, its version, and the rest. */
export interface Versioned {
  id: string;
  version: number;
  [field: string]: unknown;
}

/**
 * Keeps copies of records in a collection, in the order of their versions, in whichever order the
 * messages come. The first version of a record is 0, and each change raises it by one.
 *
 * A copy that was removed stays as `{ _id, version, removedAt }`, so that a message that comes again
 * does not bring it back. Live copies are `{ removedAt: null }`.
 */
export class Replica {
  readonly #db: Database;

  constructor(
    db: Database,
    readonly collection: string,
  ) {
    this.#db = db;
  }

  /** Stores a version: `done` if it is stored, now or before; `later` if the one before it is missing. */
  async apply(record: Versioned, session?: Session): Promise<Verdict> {
    const { id, ...rest } = check(record);
    return this.#store({ _id: id, ...rest }, session);
  }

  /** Removes a copy. The version of a removal is the last one plus one. */
  async remove(record: { id: string; version: number }, session?: Session): Promise<Verdict> {
    const { id, version } = check(record);
    return this.#store({ _id: id, version, removedAt: new Date() }, session);
  }

  async #store(copy: { _id: string; version: number; [field: string]: unknown }, session?: Session): Promise<Verdict> {
    const copies = this.#db.collection(this.collection);
    const options = session ? { session } : {};
    const { _id, version } = copy;

    // A loop, for those who call it without a transaction: another one may write in between.
    for (;;) {
      const found = await copies.findOne({ _id }, { ...options, projection: { version: 1 } });
      if (found && found.version >= version) return 'done';
      if ((found?.version ?? -1) !== version - 1) return 'later';

      if (found) {
        const { matchedCount } = await copies.replaceOne({ _id, version: version - 1 }, copy, options);
        if (matchedCount === 1) return 'done';
      } else {
        try {
          await copies.insertOne(copy, options);
          return 'done';
        } catch (error) {
          // In a transaction the error has ended it.
          if (session || (error as { code?: number }).code !== 11000) throw error;
        }
      }
    }
  }
}

function check<T extends { id: string; version: number }>(record: T): T {
  if (typeof record?.id !== 'string' || record.id === '') {
    throw new Unprocessable('the payload has no field id of text');
  }
  if (!Number.isSafeInteger(record.version) || record.version < 0) {
    throw new Unprocessable('the payload has no field version with a whole number from 0 on');
  }
  return record;
}
