// The plugin: versions, events in the session of the save, and what is refused.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';

import mongoose, { Schema } from 'mongoose';
import { Inbox, Outbox, OutboxError, outboxEvents, outboxModel } from 'outboxd-client/mongoose';
import { startServers } from 'outboxd-client/testing';

let servers, Ticket, events;
const { connection } = mongoose;
before(async () => {
  servers = await startServers({ subjects: ['ticket.>'] });
  await servers.relay.kill(); // what is written stays
  const schema = new Schema({ title: String, price: { type: Number, default: 5 }, tags: [String] });
  schema.plugin(outboxEvents, { outbox: new Outbox(connection), name: 'ticket' });
  Ticket = mongoose.model('Ticket', schema); // before the connection is open
  await mongoose.connect(servers.mongodbUri);
  await Ticket.init();
  events = outboxModel(connection);
});
beforeEach(() => connection.collection('outbox').deleteMany({}));
after(async () => {
  await mongoose.disconnect();
  await servers?.stop();
});

const written = async () => (await events.find().sort({ ts: 1 }).lean()).map(({ subject, key, payload }) => ({ subject, key, payload }));
const created = () => connection.transaction(async (session) => (await Ticket.create([{ title: 'a', tags: ['x'] }], { session }))[0]);
const refused = (words) => (error) => error instanceof OutboxError && words.test(error.message);

