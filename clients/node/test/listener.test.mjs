// The listener under faults: a lost consumer, long work, a stop, a trace.
import assert from 'node:assert/strict';
import { createConnection, createServer } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, nanos } from '@nats-io/transport-node';
import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { MongoClient } from 'mongodb';
import { Inbox } from 'outboxd-client';
import { listen } from 'outboxd-client/listener';
import { startServers } from 'outboxd-client/testing';

import { until } from './support.mjs';

let servers, client, db, nats, manager;
before(async () => {
  servers = await startServers({ subjects: ['record.*', 'work.>'] });
  client = await new MongoClient(servers.mongodbUri).connect();
  db = client.db();
  nats = await connect({ servers: servers.natsUrl });
  manager = await jetstreamManager(nats);
});
after(async () => {
  await nats?.close();
  await client?.close();
  await servers?.stop();
});

const options = (more) => ({ nats: { servers: servers.natsUrl }, stream: servers.stream, db, onProblem: () => {}, ...more });
const idle = (group) =>
  until(`${group} has acked everything`, async () => {
    const info = await manager.consumers.info(servers.stream, group).catch(() => undefined);
    return info && info.num_pending === 0 && info.num_ack_pending === 0 && info.delivered.consumer_seq > 0;
  });

describe('a listener', () => {
  it('outlives its connection to NATS and the loss of its consumer', async () => {
    const heard = [];
    const own = await connect({ servers: servers.natsUrl, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
    const on = { 'work.lost': async (n) => { heard.push(n); } };
    const listener = listen(options({ nats: own, group: 'lost', ackWait: 1_000, on }));
    const send = (n) => jetstream(nats).publish('work.lost', String(n), { msgID: `lost-${n}` });
    const hears = (...wanted) => until(`${wanted} are heard`, async () => wanted.every((n) => heard.includes(n)));

    await send(1);
    await hears(1);
    await idle('lost');
    await manager.consumers.delete(servers.stream, 'lost');
    await send(2);
    await hears(2);

    // As a network does that breaks: the socket ends under the client. A message that was on its way
    // comes again after ackWait.
    let reconnected = false;
    void (async () => {
      for await (const { type } of own.status()) if (type === 'reconnect') reconnected = true;
    })();
    own.protocol.transport.disconnect();
    await send(3);
    await hears(3);
    assert.ok(reconnected);

    // What the consumer that was made again delivers again is in the inbox.
    await idle('lost');
    await listener.stop();
    await own.close();
    assert.deepEqual(heard, [1, 2, 3]);
  });

  it('leaves a server that is about to stop, if another one can be had', async () => {
    // A server says so in an INFO of its own accord; here a proxy says it, between two answers.
    const real = new URL(servers.natsUrl);
    const [clients, left] = [new Set(), []];
    const proxy = createServer((socket) => {
      const upstream = createConnection(Number(real.port), real.hostname);
      clients.add(socket);
      socket.pipe(upstream).pipe(socket);
      for (const end of [socket, upstream]) end.on('error', () => {});
      socket.once('close', () => (left.push(socket), upstream.destroy()));
    });
    await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    const here = `127.0.0.1:${proxy.address().port}`;
    const heard = [];
    const on = { 'work.lame': async (n) => { heard.push(n); } };
    const listener = listen(options({ nats: { servers: here }, group: 'lame', ackWait: 1_000, on }));
    await listener.ready;
    await jetstream(nats).publish('work.lame', '1', { msgID: 'lame-1' });
    await idle('lame');

    const info = { ...nats.info, ldm: true, connect_urls: [here, real.host] };
    for (const socket of clients) socket.write(`INFO ${JSON.stringify(info)}\r\n`);
    await until('it has left', async () => left.length > 0);
    await jetstream(nats).publish('work.lame', '2', { msgID: 'lame-2' });
    await until('both are heard', async () => heard.length === 2);
    await listener.stop();
    proxy.close();
    for (const socket of clients) socket.destroy();
    assert.deepEqual(heard, [1, 2]);
  });

  it('keeps a message in hand while MongoDB has no primary, at no cost of a delivery', async () => {
    // A driver that gives up soon, so that the listener hears of it.
    const impatient = await new MongoClient(servers.mongodbUri, { serverSelectionTimeoutMS: 300 }).connect();
    const [deliveries, problems] = [[], []];
    const work = async (n, received) => {
      if (deliveries.length === 0) await impatient.db('admin').command({ replSetStepDown: 5, force: true }).catch(() => {});
      deliveries.push(received.deliveries);
      await impatient.db().collection('outage').insertOne({ n }, { session: received.session });
    };
    await db.createCollection('outage');
    const onProblem = (problem) => problems.push(problem);
    const listener = listen(options({ group: 'outage', db: impatient.db(), maxDeliveries: 1, onProblem, on: { 'work.outage': work } }));
    await listener.ready;
    await jetstream(nats).publish('work.outage', '1', { msgID: 'outage' });
    await idle('outage');
    await listener.stop();
    await impatient.close();

    assert.ok(problems.some((problem) => /MongoDB is not reached; work\.outage waits/.test(problem)), String(problems));
    assert.ok(deliveries.length > 1 && deliveries.every((count) => count === 1), String(deliveries));
    assert.equal(await db.collection('outage').countDocuments(), 1);
    assert.equal(await db.collection('inbox_failed').countDocuments({ subject: 'work.outage' }), 0);
  });

  it('keeps a long piece of work in hand', async () => {
    let runs = 0;
    const work = async () => {
      runs++;
      await sleep(2_500);
    };
    await jetstream(nats).publish('work.long', '1', { msgID: 'long' });
    const listeners = [1, 2].map(() => listen(options({ group: 'long', ackWait: 1_000, on: { 'work.long': work } })));
    await Promise.all(listeners.map(({ ready }) => ready));
    await idle('long');
    await Promise.all(listeners.map((listener) => listener.stop()));
    assert.equal(runs, 1);
  });

  it('ends its work before it stops', async () => {
    let begun, ended = false;
    const started = new Promise((resolve) => (begun = resolve));
    await jetstream(nats).publish('work.stop', '1', { msgID: 'stop' });
    const listener = listen(options({
      group: 'stop',
      on: {
        'work.stop': async () => {
          begun();
          await sleep(500);
          ended = true;
        },
      },
    }));
    await started;
    await listener.stop();
    assert.equal(ended, true);
    const info = await manager.consumers.info(servers.stream, 'stop');
    assert.equal(info.num_ack_pending, 0);
  });

  it('keeps the order of the stream, also behind a message that fails', async () => {
    const heard = [];
    for (let n = 0; n < 20; n++) await jetstream(nats).publish('work.order', String(n), { msgID: `order-${n}` });
    let failures = 2;
    const work = async (n) => {
      if (n === 5 && failures-- > 0) throw new Error('no luck');
      heard.push(n);
    };
    const listeners = [1, 2, 3].map(() => listen(options({ group: 'order', on: { 'work.order': work } })));
    await until('all are heard', async () => heard.length === 20);
    await Promise.all(listeners.map((listener) => listener.stop()));
    assert.deepEqual(heard, Array.from({ length: 20 }, (_, n) => n));
  });

  it('continues the trace and gives headers and the id', async () => {
    context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    const { headers } = await import('@nats-io/transport-node');
    const sent = headers();
    sent.set('traceparent', traceparent);
    await jetstream(nats).publish('work.trace', '1', { msgID: 'traced', headers: sent });
    let heard;
    const work = async (payload, received) => {
      heard = { payload, received, span: trace.getSpanContext(context.active()) };
    };
    const listener = listen(options({ group: 'trace', on: { 'work.*': work } }));
    await until('it is heard', async () => heard?.received.subject === 'work.trace');
    await listener.stop();
    context.disable();
    assert.equal(heard.span.traceId, '4bf92f3577b34da6a3ce929d0e0e4736');
    assert.equal(heard.received.id, 'traced');
    assert.equal(heard.received.headers.traceparent, traceparent);
  });

  it('is refused what it cannot do', async () => {
    assert.throws(() => listen(options({ group: 'x', on: {} })), /needs a handler/);
    assert.throws(
      () => listen(options({ group: 'x', inbox: { expireAfterSeconds: 60 }, on: { a: async () => {} } })),
      /at least 3600 s/,
    );
    assert.throws(() => listen(options({ group: '', on: { a: async () => {} } })), /name of its group/);
    await manager.streams.add({ name: 'LONG', subjects: ['long'], duplicate_window: nanos(2 * 3600_000) });
    const inbox = { collection: 'short', expireAfterSeconds: 3600 };
    const short = listen(options({ stream: 'LONG', group: 'short', inbox, on: { long: async () => {} } }));
    await assert.rejects(short.ready, /raise inbox\.expireAfterSeconds/);
    await short.stop();

    const none = { durable_name: 'none', ack_policy: 'none' };
    const push = { durable_name: 'push', ack_policy: 'explicit', deliver_subject: 'somewhere' };
    for (const consumer of [none, push]) {
      await manager.consumers.add(servers.stream, consumer);
      const listener = listen(options({ group: consumer.durable_name, on: { 'work.x': async () => {} } }));
      await assert.rejects(listener.ready, /no pull consumer with explicit acks/);
      await listener.stop();
    }
  });

  it('writes its consumer only if a setting differs, and keeps the others', async () => {
    await manager.consumers.add(servers.stream, {
      durable_name: 'kept', ack_policy: 'explicit', description: 'ours', deliver_policy: 'new', max_ack_pending: 7,
    });
    const started = async () => {
      const listener = listen(options({ group: 'kept', on: { 'work.kept': async () => {}, 'work.more': async () => {} } }));
      await listener.ready;
      await listener.stop();
      return (await manager.consumers.info(servers.stream, 'kept')).config;
    };
    let writes = 0;
    const heard = { callback: (_, { subject }) => { if (/\.CREATE\./.test(subject)) writes++; } };
    const watch = nats.subscribe('$JS.API.CONSUMER.>', heard);
    const first = await started();
    await nats.flush();
    assert.equal(writes, 1);
    assert.equal(first.description, 'ours');
    assert.equal(first.deliver_policy, 'new');
    assert.equal(first.max_ack_pending, 1);
    assert.deepEqual(first.filter_subjects, ['work.kept', 'work.more']);

    assert.deepEqual(await started(), first);
    await nats.flush();
    watch.unsubscribe();
    assert.equal(writes, 1);
  });

  it('changes the expiry of ids that is there', async () => {
    const expiry = async (expireAfterSeconds) => {
      await new Inbox(db, 'any', { collection: 'expiring', expireAfterSeconds }).migrate();
      const indexes = await db.collection('expiring').indexes();
      return indexes.find(({ name }) => name === 'outboxd_expiry').expireAfterSeconds;
    };
    assert.equal(await expiry(7200), 7200);
    assert.equal(await expiry(3600), 3600);
    assert.equal(await expiry(3600), 3600);
  });
});
