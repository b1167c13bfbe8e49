// The cases that every client passes, against a real MongoDB, relay and NATS.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { EJSON } from 'bson';
import { MongoClient, ObjectId, UUID } from 'mongodb';
import { Inbox, Outbox, OutboxError, Replica, Unprocessable } from 'outboxd-client';
import { listen } from 'outboxd-client/listener';
import { startServers } from 'outboxd-client/testing';

import { cases, messages, until } from './support.mjs';

let servers, client, db;
before(async () => {
  servers = await startServers({ subjects: ['case', 'case.>', 'listened.>'] });
  client = await new MongoClient(servers.mongodbUri).connect();
  db = client.db();
});
after(async () => {
  await client?.close();
  await servers?.stop();
});

const transaction = (work) => client.withSession((session) => session.withTransaction(() => work(session)));
const parsed = (value) => EJSON.parse(JSON.stringify(value), { relaxed: false });
const text = (value) => EJSON.stringify(value, { relaxed: false });

/** A Date is written as the text that `JSON.stringify` makes of it, always with milliseconds. */
const dated = (payload) => (payload?.v instanceof Date ? { v: payload.v.toISOString() } : payload);
const padded = ({ event, message }) => (event.payload?.v?.$date ? JSON.stringify(parsed(event.payload)) : message);

describe('events', () => {
  const sent = [];

  for (const file of ['subjects', 'keys', 'headers', 'payloads']) {
    for (const one of cases(file)) {
      it(`${file}: ${one.name}`, async () => {
        const outbox = new Outbox(db);
        const event = parsed(one.event);
        const plain = { ...event, ...(event.headers && { headers: JSON.parse(JSON.stringify(one.event.headers)) }) };
        if (one.refused) {
          await assert.rejects(transaction((session) => outbox.enqueue(session, plain)), (error) => {
            assert.ok(error instanceof OutboxError, String(error));
            assert.ok(error.message.includes(one.refused), error.message);
            return true;
          });
          return;
        }

        let id, stored;
        // Read in the transaction: afterwards the relay may have taken it.
        await transaction(async (session) => {
          id = await outbox.enqueue(session, plain);
          stored = await db.collection('outbox').findOne({ _id: id }, { session, promoteValues: false });
        });
        const { _id, ts, ...rest } = stored;
        assert.ok(text(ts).includes('"$timestamp"'), text(ts));
        const { id: _, ...given } = event;
        const usual = { subject: event.subject, key: event.key, payload: dated(event.payload), headers: event.headers };
        const wanted = one.document ? parsed(one.document) : { ...defined(usual), isLocked: true, failures: [] };
        assert.equal(text(rest), text(wanted));
        if (event.id) assert.equal(text(_id), text(event.id));
        sent.push({ ...one, id: one.messageId ?? String(id) });
      });
    }
  }

  it('are published as expected', async () => {
    const found = await messages(servers, sent.length);
    for (const one of sent) {
      const message = found.get(`${servers.database}.outbox.${one.id}`);
      assert.ok(message, `${one.name}: no message ${one.id}`);
      const expected = one.messageBase64 ? Buffer.from(one.messageBase64, 'base64') : Buffer.from(padded(one));
      assert.deepEqual(Buffer.from(message.data), expected, one.name);
      assert.equal(message.subject, one.event.subject);
      for (const [name, value] of Object.entries(one.event.headers ?? {})) {
        if (value !== null) assert.equal(message.headers.get(name), value, one.name);
      }
    }
    assert.ok(sent.length > 80, `${sent.length} cases`);
  });

  it('of all kinds are published as JSON.stringify writes them', async () => {
    const outbox = new Outbox(db);
    const given = new Map();
    for (let at = 0; at < 20; at++) {
      await transaction(async (session) => {
        const events = Array.from({ length: 25 }, (_, n) => ({ id: `random-${at}-${n}`, subject: 'case.random', payload: [randomValue(4)] }));
        await outbox.enqueueMany(session, events);
        for (const { id, payload } of events) given.set(`${servers.database}.outbox.${id}`, JSON.stringify(payload));
      });
    }
    const found = await messages(servers, sent.length + given.size);
    for (const [id, text] of given) assert.equal(found.get(id)?.string(), text);
  });
});

let seed = 1;
/** A number from 0 to 1, the same in each run. */
function random() {
  seed = (seed * 48_271) % 2_147_483_647;
  return seed / 2_147_483_647;
}
const pick = (from) => from[Math.floor(random() * from.length)];

function randomValue(depth) {
  const text = () => Array.from({ length: Math.floor(random() * 6) }, () => pick(['a', '"', '\\', '/', '\n', '\u0001', '\u007f', '\u2028', 'é', '😀', ' '])).join('');
  const bytes = new DataView(new ArrayBuffer(8));
  const double = () => {
    for (let at = 0; at < 8; at++) bytes.setUint8(at, Math.floor(random() * 256));
    const value = bytes.getFloat64(0);
    return Number.isFinite(value) ? value : 0;
  };
  const made = (which) => ({ toJSON: (key) => [key, undefined, 5, new Error(key)][which] });
  const makers = [
    text, double, () => pick([0, -0, 1, -1, 2 ** 31, -(2 ** 31), 2 ** 53, 2 ** 53 + 2, 2 ** 63, 2 ** 64, 1e21, 1e-7, 0.1 + 0.2]),
    () => Math.floor(random() * 1e10), () => random() < 0.5, () => null, () => undefined, () => () => 1, () => Symbol('s'),
    () => new Date(Math.floor((random() - 0.2) * 1e14)), () => new Date(Math.floor(random() * 2e9) * 1000), () => Object(text()),
    () => made(Math.floor(random() * 4)), () => new ObjectId(), () => new UUID(),
  ];
  if (depth > 0) {
    const size = () => Math.floor(random() * 5);
    makers.push(
      () => Array.from({ length: size() }, () => randomValue(depth - 1)),
      () => Object.fromEntries(Array.from({ length: size() }, () => [pick(['', 'a', 'b', '10', '9', '$set', 'a.b', '__proto__', '_id', 'é', '"', text()]), randomValue(depth - 1)])),
    );
    return random() < 0.5 ? makers.at(-1)() : pick(makers)();
  }
  return pick(makers)();
}

