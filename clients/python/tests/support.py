"""What the tests share: cases of the conformance suite, transactions, a stream to read."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import nats
from bson import json_util
from bson.codec_options import DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.json_util import CANONICAL_JSON_OPTIONS
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.client_session import ClientSession
from pymongo.database import Database

from outboxd_client.testing import Servers

T = TypeVar("T")

FOLDER = Path(os.environ.get("OUTBOXD_CONFORMANCE") or Path(__file__).parents[2] / "conformance")
EJSON = CANONICAL_JSON_OPTIONS.with_options(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    tz_aware=True,
)


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of a file, with its macros written out."""
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = _expanded(json.loads(text)["cases"])
    return found


def _expanded(value: Any) -> Any:
    match value:
        case list():
            return [_expanded(item) for item in value]
        case {"$repeat": [text, times]}:
            return text * times
        case {"$concat": parts}:
            return "".join(_expanded(part) for part in parts)
        case {"$nest": levels}:
            made: dict[str, Any] = {}
            for _ in range(levels - 1):
                made = {"a": made}
            return made
        case dict():
            return {name: _expanded(inner) for name, inner in value.items()}
    return value


def parsed(value: Any) -> Any:
    """BSON's values from canonical Extended JSON."""
    return json_util.loads(json.dumps(value), json_options=EJSON)


def canonical(value: Any) -> str:
    """Canonical Extended JSON, the same for an equal value of an equal type."""
    return json_util.dumps(value, json_options=EJSON)


def millis(value: Any) -> int:
    return int(value if isinstance(value, DatetimeMS) else DatetimeMS(value))


def transaction(db: Database[Any], work: Callable[[ClientSession], T]) -> T:
    with db.client.start_session() as session:
        return session.with_transaction(work)


async def async_transaction(
    db: AsyncDatabase[Any], work: Callable[[AsyncClientSession], Awaitable[T]]
) -> T:
    async def started(session: AsyncClientSession) -> T:
        return await work(session)

    async with db.client.start_session() as session:
        return await session.with_transaction(started)


class Stream:
    """The stream of the servers, seen from outside."""

    def __init__(self, connection: Client, name: str) -> None:
        self.connection = connection
        self.name = name
        self.jetstream = connection.jetstream()

    async def publish(self, subject: str, payload: bytes, id: str, **headers: str) -> None:
        await self.jetstream.publish(subject, payload, headers={"Nats-Msg-Id": id, **headers})

    async def consumer(self, group: str) -> ConsumerInfo:
        found: ConsumerInfo = await self.jetstream.consumer_info(self.name, group)
        return found

    async def delete_consumer(self, group: str) -> None:
        await self.jetstream.delete_consumer(self.name, group)

    async def until_idle(self, group: str) -> None:
        """Waits until everything is acked."""

        async def is_idle() -> bool:
            try:
                info = await self.consumer(group)
            except NotFoundError:
                return False
            delivered = info.delivered is not None and info.delivered.consumer_seq > 0
            return delivered and info.num_pending == 0 and info.num_ack_pending == 0

        await async_until(f"{group} has acked everything", is_idle)


@asynccontextmanager
async def stream_of(servers: Servers) -> AsyncIterator[Stream]:
    connection = await nats.connect(servers.nats_url)
    try:
        yield Stream(connection, servers.stream)
    finally:
        await connection.close()


def messages(servers: Servers, count: int) -> dict[str, Msg]:
    """Reads a stream from its beginning until ``count`` messages came; by message id."""

    async def read() -> dict[str, Msg]:
        found: dict[str, Msg] = {}
        async with stream_of(servers) as stream:
            heard = await stream.jetstream.subscribe(">", stream=servers.stream)
            while len(found) < count:
                message = await heard.next_msg(timeout=60)
                found[(message.headers or {})["Nats-Msg-Id"]] = message
        return found

    return asyncio.run(read())


def until(what: str, done: Callable[[], T], patience: float = 60) -> T:
    """Waits until ``done`` answers something true."""
    end = time.monotonic() + patience
    while not (answer := done()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience} s: {what}")
        time.sleep(0.05)
    return answer


async def async_until(what: str, done: Callable[[], Any], patience: float = 60) -> None:
    """``until`` for what may be awaited."""
    end = time.monotonic() + patience
    while True:
        answer = done()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience} s: {what}")
        await asyncio.sleep(0.05)
