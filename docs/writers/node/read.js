// Waits for an event in the stream; prints its subject, message id and payload.
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';

const id = process.argv[2];
const nats = await connect({ servers: process.env.NATS_URL.split(',') });

const consumer = await jetstream(nats).consumers.get(process.env.NATS_CLUSTER_ID); // unnamed: ordered, gone with us
const messages = await consumer.consume();
const patience = setTimeout(() => messages.stop(), 30_000);

process.exitCode = 1;
for await (const message of messages) {
  const messageId = message.headers?.get('Nats-Msg-Id') ?? '';
  if (messageId.endsWith(`.${id}`)) {
    console.log(JSON.stringify({ subject: message.subject, 'Nats-Msg-Id': messageId, payload: message.json() }));
    process.exitCode = 0;
    break;
  }
}
clearTimeout(patience);
await nats.close();
