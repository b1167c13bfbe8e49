// Servers for tests: a mongod, a nats-server and the relay between them.
//
// Binaries come from OUTBOXD_MONGOD, OUTBOXD_NATS_SERVER and OUTBOXD_BIN, from PATH, or from the
// cache of outboxd's `deploy/local/servers fetch`.
import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Settings of the servers. */
export interface ServersOptions {
  /** Subjects of the stream, wildcards allowed. */
  subjects: string[];
  /** The database; `shop`. */
  database?: string;
  /** The stream; `SHOP`. */
  stream?: string;
  /** Settings of the relay, such as `{ OUTBOXD_EVENT__CLOUDEVENTS: 'binary' }`. */
  settings?: Record<string, string>;
}

/** Servers that run. */
export interface Servers {
  /** With the database in it. */
  mongodbUri: string;
  natsUrl: string;
  database: string;
  stream: string;
  relay: Relay;
  /** Ends what was started and removes its files. */
  stop(): Promise<void>;
}

/** A relay that can be killed and started again. */
export interface Relay {
  start(): Promise<void>;
  /** Ends it as `kill -9` does, or with another signal. */
  kill(signal?: NodeJS.Signals): Promise<void>;
}

/** How long a server may take to start, in ms. */
const PATIENCE = 30_000;

