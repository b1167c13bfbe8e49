"""The listener under faults: a lost consumer, long work, a stop, a trace."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import nats
import pytest
from opentelemetry import trace
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from outboxd_client.listener import Handler, Listener, Misconfigured, Received, matches
from outboxd_client.testing import Servers

from .support import Stream, async_until, stream_of

SUBJECTS = ["record.*", "work.>"]


class World:
    """Servers with a stream and a database, and listeners that use them."""

    def __init__(self, servers: Servers, db: AsyncDatabase[Any], stream: Stream) -> None:
        self.servers = servers
        self.db = db
        self.stream = stream
        self.heard: list[Any] = []

    async def hear(self, payload: Any, _: Received) -> None:
        self.heard.append(payload)

    def listener(self, group: str, *, handler: Handler | None = None, **options: Any) -> Listener:
        usual: dict[str, Any] = {
            "nats": self.servers.nats_url,
            "stream": self.servers.stream,
            "db": self.db,
            "on": {f"work.{group}": handler or self.hear},
        }
        return Listener(group=group, **(usual | options))

    async def send(self, group: str, number: int, **headers: str) -> None:
        payload = json.dumps(number).encode()
        await self.stream.publish(f"work.{group}", payload, f"{group}-{number}", **headers)

    async def until_heard(self, *wanted: Any) -> None:
        await async_until(f"{wanted} are heard", lambda: set(wanted) <= set(self.heard))


@contextlib.asynccontextmanager
async def world_of(servers: Servers) -> AsyncIterator[World]:
    async with AsyncMongoClient[Any](servers.mongodb_uri) as client, stream_of(servers) as stream:
        yield World(servers, client.get_default_database(), stream)


def in_world(test: Callable[[World], Any]) -> Callable[[Servers], None]:
    """A test that runs in a loop of its own."""

    async def started(servers: Servers) -> None:
        async with world_of(servers) as world:
            await test(world)

    def synchronous(servers: Servers) -> None:
        asyncio.run(started(servers))

    return synchronous


@in_world
async def test_it_outlives_its_connection_and_the_loss_of_its_consumer(world: World) -> None:
    reconnects: list[int] = []

    async def reconnected() -> None:
        reconnects.append(1)

    own = await nats.connect(
        world.servers.nats_url, max_reconnect_attempts=-1, reconnected_cb=reconnected
    )
    async with world.listener("lost", nats=own, ack_wait=1.0):
        await world.send("lost", 1)
        await world.until_heard(1)
        await world.stream.until_idle("lost")
        await world.stream.delete_consumer("lost")
        await world.send("lost", 2)
        await world.until_heard(2)

        # The socket ends under the client. A message on its way comes again after ack_wait.
        await own.force_reconnect()
        await world.send("lost", 3)
        await world.until_heard(3)
        await async_until("it has reconnected", lambda: reconnects)
        # What the consumer that was made again delivers again is in the inbox.
        await world.stream.until_idle("lost")
    assert own.is_connected
    await own.close()
    assert world.heard == [1, 2, 3]


@in_world
async def test_it_leaves_a_server_that_is_about_to_stop(world: World) -> None:
    # A server says so in an INFO of its own accord; here a proxy says it, between two answers.
    real = urlsplit(world.servers.nats_url)
    clients: list[asyncio.StreamWriter] = []
    left: list[int] = []

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def proxied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        up_reader, up_writer = await asyncio.open_connection(real.hostname, real.port)
        back = asyncio.ensure_future(pump(up_reader, writer))
        await pump(reader, up_writer)
        left.append(1)
        await back

    proxy = await asyncio.start_server(proxied, "127.0.0.1", 0)
    here = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    async with world.listener("lame", nats=[f"nats://{here}"], ack_wait=1.0):
        await world.send("lame", 1)
        await world.stream.until_idle("lame")
        info = {"ldm": True, "connect_urls": [here, real.netloc]}
        line = f"INFO {json.dumps(world.stream.connection._server_info | info)}\r\n"
        clients[-1].write(line.encode())
        await async_until("it has left", lambda: left)
        await world.send("lame", 2)
        await world.until_heard(1, 2)
        await world.stream.until_idle("lame")
    proxy.close()
    assert world.heard == [1, 2]


@in_world
async def test_a_message_stays_in_hand_while_mongodb_has_no_primary(world: World) -> None:
    # A driver that gives up soon, so that the listener hears of it.
    uri = world.servers.mongodb_uri
    async with AsyncMongoClient[Any](uri, serverSelectionTimeoutMS=300) as impatient:
        db = impatient.get_default_database()
        await db.create_collection("outage")
        deliveries: list[int] = []

        async def work(number: int, received: Received) -> None:
            if not deliveries:
                with contextlib.suppress(PyMongoError):  # it closes its connections
                    await impatient.admin.command("replSetStepDown", 5, force=True)
            deliveries.append(received.deliveries)
            await db["outage"].insert_one({"n": number}, session=received.session)

        async with world.listener("outage", handler=work, db=db, max_deliveries=1):
            await world.send("outage", 1)
            await world.stream.until_idle("outage")
    assert len(deliveries) > 1
    assert set(deliveries) == {1}
    assert await world.db["outage"].count_documents({}) == 1
    assert await world.db["inbox_failed"].count_documents({"subject": "work.outage"}) == 0


@in_world
async def test_a_long_piece_of_work_stays_in_hand(world: World) -> None:
    async def work(number: int, received: Received) -> None:
        world.heard.append(number)
        await asyncio.sleep(2.5)

    await world.send("long", 1)
    first = world.listener("long", handler=work, ack_wait=1.0)
    second = world.listener("long", handler=work, ack_wait=1.0)
    async with first, second:
        await world.stream.until_idle("long")
    assert world.heard == [1]


@in_world
async def test_it_ends_its_work_before_it_stops(world: World) -> None:
    begun = asyncio.Event()

    async def work(number: int, received: Received) -> None:
        begun.set()
        await asyncio.sleep(0.5)
        world.heard.append(number)

    await world.send("stop", 1)
    async with world.listener("stop", handler=work):
        await begun.wait()
    assert world.heard == [1]
    assert (await world.stream.consumer("stop")).num_ack_pending == 0


@in_world
async def test_work_that_outlasts_the_drain_is_dropped_and_comes_again(world: World) -> None:
    begun = asyncio.Event()
    await world.db.create_collection("drained")

    async def work(number: int, received: Received) -> None:
        await world.db["drained"].insert_one({"n": number}, session=received.session)
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(3600)

    await world.send("drain", 1)
    async with world.listener("drain", handler=work, drain=0.2):
        await begun.wait()
    assert await world.db["drained"].count_documents({}) == 0
    async with world.listener("drain", handler=work):
        await world.stream.until_idle("drain")
    assert await world.db["drained"].count_documents({}) == 1


@in_world
async def test_the_order_of_the_stream_holds_behind_a_message_that_fails(world: World) -> None:
    failures = [1, 2]

    async def work(number: int, received: Received) -> None:
        if number == 5 and failures:
            failures.pop()
            raise RuntimeError("no luck")
        world.heard.append(number)

    for number in range(20):
        await world.send("order", number)
    listeners = [world.listener("order", handler=work) for _ in range(3)]
    async with listeners[0], listeners[1], listeners[2]:
        await world.until_heard(*range(20))
    assert world.heard == list(range(20))


@in_world
async def test_it_continues_the_trace_and_gives_headers_and_the_id(world: World) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def work(number: int, received: Received) -> None:
        span = trace.get_current_span().get_span_context()
        world.heard.append((received.id, dict(received.headers), f"{span.trace_id:032x}"))

    await world.send("trace", 1, traceparent=parent, name="naïve")
    async with world.listener("trace", on={"work.*": work}):
        await async_until("it is heard", lambda: [it for it in world.heard if it[0] == "trace-1"])
    [(_, headers, trace_id)] = [it for it in world.heard if it[0] == "trace-1"]
    assert headers["traceparent"] == parent
    assert headers["name"] == "naïve"
    assert trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


@in_world
async def test_what_has_no_message_id_is_put_aside(world: World) -> None:
    await world.stream.jetstream.publish("work.nameless", b"1")
    async with world.listener("nameless"):
        await world.stream.until_idle("nameless")
    [failed] = await world.db["inbox_failed"].find({"subject": "work.nameless"}).to_list()
    assert failed["_id"] == {"group": "nameless", "id": f"SHOP:{failed['sequence']}"}
    assert failed["reason"] == "the message has no Nats-Msg-Id"
    assert world.heard == []


@in_world
async def test_it_refuses_what_it_cannot_do(world: World) -> None:
    with pytest.raises(ValueError, match="needs a handler"):
        world.listener("x", on={})
    with pytest.raises(ValueError, match="at least 1:00:00"):
        world.listener("x", expire_after=datetime.timedelta(seconds=60))
    with pytest.raises(ValueError, match="name of its group"):
        world.listener("")

    await world.stream.jetstream.add_stream(
        name="LONG", subjects=["long"], duplicate_window=2 * 3600
    )
    short = world.listener("short", stream="LONG", expire_after=datetime.timedelta(hours=1))
    with pytest.raises(Misconfigured, match="raise expire_after"):
        await short.run()

    overlap = world.listener("overlap", on={"work.a": world.hear, "work.*": world.hear})
    with pytest.raises(Misconfigured, match="overlap"):
        await overlap.run()

    configs: list[dict[str, Any]] = [{"ack_policy": "none"}, {"deliver_subject": "somewhere"}]
    for config in configs:
        group = next(iter(config))
        await world.stream.jetstream.add_consumer(
            world.servers.stream, durable_name=group, **config
        )
        with pytest.raises(Misconfigured, match="no pull consumer with explicit acks"):
            async with world.listener(group):
                pass


@in_world
async def test_it_writes_its_consumer_only_if_a_setting_differs(world: World) -> None:
    await world.stream.jetstream.add_consumer(
        world.servers.stream,
        durable_name="kept",
        description="ours",
        deliver_policy="new",
        max_ack_pending=7,
        backoff=[1.0, 2.0],
        max_deliver=5,
    )
    writes: list[str] = []
    watch = await world.stream.connection.subscribe("$JS.API.CONSUMER.CREATE.>")

    async def started() -> Any:
        async with world.listener("kept", on={"work.kept": world.hear, "work.more": world.hear}):
            pass
        await world.stream.connection.flush()
        while watch.pending_msgs:
            writes.append((await watch.next_msg()).subject)
        return (await world.stream.consumer("kept")).config

    first = await started()
    assert len(writes) == 1
    assert (first.description, first.deliver_policy) == ("ours", "new")
    assert (first.max_ack_pending, first.max_deliver, first.backoff) == (1, -1, None)
    assert first.filter_subjects == ["work.kept", "work.more"]
    assert await started() == first
    assert len(writes) == 1


@in_world
async def test_it_stops_while_no_server_is_there(world: World) -> None:
    listener = world.listener("nowhere", nats="nats://127.0.0.1:1", drain=60.0)
    running = asyncio.ensure_future(listener.run())
    await asyncio.sleep(0)
    listener.stop()
    await asyncio.wait_for(running, 10)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "b.c", False),
        (">", "a", True),
    ],
)
def test_a_pattern_matches_as_the_server_does(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected
