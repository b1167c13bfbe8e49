"""Waits for an event in the stream and reads it as a CloudEvent; for a relay with event.cloudevents = "binary"."""

import asyncio
import json
import os
import sys

import nats
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat


async def read(event_id):
    connection = await nats.connect(os.environ["NATS_URL"].split(","))
    stream = os.environ["NATS_CLUSTER_ID"]
    messages = await connection.jetstream().subscribe("order.placed", stream=stream, ordered_consumer=True)
    while True:
        message = await messages.next_msg(timeout=30)
        # The headers of NATS' binding are those of HTTP's, but for the content type, which is an attribute like any other.
        event = from_binary(HTTPMessage(message.headers, message.data), JSONFormat())
        if event.get_id() == event_id:
            break
    attributes = {name: str(value) for name, value in event.get_attributes().items()}
    print(json.dumps({"attributes": attributes, "data": event.get_data()}))
    await connection.close()


asyncio.run(read(sys.argv[1]))
