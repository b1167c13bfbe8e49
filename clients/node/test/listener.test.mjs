// The listener under faults: a lost consumer, long work, a stop, a trace.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { MongoClient } from 'mongodb';
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
    let heard = 0;
    const listener = listen(options({ group: 'lost', on: { 'work.lost': async () => { heard++; } } }));
    await listener.ready;
    await jetstream(nats).publish('work.lost', '1');
    await idle('lost');
    await manager.consumers.delete(servers.stream, 'lost');
    await jetstream(nats).publish('work.lost', '2', { msgID: 'second' });
    await until('both are heard', async () => heard >= 2);
    await listener.stop();
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
    assert.throws(() => listen(options({ group: 'x', concurrency: 2, on: { a: async () => {} } })), /raise maxAckPending/);
    assert.throws(() => listen(options({ group: '', on: { a: async () => {} } })), /name of its group/);
    const problems = [];
    const listener = listen(options({
      group: 'short', inbox: { expireAfterSeconds: 60 }, on: { 'work.x': async () => {} },
      onProblem: (problem, error) => problems.push(String(error)),
    }));
    await until('it reports', async () => problems.some((text) => /raise inbox\.expireAfterSeconds/.test(text)));
    await listener.stop();
  });
});
