// The same with Mongoose: writes an order and its event in one transaction; prints the event's id.
import mongoose, { Schema } from 'mongoose';

const { ObjectId, Timestamp } = mongoose.mongo; // of the driver that Mongoose brings, not of another one
const { Mixed } = Schema.Types;

const Order = mongoose.model('Order', new Schema({ _id: String, total: Number, version: Number }, { versionKey: false }));

const OutboxEvent = mongoose.model('OutboxEvent', new Schema({
  ts: { type: Mixed, default: () => new Timestamp({ t: 0, i: 0 }) }, // the server fills it: the order within a key
  subject: { type: String, required: true },
  key: String, // the record's id
  payload: { type: Mixed, required: true },
  headers: Mixed,
  isLocked: { type: Boolean, default: true },
  failures: { type: [Mixed], default: [] },
}, {
  collection: 'outbox', // Mongoose would say `outboxevents`
  minimize: false, // an empty payload stays
  versionKey: false,
  autoCreate: false, // `outboxd migrate` makes it, with a validator
  autoIndex: false,
}));

const number = process.argv[2];
const order = { _id: number, total: 25, version: 0 };
const event = {
  _id: new ObjectId(),
  subject: 'order.placed',
  key: number,
  payload: { id: number, total: 25, version: 0 },
};

try {
  await mongoose.connect(process.env.MONGODB_URI);
  await Order.init(); // collections and indexes are made before a transaction meets them
  await mongoose.connection.transaction(async (session) => {
    // May run more than once. What an earlier run wrote is rolled back, so nothing is there twice.
    await Order.create([order], { session }); // an array: else `{ session }` is a second order
    await OutboxEvent.create([event], { session });
  });
  console.log(event._id.toString());
} finally {
  await mongoose.disconnect();
}
