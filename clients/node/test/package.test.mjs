// The package as npm packs it, installed into an empty project and used from there.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { startServers } from 'outboxd-client/testing';

import { messages, page } from './support.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const { version, devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const ran = promisify(execFile);

let project, servers;
before(async () => {
  project = mkdtempSync(join(tmpdir(), 'outboxd-package-'));
  await ran('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', project], { cwd: root });
  const { '@opentelemetry/context-async-hooks': _, '@opentelemetry/api': __, ...others } = devDependencies;
  const dependencies = { ...others, 'outboxd-client': `file:outboxd-client-${version}.tgz` };
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'shop', private: true, dependencies }));
  await ran('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', '--silent'], { cwd: project });
  servers = await startServers({ subjects: ['ticket.>'] });
});
after(async () => {
  await servers?.stop();
  if (project) rmSync(project, { recursive: true, force: true });
});

async function run(file, text) {
  if (text !== undefined) writeFileSync(join(project, file), text);
  const env = { ...process.env, MONGODB_URI: servers.mongodbUri };
  return (await ran(process.execPath, [file], { cwd: project, env, timeout: 60_000 })).stdout;
}

async function compiled(...args) {
  const strict = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2022,esnext.disposable'];
  const all = [join(project, 'node_modules/typescript/bin/tsc'), ...strict, '--skipLibCheck', '--esModuleInterop', '--types', 'node', ...args];
  await ran(process.execPath, all, { cwd: project }).catch(({ stdout }) => assert.fail(stdout));
}

const subjects = async (count) => [...(await messages(servers, count)).values()].map(({ subject }) => subject);
const names = `[client.Outbox, client.Inbox, client.Replica, mongoose.Outbox, mongoose.outboxEvents,
  listener.listen, testing.startServers].map((it) => typeof it).join()`;
const functions = `${Array(7).fill('function').join()}\n`;
const parts = ['mongoose', 'listener', 'testing'];

describe('the package', () => {
  it('runs the first example of its README, which is published', async () => {
    const readme = readFileSync(join(project, 'node_modules/outboxd-client/README.md'), 'utf8');
    const [, example] = /```js\n([^]*?)```/.exec(readme);
    await run('example.mjs', example);
    assert.deepEqual(await subjects(1), ['ticket.created']);
  });

  it('is imported as ECMAScript modules', async () => {
    const imports = parts.map((part) => `import * as ${part} from 'outboxd-client/${part}';`).join('\n');
    assert.equal(await run('all.mjs', `import * as client from 'outboxd-client';\n${imports}\nconsole.log(${names});`), functions);
  });

  it('is required as CommonJS, and writes an event', async () => {
    const requires = parts.map((part) => `const ${part} = require('outboxd-client/${part}');`).join('\n');
    const write = `
      const { MongoClient } = require('mongodb');
      (async () => {
        const mongo = new MongoClient(process.env.MONGODB_URI);
        const outbox = new client.Outbox(mongo.db());
        await mongo.withSession((session) => session.withTransaction(() =>
          outbox.enqueue(session, { subject: 'ticket.required', payload: {} })));
        await mongo.close();
      })();`;
    const script = `const client = require('outboxd-client');\n${requires}\nconsole.log(${names});${write}`;
    assert.equal(await run('all.cjs', script), functions);
    assert.deepEqual(await subjects(2), ['ticket.created', 'ticket.required']);
  });

  it('runs the first example of the project, which TypeScript takes', async () => {
    const [, example] = /```ts\n([^]*?)```/.exec(page('README.md'));
    writeFileSync(join(project, 'first.mts'), example);
    await compiled('--outDir', '.', 'first.mts');
    await run('again.mjs', `
      import { MongoClient } from 'mongodb';
      const mongo = new MongoClient(process.env.MONGODB_URI);
      await mongo.db().collection('tickets').deleteMany({});
      await mongo.close();`);
    await run('first.mjs');
    assert.deepEqual(await subjects(3), ['ticket.created', 'ticket.required', 'ticket.created']);
  });

  it('has types for the example of the consumers', async () => {
    const [, example] = /```ts\n([^]*?)```/.exec(page('docs/consumers.md'));
    writeFileSync(join(project, 'consumer.mts'), example);
    await compiled('--noEmit', 'consumer.mts');
  });

  it('has types for both, which refuse what is wrong', async () => {
    for (const kind of ['mts', 'cts']) cpSync(join(root, 'test/types.ts'), join(project, `types.${kind}`));
    await compiled('--noEmit', 'types.mts', 'types.cts');
  });
});