describe('scheduled', () => {
  for (const one of cases('scheduled')) {
    it(one.name, async () => {
      const outbox = new Outbox(db, { collection: 'timetable' });
      const at = new Date(Number(one.deliverAt.$date.$numberLong));
      const schedule = () => transaction((session) => outbox.schedule(session, { subject: 'case.a', payload: {} }, at));
      if (one.refused) {
        await assert.rejects(schedule(), (error) => error instanceof OutboxError && error.message.includes(one.refused));
        return;
      }
      const _id = await schedule();
      const stored = await db.collection('timetable_scheduled').findOne({ _id });
      assert.equal(stored.deliverAt.getTime(), at.getTime());
      assert.deepEqual(Object.keys(stored), ['_id', 'ts', 'subject', 'payload', 'isLocked', 'failures', 'deliverAt']);
    });
  }
});

describe('replicas', () => {
  for (const [at, one] of cases('replicas').entries()) {
    it(one.name, async () => {
      const replica = new Replica(db, `replica${at}`);
      for (const { record, removed, verdict } of one.messages) {
        const answer = await transaction((session) => (removed ? replica.remove(record, session) : replica.apply(record, session)));
        assert.equal(answer, verdict, text(record));
      }
      const copies = await db.collection(replica.collection).find().sort({ _id: 1 }).toArray();
      const shown = copies.map(({ removedAt, ...copy }) => (removedAt ? { ...copy, removed: true } : copy));
      assert.deepEqual(shown, one.copies);
    });
  }
});

describe('inboxes', () => {
  for (const [at, one] of cases('inboxes').entries()) {
    it(one.name, async () => {
      const collection = `inbox${at}`;
      const effects = db.collection(`effects${at}`);
      for (const { group, id, work, ran } of one.messages) {
        let hasRun = false;
        const inbox = new Inbox(db, group, { collection });
        await transaction((session) =>
          inbox.once(session, { id }, async () => {
            hasRun = true;
            await effects.insertOne({ id }, { session });
            if (work === 'error') throw new Error('no luck');
            return work;
          }),
        ).catch((error) => assert.notEqual(work, 'done', String(error)));
        assert.equal(hasRun, ran);
      }
      const ids = await db.collection(collection).find().sort({ _id: 1 }).toArray();
      assert.deepEqual(ids.map(({ _id }) => [_id.group, _id.id]), one.ids);
      assert.equal(await effects.countDocuments(), one.effects);
    });
  }
});

describe('listeners', () => {
  let nats, manager;
  before(async () => {
    nats = await connect({ servers: servers.natsUrl });
    manager = await jetstreamManager(nats);
  });
  after(() => nats?.close());

  for (const [at, one] of cases('listeners').entries()) {
    it(one.name, async () => {
      const [subject, group, collection] = [`listened.${at}`, `group${at}`, `listened${at}`];
      await jetstream(nats).publish(subject, one.payload, { msgID: `message-${at}` });
      const answers = [...one.answers];
      const handle = async (_, { session }) => {
        const answer = answers.shift();
        await db.collection(`effect${at}`).insertOne({}, { session });
        if (answer === 'error') throw new Error('no luck');
        if (answer === 'unprocessable') throw new Unprocessable('it is never applied');
        return answer;
      };

      for (let round = 0; round < (one.again ? 2 : 1); round++) {
        // A consumer that is made again gets everything again.
        if (round > 0) await manager.consumers.delete(servers.stream, group);
        const listener = listen({
          nats: { servers: servers.natsUrl }, stream: servers.stream, group, db, on: { [subject]: handle },
          inbox: { collection }, maxDeliveries: 3, maxLater: 3, onProblem: () => {},
        });
        try {
          await listener.ready;
          await until('every message is acked', async () => {
            const info = await manager.consumers.info(servers.stream, group);
            return info.num_pending === 0 && info.num_ack_pending === 0 && info.delivered.consumer_seq > 0;
          });
        } finally {
          await listener.stop();
        }
      }

      assert.deepEqual(answers, []);
      assert.equal(await db.collection(`effect${at}`).countDocuments(), one.effects);
      const failed = await db.collection(`${collection}_failed`).find().toArray();
      assert.equal(failed.length, one.failed ? 1 : 0);
      if (one.failed) {
        assert.ok(failed[0].reason.includes(one.failed), failed[0].reason);
        assert.equal(failed[0].subject, subject);
        assert.equal(Buffer.from(failed[0].payload.buffer).toString(), one.payload);
      }
    });
  }
});

function defined(value) {
  return Object.fromEntries(Object.entries(value).filter(([, part]) => part !== undefined));
}
