// What the tests share: cases of the conformance suite, and a stream to read.
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';

const folder = process.env.OUTBOXD_CONFORMANCE ?? fileURLToPath(new URL('../../conformance/', import.meta.url));

/** A page of the project. */
export const page = (path) => readFileSync(`${process.env.OUTBOXD_SOURCES ?? fileURLToPath(new URL('../../..', import.meta.url))}/${path}`, 'utf8');

/** The cases of a file, with its macros written out. */
export function cases(name) {
  const text = readFileSync(`${folder}/${name}.json`, 'utf8');
  return JSON.parse(text).cases.map(expanded);
}

function expanded(value) {
  if (Array.isArray(value)) return value.map(expanded);
  if (typeof value !== 'object' || value === null) return value;
  if ('$repeat' in value) return value.$repeat[0].repeat(value.$repeat[1]);
  if ('$concat' in value) return value.$concat.map(expanded).join('');
  if ('$nest' in value) return Array.from({ length: value.$nest - 1 }).reduce((inner) => ({ a: inner }), {});
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, expanded(inner)]));
}

/** Reads a stream from its beginning until `count` messages came; by message id. */
export async function messages(servers, count) {
  const nats = await connect({ servers: servers.natsUrl });
  const found = new Map();
  const consumer = await jetstream(nats).consumers.get(servers.stream);
  const all = await consumer.consume();
  const patience = setTimeout(() => all.stop(), 60_000);
  for await (const message of all) {
    found.set(message.headers.get('Nats-Msg-Id'), message);
    if (found.size >= count) break;
  }
  clearTimeout(patience);
  await nats.close();
  return found;
}

/** Waits until `done` answers something true. */
export async function until(what, done, patience = 60_000) {
  const end = Date.now() + patience;
  for (;;) {
    const answer = await done();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not within ${patience} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
