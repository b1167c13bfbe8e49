// A consumer that acts once on each event, though it may be delivered again; runs until it is ended.
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { MongoClient } from 'mongodb';

const client = new MongoClient(process.env.MONGODB_URI);
const db = client.db();
const nats = await connect({ servers: process.env.NATS_URL.split(',') });
process.once('SIGTERM', () => nats.drain());

// Ids are kept for longer than any message may take to come again.
await db.collection('handled').createIndex({ at: 1 }, { expireAfterSeconds: 30 * 24 * 3600 });
await db.createCollection('shipments').catch(() => {}); // it is there

const consumer = await jetstream(nats).consumers.get(process.env.NATS_CLUSTER_ID, 'shipping'); // durable, made before
for await (const message of await consumer.consume()) {
  const _id = message.headers.get('Nats-Msg-Id');
  await client.withSession((session) => session.withTransaction(async () => {
    const once = { upsert: true, session };
    const { upsertedCount } = await db.collection('handled').updateOne({ _id }, { $setOnInsert: { at: new Date() } }, once);
    if (upsertedCount === 1) { // else it was handled before
      await db.collection('shipments').insertOne({ order: message.json().id }, { session });
    }
  }));
  message.ack(); // after the commit: a crash before it brings the message again
}
await client.close();
