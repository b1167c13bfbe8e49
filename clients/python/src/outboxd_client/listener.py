"""Receives messages and applies them, in order and once. Needs ``outboxd-client[nats]``.

A listener is a durable pull consumer named by its group; all instances of a service share it. A
message is acked after the transaction of its handler has committed, with its id in the inbox. One
message is asked for at a time, so that nothing waits in an instance that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConnectionFailure, PyMongoError

from ._consumer import (
    ConsumerSettings,
    Misconfigured,
    check_window,
    consumer_config,
    ready_consumer,
)
from ._inbox import MONTH, AsyncInbox, Later, Unprocessable, Verdict
from ._trace import in_trace

__all__ = ["Handler", "Listener", "Misconfigured", "Received"]

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
"""Waits of a message that failed or is late, and of a lost server, in seconds."""
PULL = 2.0
"""How long one request for a message stands, in seconds; ``stop`` waits no longer for it."""
SHORTEST_HEARTBEAT = 0.25
LONGEST_REASON = 2000

OUTAGES = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """What a handler gets beside the payload."""

    id: str
    """The message id: the same each time the message comes."""
    subject: str
    headers: Mapping[str, str]
    session: AsyncClientSession
    """The session, with a transaction under way. Pass it to every write."""
    deliveries: int
    """How often the message has come, this time included."""


Handler: TypeAlias = Callable[[Any, Received], Awaitable[Verdict | None]]
"""Applies a message. Its writes belong in the session; it may run more than once."""


class Listener:
    """Applies the messages of a stream. Reconnects for ever.

    Run it with ``await listener.run()`` until ``stop``, or beside other work with ``async with``.

    nats: how to reach NATS: URLs, the arguments of ``nats.connect``, or a connection to share,
        which stays open when the listener stops.
    stream: the stream; the relay's ``NATS_CLUSTER_ID``.
    group: the name of the durable consumer, which all instances of a service share.
    db: where the handlers write and the inbox is.
    on: what to do with each subject, wildcards allowed. Only these subjects are delivered, and no
        two of them may overlap.
    inbox, expire_after: the collection of the inbox, and how long it keeps ids.
    max_ack_pending: messages without an ack, of all instances together. With 1 a message is
        delivered once the one before it is acked, so that messages are applied in the order of the
        stream. Raise it only if the handlers bear another order. An instance applies one message at
        a time in either case.
    ack_wait: when the server gives the message of a dead instance to another one, in seconds.
    max_deliveries: deliveries that may fail before a message is put aside.
    max_later: times that a message may be late before it is put aside; 100 are about 15 minutes.
    drain: how long ``stop`` waits for the message under way, in seconds. A handler that is not done
        by then is cancelled, its transaction is rolled back, and the message comes again.
    decode: reads a payload; by default JSON.
    """

    def __init__(
        self,
        *,
        nats: str | Sequence[str] | Mapping[str, Any] | Client,
        stream: str,
        group: str,
        db: AsyncDatabase[Any],
        on: Mapping[str, Handler],
        inbox: str = "inbox",
        expire_after: datetime.timedelta = MONTH,
        max_ack_pending: int = 1,
        ack_wait: float = 30.0,
        max_deliveries: int = 10,
        max_later: int = 100,
        drain: float = 10.0,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> None:
        if not on:
            raise ValueError("a listener needs a handler")
        self._nats = nats
        self._stream = stream
        self._consumer = ConsumerSettings(group, tuple(on), ack_wait, max_ack_pending)
        self._db = db
        self._on = dict(on)
        self._expire_after = expire_after
        self._inbox = AsyncInbox(db, group, collection=inbox, expire_after=expire_after)
        self._failed = f"{inbox}_failed"
        self._max_deliveries = max_deliveries
        self._max_later = max_later
        self._drain = drain
        self._decode = decode

        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # How often a message was late, by its sequence; those deliveries are no failures.
        self._laters: dict[int, int] = {}

    async def run(self) -> None:
        """Listens until ``stop``. Raises ``Misconfigured`` if no retry can help."""
        work = asyncio.ensure_future(self._listen())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            in_hand = self._ready.is_set()
            await asyncio.wait({work}, timeout=self._drain if in_hand else 0)
            if work.done():
                work.result()
        finally:
            stopping.cancel()
            # More than once, because nats-py may ignore a cancellation while it connects.
            while not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=1)

    def stop(self) -> None:
        """Has ``run`` end: the message under way is finished and acked."""
        self._stopping.set()

    async def __aenter__(self) -> Listener:
        """Starts to listen; returns once the consumer is there."""
        self._task = asyncio.ensure_future(self.run())
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            ready.cancel()
        if self._task.done():
            self._task.result()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._task is not None:
            await self._task

    async def _listen(self) -> None:
        async with self._connection() as connection:
            tries = 0
            while not self._stopping.is_set():
                began = time.monotonic()
                try:
                    await self._consume(connection)
                except Misconfigured:
                    raise
                except Exception as error:
                    tries = 0 if time.monotonic() - began > PULL else tries + 1
                    logger.warning("not listening; trying again: %s", reason_of(error))
                    await self._pause(wait_of(tries))

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Client]:
        given = self._nats
        if isinstance(given, Client):
            yield given
            return

        connection = Client()

        async def leave() -> None:
            """The server is about to stop; it is left while another one can be had."""
            if len(connection.servers) > 1:
                await connection.force_reconnect()

        async def report(error: Exception) -> None:
            logger.warning("NATS: %s", reason_of(error))

        options = given if isinstance(given, Mapping) else {"servers": _servers(given)}
        usual = {"name": self._consumer.group, "error_cb": report, "lame_duck_mode_cb": leave}
        await connection.connect(**{**usual, **options, "max_reconnect_attempts": -1})
        try:
            yield connection
        finally:
            await _closed(connection)

    async def _consume(self, connection: Client) -> None:
        await check_window(connection, self._stream, self._expire_after)
        await self._inbox.migrate()
        await ready_consumer(connection, self._stream, self._consumer)
        self._ready.set()

        jetstream = connection.jetstream()
        pulling = await jetstream.pull_subscribe_bind(self._consumer.group, self._stream)
        try:
            while not self._stopping.is_set():
                try:
                    [message] = await pulling.fetch(1, timeout=PULL)
                except asyncio.TimeoutError:
                    # It fails if the consumer was deleted; then the consumer is made again.
                    await consumer_config(connection, self._stream, self._consumer.group)
                    continue
                await self._handle(message)
        finally:
            if not connection.is_closed:
                await pulling.unsubscribe()

    async def _handle(self, message: Msg) -> None:
        working = asyncio.ensure_future(self._heartbeat(message))
        try:
            if self._stopping.is_set():
                raise _Stopped
            await self._settle(message)
        except (_Stopped, asyncio.CancelledError) as error:
            if not message.is_acked:
                await message.nak()  # another instance gets it at once
            if not isinstance(error, _Stopped):
                raise
        finally:
            working.cancel()

    async def _heartbeat(self, message: Msg) -> None:
        while True:
            await asyncio.sleep(max(SHORTEST_HEARTBEAT, self._consumer.ack_wait / 3))
            await message.in_progress()

    async def _settle(self, message: Msg) -> None:
        """Applies a message and answers the server."""
        deliveries, sequence = message.metadata.num_delivered, message.metadata.sequence.stream
        laters = self._laters.get(sequence, 0)
        failures = deliveries - laters
        if deliveries > self._max_deliveries + self._max_later:
            await self._put_aside(message, "it was delivered again and again, and never answered")
            return

        try:
            # An outage is no fault of the message: no delivery is used up.
            problem = f"MongoDB is not reached; {message.subject} waits"
            await self._in_hand(problem, partial(self._apply, message), is_outage)
        except Later:
            if laters + 1 >= self._max_later:
                await self._put_aside(message, "an earlier message is missing")
            else:
                self._laters[sequence] = laters + 1
                await message.nak(wait_of(laters))
        except Unprocessable as error:
            await self._put_aside(message, str(error))
        except _Stopped:
            raise
        except Exception as error:
            if failures >= self._max_deliveries:
                await self._put_aside(message, reason_of(error))
            else:
                text = "%s was not applied; trying again"
                logger.warning(text, message.subject, exc_info=error)
                await message.nak(wait_of(failures + 1))
        else:
            self._laters.pop(sequence, None)
            await message.ack()

    async def _in_hand(
        self,
        problem: str,
        work: Callable[[], Awaitable[None]],
        is_passing: Callable[[BaseException], bool],
    ) -> None:
        """Runs ``work`` again while it fails with an error that passes."""
        tries = 0
        while True:
            try:
                await work()
                return
            except Exception as error:
                if not is_passing(error):
                    raise
                logger.warning("%s: %s", problem, reason_of(error))
            await self._pause(wait_of(tries))
            tries += 1
            if self._stopping.is_set():
                raise _Stopped

    async def _apply(self, message: Msg) -> None:
        handler = handler_for(self._on, message.subject)
        if handler is None:
            return
        headers = message.headers or {}
        id = headers.get("Nats-Msg-Id", "")
        try:
            payload = self._decode(message.data)
        except Exception as error:
            raise Unprocessable(f"the payload can't be read: {reason_of(error)}") from error

        async def transaction(session: AsyncClientSession) -> None:
            count = message.metadata.num_delivered
            received = Received(id, message.subject, headers, session, count)
            await self._inbox.once(session, id, partial(handler, payload, received))

        later: Later | None = None
        with in_trace(message.subject, id, headers):
            async with self._db.client.start_session() as session:
                try:
                    await session.with_transaction(transaction)
                except Later as error:
                    later = error  # no error of the span
        if later is not None:
            raise later

    async def _put_aside(self, message: Msg, reason: str) -> None:
        """Writes a message to ``<inbox>_failed`` and acks it. Without MongoDB it stays in hand."""
        headers = message.headers or {}
        about = message.metadata
        sequence = about.sequence.stream
        fields = {
            "subject": message.subject,
            "payload": message.data,
            "headers": headers,
            "stream": about.stream,
            "sequence": sequence,
            "deliveries": about.num_delivered,
            "reason": reason[:LONGEST_REASON],
        }
        id = headers.get("Nats-Msg-Id") or f"{about.stream}:{sequence}"
        write = partial(self._inbox.fail, id, **fields)
        await self._in_hand(f"{message.subject} is not put aside", write, lambda _: True)
        self._laters.pop(sequence, None)
        logger.warning("%s was put aside in %s: %s", message.subject, self._failed, reason)
        await message.ack()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


class _Stopped(Exception):
    """The listener stops, and the message in hand goes back to the server."""


def wait_of(tries: int) -> float:
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries, 10))


def reason_of(error: BaseException) -> str:
    text = str(error) or "it gave no reason"
    return text if isinstance(error, Unprocessable) else f"{type(error).__name__}: {text}"


def is_outage(error: BaseException | None) -> bool:
    """Whether MongoDB was not reached or its primary moved."""
    if isinstance(error, ConnectionFailure):
        return True
    if isinstance(error, PyMongoError) and any(map(error.has_error_label, OUTAGES)):
        return True
    return error is not None and is_outage(error.__cause__)


def handler_for(on: Mapping[str, Handler], subject: str) -> Handler | None:
    if subject in on:
        return on[subject]
    return next((on[pattern] for pattern in on if matches(pattern, subject)), None)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject matches a pattern with ``*`` and ``>``."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted):
        return False
    return all(token in ("*", given) for token, given in zip(wanted, tokens, strict=False))


def _servers(given: str | Sequence[str]) -> str | list[str]:
    return given if isinstance(given, str) else list(given)


async def _closed(connection: Client) -> None:
    try:
        if connection.is_connected:
            await connection.flush(timeout=2)  # the last ack
    except (asyncio.TimeoutError, nats.errors.Error) as error:
        logger.warning("the last ack may be lost; its message is in the inbox: %s", error)
    finally:
        await connection.close()
