// The servers for users' own tests.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';

import { until } from './support.mjs';

const script = `
  const { startServers } = await import('outboxd-client/testing');
  const { mongodbUri, natsUrl, stop } = await startServers({ subjects: ['a.>'] });
  console.log(JSON.stringify([mongodbUri, natsUrl]));
  process.stdin.once('data', stop);`;

// A process that is killed leaves its files.
const folder = mkdtempSync(join(tmpdir(), 'outboxd-servers-'));
after(() => rmSync(folder, { recursive: true, force: true }));

async function started() {
  const args = ['--input-type=module', '-e', script];
  const env = { ...process.env, TMPDIR: folder };
  const child = spawn(process.execPath, args, { cwd: import.meta.dirname, env, stdio: ['pipe', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (text) => (out += text));
  await until('the servers run', async () => out.includes('\n'));
  const ports = JSON.parse(out).map((uri) => Number(/:(\d+)/.exec(uri.split('//')[1])[1]));
  return { child, ports };
}

const listens = (port) =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => (socket.destroy(), resolve(true))).once('error', () => resolve(false));
  });
const none = async (ports) => (await Promise.all(ports.map(listens))).every((open) => !open);

describe('the servers', () => {
  it('end with stop, and let the process end', async () => {
    const { child, ports } = await started();
    assert.deepEqual(await Promise.all(ports.map(listens)), [true, true]);
    child.stdin.write('stop');
    await until('the servers have ended', () => none(ports));
    child.stdin.end();
    await until('the process has ended', async () => child.exitCode === 0);
  });

  it('end with the process that started them, also when it is killed', async () => {
    const { child, ports } = await started();
    child.kill('SIGKILL');
    await until('the servers have ended', () => none(ports));
  });
});
