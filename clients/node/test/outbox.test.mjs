// What the conformance cases can't state: JavaScript's own values, transactions, traces, the driver's errors.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { context, trace, TraceFlags } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { Long, MongoClient, ObjectId, UUID } from 'mongodb';
import { Inbox, Later, Outbox, OutboxError, Replica } from 'outboxd-client';
import { startServers } from 'outboxd-client/testing';

let servers, client, db, outbox;
before(async () => {
  servers = await startServers({ subjects: ['ticket.>'] });
  await servers.relay.kill(); // what is written stays
  client = await new MongoClient(servers.mongodbUri).connect();
  db = client.db();
  outbox = new Outbox(db);
});
after(async () => {
  await client?.close();
  await servers?.stop();
});

const transaction = (work) => client.withSession((session) => session.withTransaction(() => work(session)));
const refused = (code, words) => (error) => {
  assert.ok(error instanceof OutboxError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, words);
  return true;
};

/** What is stored as the payload's field `v`. */
async function stored(v) {
  const _id = await transaction((session) => outbox.enqueue(session, { subject: 'ticket.created', payload: { v } }));
  const { payload } = await db.collection('outbox').findOne({ _id });
  return payload;
}

describe('a transaction', () => {
  const event = { subject: 'ticket.created', key: 't1', payload: { id: 't1' } };

  it('is needed for every call', async () => {
    await client.withSession(async (session) => {
      const calls = [
        () => outbox.enqueue(session, event),
        () => outbox.enqueue(undefined, event),
        () => outbox.enqueueMany(session, [event]),
        () => outbox.enqueueMany(session, []),
        () => outbox.schedule(session, event, new Date()),
        () => outbox.cancel(session, 'x'),
        () => outbox.reschedule(session, 'x', new Date()),
        () => new Inbox(db, 'g').once(session, { id: 'x' }, async () => {}),
      ];
      for (const call of calls) await assert.rejects(call, refused('transaction', /outside a transaction/));
      session.startTransaction();
      await db.collection('tickets').insertOne({ a: 1 }, { session });
      await session.commitTransaction();
      await assert.rejects(outbox.enqueue(session, event), refused('transaction', /outside a transaction/));
    });
    assert.equal(await db.collection('outbox').countDocuments({ key: 't1' }), 0);
  });

  it('that rolls back leaves no event, and one that commits leaves the record and the event', async () => {
    const work = async (session, end) => {
      await db.collection('tickets').insertOne({ _id: 't2' }, { session });
      await outbox.enqueue(session, { ...event, key: 't2' });
      if (end) throw new Error('no');
    };
    await assert.rejects(transaction((session) => work(session, true)), /no/);
    assert.equal(await db.collection('outbox').countDocuments({ key: 't2' }), 0);
    await transaction((session) => work(session, false));
    assert.equal(await db.collection('outbox').countDocuments({ key: 't2' }), 1);
    assert.equal(await db.collection('tickets').countDocuments({ _id: 't2' }), 1);
  });

  it('takes many events at once, in order, or none', async () => {
    const events = ['created', 'updated', 'sold'].map((change) => ({ subject: `ticket.${change}`, key: 'm', payload: { change } }));
    const ids = await transaction((session) => outbox.enqueueMany(session, events));
    const found = await db.collection('outbox').find({ key: 'm' }).sort({ ts: 1 }).toArray();
    assert.deepEqual(found.map(({ _id }) => String(_id)), ids.map(String));
    const bad = [{ ...events[0], key: 'n' }, { ...events[1], key: '' }];
    await assert.rejects(transaction((session) => outbox.enqueueMany(session, bad)), refused('key', /empty/));
    assert.equal(await db.collection('outbox').countDocuments({ key: 'n' }), 0);
  });

  it('takes events at once, in the order of the calls', async () => {
    const numbers = Array.from({ length: 20 }, (_, n) => n);
    await transaction((session) =>
      Promise.all(numbers.map((n) => outbox.enqueue(session, { subject: 'ticket.sold', key: 'at-once', payload: { n } }))),
    );
    const written = await db.collection('outbox').find({ key: 'at-once' }).sort({ ts: 1, _id: 1 }).toArray();
    assert.deepEqual(written.map(({ payload }) => payload.n), numbers);
  });

  it('that has ended takes none of the calls that nobody waited for', async () => {
    const late = { ...event, key: 'late' };
    await client.withSession(async (session) => {
      session.startTransaction();
      const calls = [outbox.enqueue(session, late), outbox.enqueue(session, late)];
      await session.abortTransaction();
      session.startTransaction();
      for (const call of await Promise.allSettled(calls)) assert.equal(call.status, 'rejected');
      await outbox.enqueue(session, { ...event, key: 'next' });
      await session.commitTransaction();

      session.startTransaction();
      const call = outbox.enqueue(session, late);
      await session.commitTransaction();
      await assert.rejects(call, refused('transaction', /outside a transaction/));
    });
    assert.equal(await db.collection('outbox').countDocuments({ key: 'late' }), 0);
    assert.equal(await db.collection('outbox').countDocuments({ key: 'next' }), 1);
  });

  it('of another client, or of a session that has ended, is refused', async () => {
    const other = new MongoClient(servers.mongodbUri);
    try {
      await other.withSession(async (session) => {
        session.startTransaction();
        await assert.rejects(outbox.enqueue(session, { ...event, key: 'foreign' }), /must be from the same MongoClient/);
        await session.endSession();
        await assert.rejects(outbox.enqueue(session, event), refused('transaction', /outside a transaction/));
      });
    } finally {
      await other.close();
    }
    assert.equal(await db.collection('outbox').countDocuments({ key: 'foreign' }), 0);
  });

  it('of another writer makes a conflict, which is retried', async () => {
    await db.collection('tickets').insertOne({ _id: 'c', n: 0 });
    const raise = () =>
      transaction(async (session) => {
        await db.collection('tickets').updateOne({ _id: 'c' }, { $inc: { n: 1 } }, { session });
        await outbox.enqueue(session, { ...event, key: 'c' });
      });
    await Promise.all(Array.from({ length: 10 }, raise));
    assert.equal(await db.collection('outbox').countDocuments({ key: 'c' }), 10);
  });
});

