// Hears messages and applies them, in order and once.
//
// A listener is a durable pull consumer named by its group; all instances of a service share it. A
// message is acked after the transaction of its handler has committed, with its id in the inbox. One
// message is asked for at a time, so that nothing waits in an instance that dies.
import {
  AckPolicy,
  type Consumer,
  DeliverPolicy,
  type JsMsg,
  jetstream,
  jetstreamManager,
} from '@nats-io/jetstream';
import { type ConnectionOptions, connect, type NatsConnection, nanos } from '@nats-io/transport-node';

import type { EventMap } from './event.js';
import { Inbox, type InboxOptions, Later, Unprocessable, type Verdict } from './inbox.js';
import { inTrace } from './trace.js';

/** What a handler gets beside the payload. */
export interface Received<S = any> {
  /** The message id: the same each time the message comes. */
  id: string;
  subject: string;
  headers: Record<string, string>;
  /** The session, with a transaction under way. Pass it to every write. */
  session: S;
  /** How often the message has come, this time included. */
  deliveries: number;
}

/** Applies a message. Its writes belong in the session; it may run more than once. */
export type Handler<P, S = any> = (payload: P, received: Received<S>) => Promise<Verdict | void>;

/** Handlers by subject. A subject may have wildcards; the first one that matches is taken. */
export type Handlers<Events extends EventMap, S = any> = {
  [Subject in keyof Events & string]?: Handler<Events[Subject], S>;
};

/** Where messages are applied: a database of the driver, or a connection of Mongoose. */
export interface Store<S = any> {
  collection(name: string): any;
  client?: { startSession(): S };
  startSession?(): S | Promise<S>;
}

/** Settings of a listener. */
export interface ListenOptions<Events extends EventMap = EventMap, S = any> {
  /** How to reach NATS, or a connection to share, which stays open when the listener stops. */
  nats: ConnectionOptions | NatsConnection;
  /** The stream; the relay's `NATS_CLUSTER_ID`. */
  stream: string;
  /** The name of the durable consumer, which all instances of a service share. */
  group: string;
  /** The database of the handlers' writes and of the inbox. */
  db: Store<S>;
  /** What to do with each subject. Only these subjects are delivered. */
  on: Handlers<Events, S>;
  /** Settings of the inbox. */
  inbox?: InboxOptions;
  /**
   * Messages without an ack, of all instances together; 1. With 1 a message is delivered once the
   * one before it is acked, so that messages are applied in the order of the stream. Raise it only
   * if the handlers bear another order. An instance applies one message at a time in either case.
   */
  maxAckPending?: number;
  /** When the server gives the message of a dead instance to another one, in ms; 30000. */
  ackWait?: number;
  /** Deliveries that may fail before a message is put aside; 10. */
  maxDeliveries?: number;
  /** Times that a message may be `later` before it is put aside; 100, which is about 15 minutes. */
  maxLater?: number;
  /** Reads a payload; by default JSON. */
  decode?: (bytes: Uint8Array, subject: string) => unknown;
  /** Hears what went wrong and is tried again, or was put aside; by default `console.warn`. */
  onProblem?: (problem: string, error: unknown) => void;
}

/** What the listener was given does not fit the server; a person has to change one of them. */
export class Misconfigured extends Error {
  override readonly name = 'Misconfigured';
}

/** Waits of a message that failed or is `later`, and of a lost server, in ms. */
const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;
/** How long one request for a message stands; `stop` waits no longer for it. */
const PULL = 2_000;

/** Starts to listen. Reconnects for ever; `stop` ends it. */
export function listen<Events extends EventMap = EventMap, S = any>(options: ListenOptions<Events, S>): Listener {
  return new Listener(options as ListenOptions);
}

/** A listener that runs. */
export class Listener {
  readonly #options: ListenOptions;
  readonly #inbox: Inbox;
  readonly #loops: Promise<void>;
  readonly #stopped = new AbortController();
  /** How often a message was `later`, by its sequence; those deliveries are no failures. */
  readonly #laters = new Map<number, number>();
  #nats?: NatsConnection;
  #ready!: { resolve(): void; reject(error: unknown): void };

