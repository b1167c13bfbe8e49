// The two services of docs/tutorial.md: the page shows these files, and they keep what it promises.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { MongoClient } from 'mongodb';
import { startServers } from 'outboxd-client/testing';

import { page, until } from './support.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const source = (name) => readFileSync(join(root, 'examples', `${name}.ts`), 'utf8');

let project, servers, client, url;
const running = new Set();
before(async () => {
  project = mkdtempSync(join(tmpdir(), 'outboxd-tutorial-'));
  cpSync(join(root, 'examples'), project, { recursive: true });
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }');
  mkdirSync(join(project, 'node_modules'));
  symlinkSync(root, join(project, 'node_modules/outboxd-client'));
  for (const name of ['@types', 'mongoose']) symlinkSync(join(root, 'node_modules', name), join(project, 'node_modules', name));

  const compiler = join(root, 'node_modules/typescript/bin/tsc');
  const args = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2022,esnext.disposable', '--skipLibCheck'];
  await promisify(execFile)(process.execPath, [compiler, ...args, '--types', 'node', 'tickets.ts', 'orders.ts'], { cwd: project }).catch(
    ({ stdout }) => assert.fail(stdout),
  );
  servers = await startServers({ subjects: ['ticket.*'] });
  client = await new MongoClient(servers.mongodbUri).connect();
});
after(async () => {
  for (const child of running) await end(child, 'SIGKILL');
  await client?.close();
  await servers?.stop();
  if (project) rmSync(project, { recursive: true, force: true });
});

function start(name, env) {
  const child = spawn(process.execPath, [join(project, `${name}.js`)], {
    env: { ...process.env, NATS_URL: servers.natsUrl, NATS_CLUSTER_ID: servers.stream, ...env }, stdio: 'inherit',
  });
  running.add(child);
  return child;
}

async function end(child, signal) {
  running.delete(child);
  const ended = new Promise((resolve) => child.once('exit', (code) => resolve(code)));
  child.kill(signal);
  return ended;
}

const startOrders = () => start('orders', { MONGODB_URI: servers.mongodbUri.replace('/shop?', '/orders?') });

async function startTickets() {
  const port = await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port: free } = server.address();
      server.close(() => resolve(free));
    });
  });
  url = `http://127.0.0.1:${port}/tickets`;
  const child = start('tickets', { MONGODB_URI: servers.mongodbUri, PORT: String(port) });
  await until('the server listens', () => fetch(url).then(() => true, () => false));
  return child;
}

async function call(method, path, body) {
  const response = await fetch(url + path, { method, ...(body && { body: JSON.stringify(body) }) });
  const text = await response.text();
  return response.ok ? JSON.parse(text) : response.status;
}

const copy = (_id) => client.db('orders').collection('ticket_copies').findOne({ _id });
const copied = (id, version) => until(`version ${version} of ${id}`, async () => {
  const found = await copy(id);
  return found?.version === version && found;
});

describe('the tutorial', () => {
  it('shows the files that run here', () => {
    const shown = [...page('docs/tutorial.md').matchAll(/```ts\n([^]*?)```/g)].map(([, code]) => code);
    assert.deepEqual(shown, [source('tickets'), source('orders')]);
    assert.ok(shown.join('').split('\n').length - 1 < 50, 'under 50 lines');
  });

  it('has what a consumer without a library does', () => {
    const [, rest] = page('docs/consumers.md').split('## Without a library');
    const [, snippet] = /```js\n([^]*?)```/.exec(rest);
    const flush = (text) => text.replace(/^ +/gm, '');
    assert.ok(flush(page('docs/writers/node/handle.js')).includes(flush(snippet)), snippet);
  });

  it('keeps a copy of each ticket, though services and relay are killed', async () => {
    let [tickets, orders] = [await startTickets(), startOrders()];
    const { _id: id, version } = await call('POST', '', { title: 'Hamlet', price: 20 });
    assert.equal(version, 0);
    assert.deepEqual(await copied(id, 0), { _id: id, title: 'Hamlet', price: 20, version: 0 });

    assert.equal(await call('POST', '', { price: 20 }), 400);
    for (const body of ['{', 'null', '[]', '1']) assert.equal((await fetch(url, { method: 'POST', body })).status, 400);
    assert.equal(await call('PUT', '/6b02a0c4d3a1f0b7c6a59483', { title: 'x', price: 1 }), 404);
    assert.equal(await call('PUT', '/42', { title: 'x', price: 1 }), 400);
    assert.equal(await call('DELETE', ''), 400);
    assert.equal(await client.db('shop').collection('tickets').countDocuments(), 1);

    await end(orders, 'SIGKILL');
    await servers.relay.kill();
    await Promise.all([21, 22, 23].map((price) => call('PUT', `/${id}`, { title: 'Hamlet', price })));
    await end(tickets, 'SIGKILL');
    await servers.relay.start();
    [tickets, orders] = [await startTickets(), startOrders()];
    const { price } = await client.db('shop').collection('tickets').findOne({ title: 'Hamlet' });
    assert.equal((await copied(id, 3)).price, price);

    await call('DELETE', `/${id}`);
    assert.ok((await copied(id, 4)).removedAt);
    assert.equal(await client.db('orders').collection('inbox_failed').countDocuments(), 0);
    assert.equal(await end(orders, 'SIGTERM'), 0, 'it stops by itself');
    await end(tickets, 'SIGKILL');
  });
});
