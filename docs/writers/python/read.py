"""Waits for an event in the stream; prints its subject, message id and payload."""

import asyncio
import json
import os
import sys

import nats


async def read(event_id):
    connection = await nats.connect(os.environ["NATS_URL"].split(","))
    stream = os.environ["NATS_CLUSTER_ID"]
    messages = await connection.jetstream().subscribe("order.placed", stream=stream, ordered_consumer=True)
    while True:
        message = await messages.next_msg(timeout=30)
        message_id = message.headers["Nats-Msg-Id"]
        if message_id.endswith(f".{event_id}"):
            break
    payload = json.loads(message.data)
    print(json.dumps({"subject": message.subject, "Nats-Msg-Id": message_id, "payload": payload}))
    await connection.close()


asyncio.run(read(sys.argv[1]))
