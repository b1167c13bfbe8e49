// A first attempt at a relay: it takes events from the change stream, and publishes one at a time.
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { MongoClient, Timestamp } from "mongodb";

const { MONGODB_URI, NATS_URL, BENCH_SINCE } = process.env;

const mongo = await MongoClient.connect(MONGODB_URI);
const outbox = mongo.db().collection("outbox");
const js = jetstream(await connect({ servers: NATS_URL }));

process.once("SIGTERM", () => process.exit(0));

const changes = outbox.watch([{ $match: { operationType: "insert" } }], {
  startAtOperationTime: new Timestamp({ t: Number(BENCH_SINCE), i: 1 }),
});
for await (const { fullDocument: event } of changes) {
  const { _id, subject, payload } = event;
  try {
    await js.publish(subject, JSON.stringify(payload), { msgID: _id.toHexString() });
    await outbox.deleteOne({ _id });
  } catch (error) {
    const failure = { at: new Date(), message: String(error) };
    await outbox.updateOne({ _id }, { $set: { isLocked: false }, $push: { failures: failure } });
  }
}