  /** Resolves once the consumer is there; rejects with a `Misconfigured` that no retry can mend. */
  readonly ready: Promise<void> = new Promise((resolve, reject) => (this.#ready = { resolve, reject }));

  constructor(options: ListenOptions) {
    if (Object.keys(options.on).length === 0) throw new TypeError('a listener needs a handler');
    this.#options = options;
    this.#inbox = new Inbox(options.db, options.group, options.inbox);
    this.ready.catch(() => {}); // it was reported
    this.#loops = this.#run();
  }

  /** Lets the messages in work end, acks them, and disconnects. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#loops;
  }

  async #run(): Promise<void> {
    const given = this.#options.nats;
    const shared = 'jetstream' in given || 'drain' in given;
    this.#nats = shared ? (given as NatsConnection) : await this.#connected(given as ConnectionOptions);
    if (this.#nats) {
      void this.#watch(this.#nats);
      await this.#again('not listening', async () => {
        const consumer = await this.#consumer();
        this.#ready.resolve();
        await this.#consume(consumer);
      });
      if (!shared) await this.#nats.drain().catch(() => {});
    }
  }

  async #connected(options: ConnectionOptions): Promise<NatsConnection | undefined> {
    let nats: NatsConnection | undefined;
    await this.#again('NATS is not reached', async () => {
      nats = await connect({ name: this.#options.group, ...options, maxReconnectAttempts: -1 });
    });
    return nats;
  }

  /** A server that is about to stop says so; then this leaves it while another one can be had. */
  async #watch(nats: NatsConnection): Promise<void> {
    for await (const status of nats.status()) {
      if (status.type === 'ldm' && (nats.info?.connect_urls?.length ?? 0) > 1) await nats.reconnect().catch(() => {});
    }
  }

  /** Runs `work` until it ends well, or the listener stops, or no retry can help. */
  async #again(problem: string, work: () => Promise<void>): Promise<void> {
    for (let tries = 0; !this.#stopped.signal.aborted; tries++) {
      const began = Date.now();
      try {
        return await work();
      } catch (error) {
        if (error instanceof Misconfigured) {
          this.#stopped.abort();
          this.#ready.reject(error);
          return this.#report('the listener has ended', error);
        }
        if (Date.now() - began > PULL) tries = 0;
        if (!this.#stopped.signal.aborted) this.#report(`${problem}; trying again`, error);
        await this.#pause(wait(tries));
      }
    }
  }

  /** Finds or makes the durable consumer. */
  async #consumer(): Promise<Consumer> {
    const { stream, group, maxAckPending = 1, ackWait = 30_000 } = this.#options;
    const manager = await jetstreamManager(this.#nats!);
    const { config } = await manager.streams.info(stream);
    const window = (config.duplicate_window ?? 0) / 1e9;
    if (this.#inbox.expireAfterSeconds <= window) {
      throw new Misconfigured(
        `the inbox forgets ids after ${this.#inbox.expireAfterSeconds} s, and the stream ${stream} drops ` +
          `duplicates for ${window} s; raise inbox.expireAfterSeconds`,
      );
    }
    await this.#inbox.migrate();

    const wanted = {
      ack_wait: nanos(ackWait),
      filter_subjects: Object.keys(this.#options.on),
      max_ack_pending: maxAckPending,
      max_deliver: -1,
      backoff: [], // it would take the place of ack_wait
    };
    const found = await manager.consumers.info(stream, group).catch((error) => {
      if (!/consumer not found/i.test(String(error))) throw error;
      return undefined;
    });
    if (!found) {
      const [ack_policy, deliver_policy] = [AckPolicy.Explicit, DeliverPolicy.All];
      await manager.consumers.add(stream, { ...wanted, durable_name: group, ack_policy, deliver_policy });
    } else {
      const there = found.config;
      if (there.deliver_subject || there.ack_policy !== AckPolicy.Explicit) {
        throw new Misconfigured(
          `the consumer ${group} of the stream ${stream} is no pull consumer with explicit acks; ` +
            'give the listener another group, or remove that consumer',
        );
      }
      // Only a difference is written, so that instances do not write at every start.
      const subjects = there.filter_subjects ?? (there.filter_subject ? [there.filter_subject] : []);
      const current = { ...there, filter_subjects: subjects, backoff: there.backoff ?? [] };
      const differs = Object.entries(wanted).some(
        ([name, value]) => String(current[name as keyof typeof current]) !== String(value),
      );
      if (differs) await manager.consumers.update(stream, group, wanted);
    }
    return jetstream(this.#nats!).consumers.get(stream, group);
  }

  async #consume(consumer: Consumer): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      const message = await consumer.next({ expires: PULL });
      if (!message) {
        await consumer.info(); // fails if the consumer was deleted; then it is made again
        continue;
      }

      if (this.#stopped.signal.aborted) message.nak();
      else await this.#handle(message);
    }
  }

  async #handle(message: JsMsg): Promise<void> {
    const working = setInterval(() => message.working(), Math.max(250, (this.#options.ackWait ?? 30_000) / 3));
    try {
      await this.#settle(message);
    } finally {
      clearInterval(working);
    }
  }

  /** Applies a message and answers the server. */
  async #settle(message: JsMsg): Promise<void> {
    const { maxDeliveries = 10, maxLater = 100 } = this.#options;
    const { deliveryCount, streamSequence } = message.info;
    const laters = this.#laters.get(streamSequence) ?? 0;
    if (deliveryCount > maxDeliveries + maxLater) {
      return this.#putAside(message, 'it was delivered again and again, and never answered');
    }

    for (let tries = 0; ; tries++) {
      try {
        await this.#apply(message);
        this.#laters.delete(streamSequence);
        return message.ack();
      } catch (error) {
        if (error instanceof Later) {
          if (laters + 1 >= maxLater) return this.#putAside(message, 'an earlier message is missing');
          this.#laters.set(streamSequence, laters + 1);
          return message.nak(wait(laters));
        }
        if (isOutage(error)) {
          // No fault of the message: it stays in hand, and no delivery is used up.
          this.#report(`MongoDB is not reached; ${message.subject} waits`, error);
          await this.#pause(wait(tries));
          if (this.#stopped.signal.aborted) return message.nak();
          continue;
        }
        const failures = deliveryCount - laters;
        if (error instanceof Unprocessable || failures >= maxDeliveries) {
          return this.#putAside(message, reasonOf(error), error);
        }
        this.#report(`${message.subject} was not applied; trying again`, error);
        return message.nak(wait(failures + 1));
      }
    }
  }

  async #apply(message: JsMsg): Promise<void> {
    const handler = handlerFor(this.#options.on, message.subject);
    const headers = headersOf(message);
    const id = headers['Nats-Msg-Id'] ?? '';
    if (!handler) return;

    const payload = this.#decoded(message);
    await inTrace({ subject: message.subject, headers }, async () => {
      const session = await startSession(this.#options.db);
      try {
        await session.withTransaction(async () => {
          const received = { id, subject: message.subject, headers, session, deliveries: message.info.deliveryCount };
          await this.#inbox.once(session, { id }, () => handler(payload, received));
        });
      } catch (error) {
        if (!(error instanceof Later)) throw error;
        return error;
      } finally {
        await session.endSession();
      }
      return undefined;
    }).then((later) => {
      if (later) throw later;
    });
  }

  #decoded(message: JsMsg): unknown {
    const { decode } = this.#options;
    try {
      return decode ? decode(message.data, message.subject) : message.json();
    } catch (error) {
      throw new Unprocessable(`the payload can't be read: ${reasonOf(error)}`, { cause: error });
    }
  }

  /** Writes a message to `<inbox>_failed` and acks it. Without MongoDB it stays in hand. */
  async #putAside(message: JsMsg, reason: string, error?: unknown): Promise<void> {
    const headers = headersOf(message);
    const { stream, streamSequence: sequence, deliveryCount: deliveries } = message.info;
    const id = headers['Nats-Msg-Id'] ?? `${stream}:${sequence}`;
    const { subject, data: payload } = message;

    let stored = false;
    await this.#again(`${subject} is not put aside`, async () => {
      await this.#inbox.fail({ id, subject, payload, headers, stream, sequence, deliveries, reason });
      stored = true;
    });
    if (!stored) return message.nak(); // it was told to stop
    this.#laters.delete(sequence);
    this.#report(`${subject} was put aside in ${this.#inbox.collection}_failed: ${reason}`, error);
    message.ack();
  }

  #report(problem: string, error: unknown): void {
    const { onProblem = (text: string, cause: unknown) => console.warn(`${text}:`, reasonOf(cause)) } = this.#options;
    onProblem(problem, error);
  }