describe('values', () => {
  it('that JSON.stringify leaves out are left out', async () => {
    const given = { a: undefined, b: () => 1, c: Symbol('x'), d: [undefined, () => 1, Symbol('x')], e: 1 };
    assert.deepEqual(await stored(given), { v: JSON.parse(JSON.stringify(given)) });
    assert.deepEqual(await stored(undefined), {});
    assert.deepEqual(await stored({ a: { toJSON: () => undefined }, b: 1 }), { v: { b: 1 } });
  });

  it('with a toJSON are what it makes', async () => {
    class Money {
      constructor(cents) {
        this.cents = cents;
      }
      toJSON() {
        return `${this.cents / 100} EUR`;
      }
    }
    assert.deepEqual(await stored({ price: new Money(250), link: new URL('http://localhost/a') }), {
      v: { price: '2.5 EUR', link: 'http://localhost/a' },
    });
    class Same {
      x = 1;
      toJSON() {
        return new Same();
      }
    }
    const given = [new Same(), { toJSON: (key) => key }, new Date(0), new Date(1), new Date('9999-12-31T23:59:59.999Z')];
    assert.deepEqual(await stored(given), { v: JSON.parse(JSON.stringify(given)) });

    Object.defineProperty(BigInt.prototype, 'toJSON', { configurable: true, value() { return String(this); } });
    try {
      assert.deepEqual(await stored(5n), { v: '5' });
    } finally {
      delete BigInt.prototype.toJSON;
    }
  });

  it('that are boxed, sparse, of a class or without a prototype are plain', async () => {
    class Point {
      x = 1;
      #hidden = 2;
    }
    const bare = Object.assign(Object.create(null), { y: 2 });
    // eslint-disable-next-line no-sparse-arrays
    const given = [new Number(5), new String('a'), new Boolean(false), [1, , 3], new Point(), bare];
    assert.deepEqual(await stored(given), { v: JSON.parse(JSON.stringify(given)) });
  });

  it('beyond 2^53 are written as they are, and beyond 64 bits refused', async () => {
    const payload = await stored(9007199254740993n);
    assert.equal(payload.v.toString(), '9007199254740993');
    await assert.rejects(stored(2n ** 63n), refused('payload', /payload\.v is a bigint beyond 64 bits/));
    await assert.rejects(stored(Long.fromString('ffffffffffffffff', true, 16)), refused('payload', /beyond 64 bits/));
  });

  for (const [name, value, words] of [
    ['NaN', [1, { price: NaN }], /payload\.v\[1\]\.price is NaN/],
    ['an invalid date', new Date(NaN), /payload\.v is an invalid date/],
    ['a year of five digits', new Date('+010000-01-01'), /outside the years 0 to 9999/],
    ['a Map', new Map([['a', 1]]), /payload\.v is a Map/],
    ['a Promise', Promise.resolve(1), /payload\.v is a Promise; await it/],
    ['a Set', new Set([1]), /payload\.v is a Set/],
    ['a typed array', new Float64Array(2), /an array buffer/],
    ['a RegExp', /a/, /of type regex/],
    ['half of a surrogate pair', 'a\ud800', /half of a surrogate pair/],
    ['half of a pair in a name', { 'x\udc00': 1 }, /half of a surrogate pair/],
    ['a name with a null character', { 'a\0b': 1 }, /null character/],
  ]) {
    it(`such as ${name} are refused with the path`, () => assert.rejects(stored(value), refused('payload', words)));
  }

  it('that contain themselves are refused', async () => {
    const circle = {};
    circle.again = circle;
    await assert.rejects(stored(circle), refused('payload', /deeper than 100 levels, or contains itself/));
  });

  it('of another major version of the driver are refused with the remedy', async () => {
    const foreign = Object.create(new ObjectId(), { [Symbol.for('@@mdb.bson.version')]: { value: 1 } });
    await assert.rejects(stored(foreign), refused('payload', /payload\.v is made by version 1 of bson.*mongoose\.mongo/));
  });

  it('of an id may be an ObjectId, a UUID or text; a key that is missing is refused', async () => {
    const payload = {};
    const subject = 'ticket.created';
    for (const id of [new ObjectId(), new UUID(), 'order-7']) {
      assert.equal(await transaction((session) => outbox.enqueue(session, { subject, payload, id, key: id })), id);
    }
    for (const key of [undefined, null]) {
      await assert.rejects(
        transaction((session) => outbox.enqueue(session, { subject, payload, key })),
        refused('key', /leave the key out for an event without order/),
      );
    }
  });
});