describe('the plugin', () => {
  it('enqueues each change, as stored, and counts the versions', async () => {
    const ticket = await connection.transaction(async (session) => {
      const [made] = await Ticket.create([{ title: 'a', tags: ['x'] }], { session });
      return made;
    });
    await connection.transaction(async (session) => {
      const found = await Ticket.findById(ticket._id).select('price version').session(session);
      found.price = 6;
      await found.save();
    });
    await connection.transaction(async (session) => {
      const found = await Ticket.findById(ticket._id).session(session);
      await found.deleteOne();
    });
    const id = ticket.id;
    assert.deepEqual(await written(), [
      { subject: 'ticket.created', key: id, payload: { id, title: 'a', price: 5, tags: ['x'], version: 0 } },
      { subject: 'ticket.updated', key: id, payload: { id, title: 'a', price: 6, tags: ['x'], version: 1 } },
      { subject: 'ticket.deleted', key: id, payload: { id, title: 'a', price: 6, tags: ['x'], version: 2 } },
    ]);
  });

  it('lets one of two saves of one version through', async () => {
    const { _id } = await created();
    const [one, two] = [await Ticket.findById(_id), await Ticket.findById(_id)];
    await connection.transaction(async (session) => {
      one.price = 7;
      await one.save({ session });
    });
    const second = connection.transaction(async (session) => {
      two.price = 8;
      await two.save({ session });
    });
    await assert.rejects(second, { name: 'VersionError' });
    const stale = connection.transaction((session) => two.deleteOne({ session }));
    await assert.rejects(stale, refused(/the record has version 1, and version 0 was read/));
    assert.deepEqual((await written()).map(({ payload }) => payload.version), [0, 1]);
    assert.equal((await Ticket.findById(_id)).price, 7);
  });

  it('enqueues nothing for a save that changes nothing, and each version once', async () => {
    const { _id } = await created();
    await connection.transaction(async (session) => {
      const found = await Ticket.findById(_id).session(session);
      await found.save();
      found.tags.push('y');
      await found.save();
      found.tags.push('z');
      await found.save();
    });
    assert.deepEqual((await written()).map(({ payload }) => [payload.version, payload.tags.length]), [[0, 1], [1, 2], [2, 3]]);
  });

  it('refuses a save of a record that was loaded without its version', async () => {
    const { _id } = await created();
    const save = connection.transaction(async (session) => {
      const found = await Ticket.findById(_id).select('price').session(session);
      found.price = 6;
      await found.save();
    });
    await assert.rejects(save, refused(/loaded without its field version/));
  });

  it('refuses a save of a record that is older than the plugin, with the remedy', async () => {
    const { insertedId } = await Ticket.collection.insertOne({ title: 'old', price: 1 });
    const save = () => connection.transaction(async (session) => {
      const found = await Ticket.findById(insertedId).session(session);
      found.price = 6;
      await found.save();
    });
    await assert.rejects(save(), refused(/older than the plugin; set it: collection\.updateMany/));
    await Ticket.collection.updateMany({ version: null }, { $set: { version: 0 } });
    await save();
    assert.deepEqual((await written()).map(({ payload }) => payload.version), [1]);
  });

  it('enqueues what a later hook has changed', async () => {
    const schema = new Schema({ seen: Number });
    schema.plugin(outboxEvents, { outbox: new Outbox(connection), name: 'visit' });
    schema.pre('save', function () {
      this.seen = (this.seen ?? 0) + 1;
    });
    const Visit = mongoose.model('Visit', schema);
    await Visit.init();
    await connection.transaction(async (session) => {
      const [visit] = await Visit.create([{}], { session });
      await visit.save({ session });
    });
    assert.deepEqual((await written()).map(({ subject, payload }) => [subject, payload.seen]), [['visit.created', 1], ['visit.updated', 2]]);
  });

  it('takes the session of the transaction around it, if Mongoose passes that on', async () => {
    mongoose.set('transactionAsyncLocalStorage', true);
    try {
      await connection.transaction(async () => {
        const ticket = await Ticket.create({ title: 'around' });
        ticket.price = 7;
        await ticket.save();
        await ticket.deleteOne();
      });
      await assert.rejects(connection.transaction(async () => {
        await Ticket.create({ title: 'gone' });
        throw new Error('no');
      }), /no/);
      await assert.rejects(Ticket.create({ title: 'x' }), refused(/outside a transaction/));
    } finally {
      mongoose.set('transactionAsyncLocalStorage', false);
    }
    assert.deepEqual((await written()).map(({ subject }) => subject), ['ticket.created', 'ticket.updated', 'ticket.deleted']);
    assert.equal(await Ticket.countDocuments({ title: 'gone' }), 0);
  });

  it('leaves nothing when the transaction rolls back', async () => {
    const failed = connection.transaction(async (session) => {
      await Ticket.create([{ title: 'gone' }], { session });
      throw new Error('no');
    });
    await assert.rejects(failed, /no/);
    assert.equal(await Ticket.countDocuments({ title: 'gone' }), 0);
    assert.deepEqual(await written(), []);
  });

  it('writes one event though the body runs twice', async () => {
    let runs = 0;
    const ticket = new Ticket({ title: 'twice' });
    await connection.transaction(async (session) => {
      await ticket.save({ session });
      if (++runs === 1) throw Object.assign(new mongoose.mongo.MongoServerError({ message: 'again' }), { errorLabelSet: new Set(['TransientTransactionError']), hasErrorLabel: (label) => label === 'TransientTransactionError' });
    });
    assert.equal(runs, 2);
    assert.deepEqual((await written()).map(({ payload }) => payload.title), ['twice']);
  });

  it('refuses a save or a removal without a transaction', async () => {
    await assert.rejects(Ticket.create({ title: 'x' }), refused(/outside a transaction/));
    await assert.rejects(new Ticket({ title: 'x' }).save(), refused(/outside a transaction/));
    const ticket = await created();
    const found = await Ticket.findById(ticket._id);
    found.price = 9;
    await assert.rejects(found.save(), refused(/outside a transaction/));
    await assert.rejects(found.deleteOne(), refused(/outside a transaction/));
    const session = await connection.startSession(); // a session alone is no transaction
    await assert.rejects(found.save({ session }), refused(/outside a transaction/));
    await session.endSession();
    assert.equal(await Ticket.countDocuments({ title: 'x' }), 0);
  });

  it('refuses writes that go past the document', async () => {
    const { _id } = await created();
    const calls = {
      updateOne: () => Ticket.updateOne({ _id }, { price: 1 }),
      updateMany: () => Ticket.updateMany({}, { price: 1 }),
      replaceOne: () => Ticket.replaceOne({ _id }, { price: 1 }),
      findOneAndUpdate: () => Ticket.findOneAndUpdate({ _id }, { price: 1 }),
      findByIdAndUpdate: () => Ticket.findByIdAndUpdate(_id, { price: 1 }),
      findOneAndReplace: () => Ticket.findOneAndReplace({ _id }, { price: 1 }),
      deleteOne: () => Ticket.deleteOne({ _id }),
      deleteMany: () => Ticket.deleteMany({}),
      findByIdAndDelete: () => Ticket.findByIdAndDelete(_id),
      insertMany: () => Ticket.insertMany([{ title: 'x' }]),
      bulkWrite: () => Ticket.bulkWrite([{ insertOne: { document: { title: 'x' } } }]),
      bulkSave: async () => Ticket.bulkSave([new Ticket({ title: 'x' })]),
      'document.updateOne': async () => (await Ticket.findById(_id)).updateOne({ price: 1 }),
    };
    for (const [name, call] of Object.entries(calls)) {
      await assert.rejects(async () => call(), refused(/goes past the document|outside a transaction/), name);
    }
    assert.equal((await Ticket.findById(_id)).price, 5);
  });

  it('takes a payload, a key and a version field of your own', async () => {
    const schema = new Schema({ _id: String, total: Number });
    schema.plugin(outboxEvents, {
      outbox: new Outbox(connection), name: 'order', versionField: 'v',
      key: (order) => `customer-${order._id}`, payload: (order) => ({ total: order.total, v: order.v }),
    });
    const Order = mongoose.model('Order', schema);
    await Order.init();
    await connection.transaction((session) => Order.create([{ _id: 'o1', total: 3 }], { session }));
    assert.deepEqual(await written(), [{ subject: 'order.created', key: 'customer-o1', payload: { total: 3, v: 0 } }]);
  });
});

describe('the model of the events', () => {
  it('reads and never writes', async () => {
    await created();
    assert.equal(await events.countDocuments({ subject: 'ticket.created' }), 1);
    await assert.rejects(events.create({ subject: 'x' }), refused(/only reads/));
    await assert.rejects(async () => events.deleteMany({}), refused(/only reads/));
    await assert.rejects(async () => events.insertMany([{ subject: 'x' }]), refused(/only reads/));
  });
});

describe('the inbox', () => {
  it('takes a connection of Mongoose', async () => {
    const inbox = new Inbox(connection, 'shipping');
    await inbox.migrate();
    const act = () => connection.transaction((session) => inbox.once(session, { id: 'm1' }, async () => {}));
    await act();
    await act();
    assert.equal(await connection.collection('inbox').countDocuments(), 1);
  });
});
