import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import mongoose, { Schema } from 'mongoose';
import { Outbox, outboxEvents } from 'outboxd-client/mongoose';

const { connection } = mongoose;
const schema = new Schema({ title: { type: String, required: true }, price: { type: Number, min: 0 } });
schema.plugin(outboxEvents, { outbox: new Outbox(connection), name: 'ticket' });
const Ticket = mongoose.model('Ticket', schema);
await mongoose.connect(process.env.MONGODB_URI!);

const statuses: Record<string, number> = { SyntaxError: 400, ValidationError: 400, DocumentNotFoundError: 404, VersionError: 409 };

createServer(async (request, response) => {
  const { method, url } = request; // POST /tickets, PUT /tickets/ID, DELETE /tickets/ID
  const id = url!.split('/')[2];
  if (method !== 'POST' && !mongoose.isObjectIdOrHexString(id)) return response.writeHead(400).end('an ID has 24 hex digits');
  try {
    const { title, price } = method === 'DELETE' ? {} : (((await json(request)) ?? {}) as any);
    const answer = await connection.transaction(async (session) => {
      const ticket = method === 'POST' ? new Ticket() : await Ticket.findById(id).session(session).orFail();
      return method === 'DELETE' ? ticket.deleteOne({ session }) : ticket.set({ title, price }).save({ session });
    });
    response.end(JSON.stringify(answer));
  } catch (error) {
    response.writeHead(statuses[(error as Error).name] ?? 500).end(String(error));
  }
}).listen(Number(process.env.PORT ?? 3000));
