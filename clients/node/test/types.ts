// Compiled, not run: what the types allow, and what they refuse.
import type { ClientSession, Db } from 'mongodb';
import { Inbox, Outbox, OutboxError, Replica, type Verdict } from 'outboxd-client';
import { type Listener, listen } from 'outboxd-client/listener';
import { outboxEvents, Outbox as MongooseOutbox } from 'outboxd-client/mongoose';
import { startServers } from 'outboxd-client/testing';
import mongoose, { Schema } from 'mongoose';

interface Ticket {
  id: string;
  price: number;
  version: number;
}

type Events = { 'ticket.created': Ticket; 'ticket.deleted': { id: string; version: number } };

export async function write(db: Db, session: ClientSession): Promise<void> {
  const outbox = new Outbox<Events>(db);
  await outbox.enqueue(session, { subject: 'ticket.created', key: 't1', payload: { id: 't1', price: 5, version: 0 } });
  // @ts-expect-error the payload of another subject
  await outbox.enqueue(session, { subject: 'ticket.created', payload: { id: 't1', version: 0 } });
  // @ts-expect-error no such subject
  await outbox.enqueue(session, { subject: 'ticket.made', payload: { id: 't1', version: 0 } });
  // @ts-expect-error no session
  await outbox.enqueue({ subject: 'ticket.deleted', payload: { id: 't1', version: 0 } });
  await new Outbox(db).enqueue(session, { subject: 'anything', payload: { a: [1, null] } });
}

export function hear(db: Db): Listener {
  const replica = new Replica(db, 'tickets');
  return listen<Events, ClientSession>({
    nats: { servers: 'nats://127.0.0.1:4222' },
    stream: 'SHOP',
    group: 'copies',
    db,
    on: {
      'ticket.created': async ({ id, price, version }, { session }): Promise<Verdict> =>
        replica.apply({ id, price: price.toFixed(2), version }, session),
      'ticket.deleted': async (ticket, { session }) => {
        // @ts-expect-error it has no price
        ticket.price;
        return replica.remove(ticket, session);
      },
      // @ts-expect-error no such subject
      'ticket.made': async () => {},
    },
  });
}

export async function once(db: Db, session: ClientSession): Promise<boolean> {
  // @ts-expect-error a word that is no verdict
  await new Inbox(db, 'group').once(session, { id: '1' }, async () => 'maybe');
  return new Inbox(db, 'group').once(session, { id: '1' }, async () => 'done');
}

export function plug(): void {
  const outbox = new MongooseOutbox<Events>(mongoose.connection);
  new Schema({ price: Number }).plugin(outboxEvents, { outbox, name: 'ticket' });
}

export const code: (error: OutboxError) => string = (error) => error.code;
export const uri: () => Promise<string> = async () => (await startServers({ subjects: ['ticket.>'] })).mongodbUri;