describe('the validator', () => {
  it('is put in words, and other errors of the driver stay as they are', async () => {
    await db.createCollection('strict', {
      validator: { $and: [
        { $jsonSchema: { required: ['shop'], properties: { key: { bsonType: 'string', maxLength: 3, description: 'at most 3 letters' } } } },
        { $expr: { $cond: [{ $ne: ['$key', 'odd'] }, true, { $not: ['The key is odd.'] }] } },
      ] },
    });
    const strict = new Outbox(db, { collection: 'strict' });
    const write = (key) => transaction((session) => strict.enqueue(session, { subject: 'ticket.a', key, payload: {} }));
    await assert.rejects(write('long'), refused('validator', /shop is missing|key: at most 3 letters/));
    const many = transaction((session) => strict.enqueueMany(session, [{ subject: 'ticket.a', key: 'long', payload: {} }]));
    await assert.rejects(many, refused('validator', /shop is missing|at most 3 letters/));
    await db.command({ collMod: 'strict', validator: { $expr: { $cond: [{ $ne: ['$key', 'odd'] }, true, { $not: ['The key is odd.'] }] } } });
    await assert.rejects(write('odd'), refused('validator', /The key is odd\./));

    const id = new ObjectId();
    const twice = () => transaction((session) => outbox.enqueue(session, { subject: 'ticket.a', payload: {}, id }));
    await twice();
    await assert.rejects(twice(), (error) => error.code === 11000);
  });
});

