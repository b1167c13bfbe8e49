import mongoose from 'mongoose';
import { listen, Replica } from 'outboxd-client/listener';

type Ticket = { id: string; title: string; price?: number; version: number };
type Events = { 'ticket.created': Ticket; 'ticket.updated': Ticket; 'ticket.deleted': Ticket };

const { connection } = await mongoose.connect(process.env.MONGODB_URI!);
const tickets = new Replica(connection, 'ticket_copies');
const listener = listen<Events>({
  nats: { servers: process.env.NATS_URL! },
  stream: process.env.NATS_CLUSTER_ID!,
  group: 'orders',
  db: connection,
  on: {
    'ticket.created': (ticket, { session }) => tickets.apply(ticket, session),
    'ticket.updated': (ticket, { session }) => tickets.apply(ticket, session),
    'ticket.deleted': (ticket, { session }) => tickets.remove(ticket, session),
  },
});
process.once('SIGTERM', () => listener.stop().then(() => mongoose.disconnect()));
