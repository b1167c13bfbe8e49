// Keeps replicas of the records, and counts each message once; runs until it is ended.
import { MongoClient } from 'mongodb';
import { Replica } from 'outboxd-client';
import { listen } from 'outboxd-client/listener';

const client = new MongoClient(process.env.MONGODB_URI);
const db = client.db();
const replica = new Replica(db, 'replicas');
const apply = async (record, { session }) => {
  const verdict = await replica.apply(record, session);
  await db.collection('applied').updateOne({ _id: record.id }, { $inc: { times: 1 } }, { upsert: true, session });
  return verdict;
};
const listener = listen({
  nats: { servers: process.env.NATS_URL }, stream: process.env.NATS_CLUSTER_ID, group: 'copies', db,
  ackWait: 2_000, on: { 'record.*': apply },
});
process.once('SIGTERM', async () => {
  await listener.stop();
  await client.close();
});
