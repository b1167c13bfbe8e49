"""Writing events inside the service's own transaction."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from bson.datetime_ms import DatetimeMS
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ._calls import Call, Calls, run, run_async
from ._errors import OutboxError, explained
from ._event import UNSET, Event, EventId, check_id, to_document
from ._payload import MAX_PAYLOAD_BYTES, to_millis
from ._trace import current_trace

EARLIEST, LATEST = 0, 253_402_300_799_999
"""The years 1970 to 9999, in milliseconds since 1970."""


class _Operations:
    """What both kinds of outbox do, as calls of the driver."""

    def __init__(
        self,
        *,
        collection: str = "outbox",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self._collection = collection
        self._scheduled = f"{collection}_scheduled"
        self._max_payload_bytes = max_payload_bytes

    def enqueue(self, session: Any, event: Event[Any]) -> Calls[EventId]:
        require_transaction(session)
        document = self._document(event)
        with explained():
            yield Call(self._collection, "insert_one", (document,), session)
        return _id_of(event, document)

    def enqueue_many(self, session: Any, events: Iterable[Event[Any]]) -> Calls[list[EventId]]:
        require_transaction(session)
        given = list(events)
        documents = [self._document(event) for event in given]
        if documents:
            with explained():
                yield Call(self._collection, "insert_many", (documents,), session)
        return [_id_of(*written) for written in zip(given, documents, strict=True)]

    def schedule(self, session: Any, event: Event[Any], deliver_at: Any) -> Calls[EventId]:
        require_transaction(session)
        document = self._document(event) | {"deliverAt": _check_time(deliver_at)}
        with explained():
            yield Call(self._scheduled, "insert_one", (document,), session)
        return _id_of(event, document)

    def cancel(self, session: Any, id: EventId) -> Calls[bool]:
        require_transaction(session)
        result = yield Call(self._scheduled, "delete_one", ({"_id": check_id(id)},), session)
        return bool(result.deleted_count)

    def reschedule(self, session: Any, id: EventId, deliver_at: Any) -> Calls[bool]:
        require_transaction(session)
        waiting = {"_id": check_id(id), "deadAt": None}
        change = {"$set": {"deliverAt": _check_time(deliver_at)}}
        result = yield Call(self._scheduled, "update_one", (waiting, change), session)
        return bool(result.matched_count)

    def _document(self, event: Event[Any]) -> dict[str, Any]:
        return to_document(event, current_trace(), self._max_payload_bytes)


class Outbox:
    """A service's outbox. ``outboxd migrate`` creates the collection and its validator.

    Every call needs a session with a transaction under way. An event is published once that
    transaction has committed, and never if it rolls back. With ``opentelemetry-api`` installed, an
    event carries the current span in its headers.

    ``collection`` is what the relay's configuration names. ``max_payload_bytes`` is the longest
    payload as published; raise it together with ``max_payload`` of nats-server, and keep it 32 KiB
    below that.
    """

    def __init__(
        self,
        db: Database[Any],
        *,
        collection: str = "outbox",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self._db = db
        self._do = _Operations(collection=collection, max_payload_bytes=max_payload_bytes)

    def enqueue(self, session: ClientSession, event: Event[Any]) -> EventId:
        """Writes an event; returns its id."""
        return run(self._db, self._do.enqueue(session, event))

    def enqueue_many(self, session: ClientSession, events: Iterable[Event[Any]]) -> list[EventId]:
        """Writes events in one command; returns their ids.

        Events of one key are published in the order given. If one event is refused, none is
        written.
        """
        return run(self._db, self._do.enqueue_many(session, events))

    def schedule(
        self, session: ClientSession, event: Event[Any], deliver_at: datetime.datetime
    ) -> EventId:
        """Writes an event that is published at ``deliver_at``, which has a time zone.

        Returns the event's id, which ``cancel`` and ``reschedule`` take. MongoDB's clock decides
        when it is due; a time that has passed is due at once.
        """
        return run(self._db, self._do.schedule(session, event, deliver_at))

    def cancel(self, session: ClientSession, id: EventId) -> bool:
        """Takes a scheduled event back.

        True: once the transaction has committed, the event is never published. False: it is
        published or about to be, was cancelled before, or never scheduled.
        """
        return run(self._db, self._do.cancel(session, id))

    def reschedule(
        self, session: ClientSession, id: EventId, deliver_at: datetime.datetime
    ) -> bool:
        """Gives a scheduled event another time.

        False: no event with this id waits for its time, and nothing changed.
        """
        return run(self._db, self._do.reschedule(session, id, deliver_at))


class AsyncOutbox:
    """``Outbox`` for an ``AsyncMongoClient``."""

    def __init__(
        self,
        db: AsyncDatabase[Any],
        *,
        collection: str = "outbox",
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self._db = db
        self._do = _Operations(collection=collection, max_payload_bytes=max_payload_bytes)

    async def enqueue(self, session: AsyncClientSession, event: Event[Any]) -> EventId:
        """As ``Outbox.enqueue``."""
        return await run_async(self._db, self._do.enqueue(session, event))

    async def enqueue_many(
        self, session: AsyncClientSession, events: Iterable[Event[Any]]
    ) -> list[EventId]:
        """As ``Outbox.enqueue_many``."""
        return await run_async(self._db, self._do.enqueue_many(session, events))

    async def schedule(
        self, session: AsyncClientSession, event: Event[Any], deliver_at: datetime.datetime
    ) -> EventId:
        """As ``Outbox.schedule``."""
        return await run_async(self._db, self._do.schedule(session, event, deliver_at))

    async def cancel(self, session: AsyncClientSession, id: EventId) -> bool:
        """As ``Outbox.cancel``."""
        return await run_async(self._db, self._do.cancel(session, id))

    async def reschedule(
        self, session: AsyncClientSession, id: EventId, deliver_at: datetime.datetime
    ) -> bool:
        """As ``Outbox.reschedule``."""
        return await run_async(self._db, self._do.reschedule(session, id, deliver_at))


def require_transaction(session: Any) -> None:
    """Refuses a call without a transaction."""
    if getattr(session, "in_transaction", False) is not True:
        raise OutboxError(
            "transaction",
            "the outbox was called outside a transaction; start one on the session, write the "
            "record and the event in it, and commit both",
        )


def _id_of(event: Event[Any], document: dict[str, Any]) -> EventId:
    """The id as it was given, for a UUID is stored as binary."""
    made: EventId = document["_id"]
    return made if event.id is UNSET else event.id


def _check_time(at: Any) -> datetime.datetime | DatetimeMS:
    if not isinstance(at, (datetime.datetime, DatetimeMS)):
        reason = f"it is of type {type(at).__name__}, not a datetime"
    elif isinstance(at, datetime.datetime) and at.utcoffset() is None:
        reason = "it has no time zone; write datetime.now(timezone.utc) + timedelta(...)"
    elif (millis := to_millis(at)) is None or not EARLIEST <= millis <= LATEST:
        reason = "it is outside the years 1970 to 9999"
    else:
        return at
    raise OutboxError("deliver-at", f"invalid time of delivery: {reason}")
