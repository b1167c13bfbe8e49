// An order that expires unless it is paid in time. `node schedule.js place 1042` saves the order and schedules its
// expiry; `node schedule.js pay 1042` cancels the expiry and takes the payment, and prints whether it was in time.
import { MongoClient, Timestamp } from 'mongodb';

const [verb, number] = process.argv.slice(2);
const minutes = Number(process.env.MINUTES_TO_PAY ?? 15);
const client = new MongoClient(process.env.MONGODB_URI);
const db = client.db(); // the one that the URI names

async function place() {
  const expired = {
    _id: `${number}-expired`, // follows from the order's id, so that nobody has to store it
    deliverAt: new Date(Date.now() + minutes * 60_000), // due by MongoDB's clock
    ts: new Timestamp({ t: 0, i: 0 }),
    subject: 'order.expired',
    key: number,
    payload: { id: number },
    isLocked: true,
    failures: [],
  };
  await client.withSession((session) => session.withTransaction(async () => {
    await db.collection('orders').insertOne({ _id: number, total: 25, version: 0 }, { session });
    await db.collection('outbox_scheduled').insertOne(expired, { session });
  }));
}

async function pay() {
  return client.withSession((session) => session.withTransaction(async () => {
    // Runs again if the relay moves the event at the same moment; then it finds nothing.
    const { deletedCount } = await db.collection('outbox_scheduled')
      .deleteOne({ _id: `${number}-expired` }, { session });
    if (deletedCount === 0) return false; // it has expired, or was paid before
    await db.collection('orders').updateOne({ _id: number }, { $set: { paid: true }, $inc: { version: 1 } }, { session });
    return true; // once this is committed, the expiry is never delivered
  }));
}

try {
  console.log(verb === 'pay' ? await pay() : await place() ?? 'placed');
} finally {
  await client.close();
}
