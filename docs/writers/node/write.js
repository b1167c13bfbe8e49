// Writes an order and its event in one transaction; prints the event's id.
import { MongoClient, ObjectId, Timestamp } from 'mongodb';

const number = process.argv[2];
const client = new MongoClient(process.env.MONGODB_URI);
const db = client.db(); // the one that the URI names

const order = { _id: number, total: 25, version: 0 };
const event = {
  _id: new ObjectId(),
  ts: new Timestamp({ t: 0, i: 0 }), // the server fills it: the order within a key
  subject: 'order.placed',
  key: number, // the record's id
  payload: { id: number, total: 25, version: 0 },
  isLocked: true,
  failures: [],
};

try {
  await client.withSession((session) => session.withTransaction(async () => {
    // May run more than once. What an earlier run wrote is rolled back, so nothing is there twice.
    await db.collection('orders').insertOne(order, { session });
    await db.collection('outbox').insertOne(event, { session });
  }));
  console.log(event._id.toString());
} finally {
  await client.close();
}
