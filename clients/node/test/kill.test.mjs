// Writers, consumers and the relay are killed in the middle of their work, again and again.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { MongoClient } from 'mongodb';
import { startServers } from 'outboxd-client/testing';

import { until } from './support.mjs';

let servers, client, db;
const children = new Set();
before(async () => {
  servers = await startServers({ subjects: ['record.*'] });
  client = await new MongoClient(servers.mongodbUri).connect();
  db = client.db();
  // Until a transaction expires, the one of a killed process keeps its documents from all others.
  await client.db('admin').command({ setParameter: 1, transactionLifetimeLimitSeconds: 5 });
});
after(async () => {
  for (const child of children) child.kill('SIGKILL');
  await client?.close();
  await servers?.stop();
});

function run(script, ...args) {
  const path = fileURLToPath(new URL(`load/${script}.mjs`, import.meta.url));
  const given = { MONGODB_URI: servers.mongodbUri, NATS_URL: servers.natsUrl, NATS_CLUSTER_ID: servers.stream };
  const child = spawn(process.execPath, [path, ...args.map(String)], { env: { ...process.env, ...given }, stdio: 'inherit' });
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

async function killed(child) {
  if (child.exitCode !== null) return; // it was done before
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
}

describe('kill -9', () => {
  it('of writer, consumer and relay leaves the replicas equal, each message applied once', async () => {
    const [records, versions] = [8, 40];
    const total = records * versions;
    for (const name of ['records', 'replicas', 'applied']) await db.createCollection(name);

    const start = () => [run('writer', records, versions), run('consumer'), run('consumer')];
    const applied = async () => {
      const sums = await db.collection('applied').aggregate([{ $group: { _id: null, times: { $sum: '$times' } } }]).toArray();
      return sums[0]?.times ?? 0;
    };

    let running = start();
    for (const share of [0.15, 0.35, 0.55]) {
      await until(`${share * total} are applied`, async () => (await applied()) > share * total, 120_000);
      await Promise.all([...running.map(killed), servers.relay.kill()]);
      running = start();
      await servers.relay.start();
    }
    const [writer, ...consumers] = running;
    await until('all are written', async () => writer.exitCode === 0, 120_000);
    await until('all are applied', async () => (await applied()) >= total, 120_000);

    const show = (name) => db.collection(name).find().sort({ _id: 1 }).project({ price: 1, version: 1 }).toArray();
    assert.deepEqual(await show('replicas'), await show('records'));
    assert.deepEqual((await show('records')).map(({ version }) => version), Array(records).fill(versions - 1));
    assert.equal(await applied(), total);
    assert.equal(await db.collection('inbox').countDocuments(), total);
    assert.equal(await db.collection('inbox_failed').countDocuments(), 0);

    for (const consumer of consumers) consumer.kill('SIGTERM');
    await until('the consumers have drained', async () => consumers.every(({ exitCode }) => exitCode === 0));
  });
});