/** Starts the servers, makes the outbox and the stream, and starts the relay. */
export async function startServers(options: ServersOptions): Promise<Servers> {
  const folder = mkdtempSync(join(tmpdir(), 'outboxd-test-'));
  const started: ChildProcess[] = [];
  const { database = 'shop', stream = 'SHOP' } = options;

  const stop = async () => {
    for (const child of started.reverse()) await end(child, 'SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };

  try {
    const server = await startMongod(folder, started);
    const natsUrl = await startNats(folder, started);
    const mongodbUri = server.replace('/?', `/${database}?`);

    const env = {
      MONGODB_URI: mongodbUri,
      NATS_URL: natsUrl,
      NATS_CLUSTER_ID: stream,
      OUTBOXD_STREAM__SUBJECTS: options.subjects.join(','),
      OUTBOXD_ADMIN__LISTEN: '127.0.0.1:0',
      OUTBOXD_ALERTS__FILE: join(folder, 'alerts.jsonl'),
      // A relay that was killed is followed soon.
      OUTBOXD_LEASE__TTL: '3s',
      OUTBOXD_RETRY__OUTAGE_GRACE: '2s',
      OUTBOXD_NATS__ACK_TIMEOUT: '1s',
      ...options.settings,
    };
    const relay = new Process(find('outboxd', 'OUTBOXD_BIN', 'outboxd'), env, folder, started);
    await relay.migrate();
    await relay.start();
    return { mongodbUri, natsUrl, database, stream, relay, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

class Process implements Relay {
  #child?: ChildProcess;

  constructor(
    private readonly binary: string,
    private readonly env: Record<string, string>,
    private readonly folder: string,
    private readonly started: ChildProcess[],
  ) {}

  async migrate(): Promise<void> {
    const child = launch(this.binary, ['migrate'], this.folder, this.env);
    const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
    if (code !== 0) throw new Error(`outboxd migrate failed:\n${log(this.folder, this.binary)}`);
  }

  async start(): Promise<void> {
    const child = launch(this.binary, ['run'], this.folder, this.env);
    this.started.push(child);
    this.#child = child;
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.#child) await end(this.#child, signal);
  }
}

async function startMongod(folder: string, started: ChildProcess[]): Promise<string> {
  const port = await freePort();
  const binary = find('mongod', 'OUTBOXD_MONGOD', 'mongod-');
  const args = ['--replSet', 'rs0', '--dbpath', folder, '--bind_ip', '127.0.0.1', '--port', String(port),
    '--nounixsocket', '--quiet', '--wiredTigerCacheSizeGB', '0.25'];
  const child = launch(binary, args, folder);
  started.push(child);

  const driver = await import('mongodb').catch(async () => (await import('mongoose')).default.mongo);
  const uri = `mongodb://127.0.0.1:${port}/?directConnection=true`;
  const members = [{ _id: 0, host: `127.0.0.1:${port}` }];
  await until('a writable primary', child, folder, binary, async () => {
    // A client whose first connection failed stays closed, so each try has its own.
    const client = new driver.MongoClient(uri, { serverSelectionTimeoutMS: 1_000 });
    try {
      const admin = client.db('admin');
      const { isWritablePrimary, setName } = await admin.command({ hello: 1 });
      if (!setName) await admin.command({ replSetInitiate: { _id: 'rs0', members } });
      return isWritablePrimary === true;
    } finally {
      await client.close();
    }
  });
  return `mongodb://127.0.0.1:${port}/?replicaSet=rs0`;
}

async function startNats(folder: string, started: ChildProcess[]): Promise<string> {
  const binary = find('nats-server', 'OUTBOXD_NATS_SERVER', 'nats-server-');
  const args = ['--addr', '127.0.0.1', '--port', '-1', '--ports_file_dir', folder, '--jetstream', '--store_dir', join(folder, 'nats')];
  const child = launch(binary, args, folder);
  started.push(child);

  let url = '';
  await until('a listening nats-server', child, folder, binary, async () => {
    const file = readdirSync(folder).find((name) => name.endsWith('.ports'));
    if (!file) return false;
    url = JSON.parse(readFileSync(join(folder, file), 'utf8')).nats?.[0] ?? '';
    return url !== '';
  });
  return url;
}

async function until(what: string, child: ChildProcess, folder: string, binary: string, done: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + PATIENCE;
  let problem: unknown;
  while (!(await done().catch((error) => ((problem = error), false)))) {
    if (child.exitCode !== null || Date.now() > end) {
      throw new Error(`${what}: waited in vain; its log:\n${log(folder, binary)}`, { cause: problem });
    }
    await sleep(100);
  }
}

function launch(binary: string, args: string[], folder: string, env: Record<string, string> = {}): ChildProcess {
  const out = openSync(logFile(folder, binary), 'a');
  const child = spawn(binary, args, { env: { ...process.env, ...env }, stdio: ['ignore', out, out] });
  child.on('error', () => {}); // its exit is seen by those who wait
  if (child.pid) guard(child, child.pid);
  return child;
}

/** Ends a child when this process dies, however it dies: then the guard's input ends. */
function guard(child: ChildProcess, pid: number): void {
  const script = 'read -r line; kill -9 "$1"';
  const watching = spawn('sh', ['-c', script, 'sh', String(pid)], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  watching.on('error', () => {}); // without a shell there is no guard
  watching.stdin.on('error', () => {});
  watching.unref();
  (watching.stdin as unknown as { unref(): void }).unref();
  child.once('exit', () => watching.kill('SIGKILL'));
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill(signal);
  await ended;
}

/** A program: from its variable, from PATH, or the newest one in the cache. */
function find(name: string, variable: string, cached: string): string {
  const given = process.env[variable];
  if (given) return given;

  const cache = process.env['OUTBOXD_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'outboxd');
  const inCache = (() => {
    try {
      return readdirSync(cache).filter((file) => file.startsWith(cached)).sort().reverse();
    } catch {
      return [];
    }
  })();
  const paths = [
    ...(process.env['PATH'] ?? '').split(delimiter).map((folder) => join(folder, name)),
    ...inCache.map((file) => join(cache, file)),
  ];
  const found = paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (!found) throw new Error(`no ${name} on PATH or in ${cache}; install it, or set ${variable} to its path`);
  return found;
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

function logFile(folder: string, binary: string): string {
  return join(folder, `${binary.split('/').at(-1)}.log`);
}

function log(folder: string, binary: string): string {
  return readFileSync(logFile(folder, binary), 'utf8').split('\n').slice(-20).join('\n');
}
