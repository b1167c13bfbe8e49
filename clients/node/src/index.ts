// Events in MongoDB's transactions, with the driver. With Mongoose, import `outboxd-client/mongoose`.
import { type ClientSession, type Db, ObjectId, Timestamp } from 'mongodb';

import type { EventMap } from './event.js';
import { BaseOutbox, type OutboxOptions } from './outbox.js';

/** A service's outbox, in a database of the driver. */
export class Outbox<Events extends EventMap = EventMap> extends BaseOutbox<Events> {
  constructor(db: Db, options: OutboxOptions = {}) {
    super((name) => db.collection(name) as never, () => ({ ObjectId, Timestamp }), options);
  }
}

export { OutboxError, type OutboxErrorCode } from './errors.js';
export type { AnyEvent, EventId, EventMap, ObjectIdLike, OutboxEvent } from './event.js';
export { Inbox, Later, Unprocessable } from './inbox.js';
export type { FailedMessage, InboxOptions, Verdict } from './inbox.js';
export type { OutboxOptions, Session } from './outbox.js';
export { Replica, type Versioned } from './replica.js';
export type { ClientSession };