  async #pause(millis: number): Promise<void> {
    const { signal } = this.#stopped;
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        resolve();
      };
      const timer = setTimeout(end, millis);
      signal.addEventListener('abort', end);
    });
  }
}

function wait(tries: number): number {
  return Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** Math.min(tries, 10));
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function headersOf(message: JsMsg): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, values] of message.headers ?? []) headers[name] = values[0] ?? '';
  return headers;
}

function handlerFor(on: Handlers<EventMap>, subject: string): Handler<any> | undefined {
  const matching = on[subject] ? subject : Object.keys(on).find((pattern) => matches(pattern, subject));
  return matching === undefined ? undefined : on[matching];
}

/** Whether a subject matches a pattern with `*` and `>`. */
function matches(pattern: string, subject: string): boolean {
  const [wanted, tokens] = [pattern.split('.'), subject.split('.')];
  if (wanted.at(-1) === '>' ? tokens.length < wanted.length : tokens.length !== wanted.length) return false;
  return wanted.every((token, at) => token === '*' || token === '>' || token === tokens[at]);
}

async function startSession(store: Store): Promise<any> {
  return store.startSession ? store.startSession() : store.client!.startSession();
}

/** Whether MongoDB was not reached or its primary moved, by the driver's error. */
function isOutage(error: unknown): boolean {
  const failed = error as { name?: string; hasErrorLabel?(label: string): boolean; cause?: unknown } | undefined;
  if (failed === undefined || failed === null) return false;

  const labels = ['TransientTransactionError', 'UnknownTransactionCommitResult', 'RetryableWriteError'];
  return (
    labels.some((label) => failed.hasErrorLabel?.(label)) ||
    /^Mongo(Network|ServerSelection|NotConnected|PoolCleared|TopologyClosed)/.test(failed.name ?? '') ||
    isOutage(failed.cause)
  );
}

export { Inbox, Later, Unprocessable } from './inbox.js';
export type { FailedMessage, InboxOptions, Verdict } from './inbox.js';
export type { EventMap } from './event.js';
export { Replica, type Versioned } from './replica.js';