describe('a schedule', () => {
  it('is kept, moved and cancelled', async () => {
    const event = { subject: 'order.expired', key: 'o1', payload: { id: 'o1' }, id: 'expiry-o1' };
    const at = (minutes) => new Date(Date.now() + minutes * 60_000);
    const scheduled = db.collection('outbox_scheduled');
    assert.equal(await transaction((session) => outbox.schedule(session, event, at(15))), 'expiry-o1');
    const later = at(30);
    assert.equal(await transaction((session) => outbox.reschedule(session, 'expiry-o1', later)), true);
    assert.deepEqual((await scheduled.findOne({ _id: 'expiry-o1' })).deliverAt, later);
    assert.equal(await transaction((session) => outbox.cancel(session, 'expiry-o1')), true);
    assert.equal(await transaction((session) => outbox.cancel(session, 'expiry-o1')), false);
    assert.equal(await transaction((session) => outbox.reschedule(session, 'expiry-o1', later)), false);
    await assert.rejects(transaction((session) => outbox.schedule(session, event, 'soon')), refused('deliver-at', /not a valid Date/));
  });

  it('of a dead event stays dead', async () => {
    const event = { subject: 'order.expired', payload: {}, id: 'dead' };
    await transaction((session) => outbox.schedule(session, event, new Date()));
    // As the relay marks an event that it cannot move.
    const mark = { $set: { isLocked: false, deadAt: new Date() } };
    await db.collection('outbox_scheduled').updateOne({ _id: 'dead' }, mark);
    assert.equal(await transaction((session) => outbox.reschedule(session, 'dead', new Date())), false);
    assert.equal(await transaction((session) => outbox.cancel(session, 'dead')), true);
  });
});

describe('a trace', () => {
  const span = { traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7', traceFlags: TraceFlags.SAMPLED };
  before(() => context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable()));
  after(() => context.disable());

  it('is carried by the event, unless it names one', async () => {
    const write = (headers) =>
      context.with(trace.setSpanContext(context.active(), span), () =>
        transaction((session) => outbox.enqueue(session, { subject: 'ticket.created', payload: {}, ...(headers && { headers }) })),
      );
    const read = async (id) => (await db.collection('outbox').findOne({ _id: id })).headers;
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    assert.deepEqual(await read(await write()), { traceparent });
    assert.deepEqual(await read(await write({ a: 'b' })), { a: 'b', traceparent });
    assert.deepEqual(await read(await write({ Traceparent: 'mine' })), { Traceparent: 'mine' });
    const full = Object.fromEntries(Array.from({ length: 64 }, (_, at) => [`h${at}`, 'v']));
    assert.deepEqual(await read(await write(full)), full);
  });
});

describe('an inbox', () => {
  it('expires its ids, and two at once act once', async () => {
    const inbox = new Inbox(db, 'shipping');
    await inbox.migrate();
    await inbox.migrate();
    const indexes = await db.collection('inbox').indexes();
    assert.equal(indexes.find(({ name }) => name === 'outboxd_expiry').expireAfterSeconds, 30 * 24 * 3600);

    let runs = 0;
    const act = () =>
      transaction((session) =>
        inbox.once(session, { id: 'm1' }, async () => {
          await db.collection('shipments').insertOne({}, { session });
          runs++;
        }),
      );
    await Promise.all([act(), act(), act()]);
    assert.equal(await db.collection('shipments').countDocuments(), 1);
    assert.ok(runs >= 1);
    await assert.rejects(transaction((session) => inbox.once(session, { id: 'm2' }, async () => 'later')), Later);
  });
});

describe('a replica', () => {
  it('without a transaction takes each version once, whoever is first', async () => {
    const replica = new Replica(db, 'copies');
    const results = await Promise.all(Array.from({ length: 5 }, () => replica.apply({ id: 'r', version: 0 })));
    assert.deepEqual(results, Array(5).fill('done'));
    assert.equal(await db.collection('copies').countDocuments(), 1);
    for (const record of [{ id: 'r' }, { id: 'r', version: 1.5 }, { id: '', version: 1 }, { version: 1 }, null]) {
      await assert.rejects(replica.apply(record), { name: 'Unprocessable' });
    }
  });
});
