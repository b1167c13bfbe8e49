// Raises the records' versions to a target; started again after a kill, it continues.
import { MongoClient } from 'mongodb';
import { Outbox } from 'outboxd-client';

const [records, versions] = process.argv.slice(2).map(Number);
const client = new MongoClient(process.env.MONGODB_URI);
const db = client.db();
const outbox = new Outbox(db);

async function raise(_id) {
  for (;;) {
    const version = await client.withSession((session) =>
      session.withTransaction(async () => {
        const options = { upsert: true, returnDocument: 'after', session };
        const raised = await db.collection('records').findOneAndUpdate({ _id, version: { $lt: versions - 1 } }, [
          { $set: { version: { $add: [{ $ifNull: ['$version', -1] }, 1] }, price: { $rand: {} } } },
        ], { ...options, upsert: (await db.collection('records').countDocuments({ _id }, { session })) === 0 });
        if (!raised) return versions;
        const { price, version } = raised;
        const subject = version === 0 ? 'record.created' : 'record.updated';
        await outbox.enqueue(session, { subject, key: _id, payload: { id: _id, price, version } });
        return version;
      }),
    );
    if (version >= versions - 1) return;
  }
}
await Promise.all(Array.from({ length: records }, (_, at) => raise(`r${at}`)));
await client.close();
