"""What the conformance cases can't state: transactions, traces, errors."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypedDict

import pytest
from bson import Binary, Decimal128, ObjectId
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from pymongo import AsyncMongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from outboxd_client import (
    AsyncInbox,
    AsyncOutbox,
    AsyncReplica,
    Event,
    EventType,
    Inbox,
    Later,
    Outbox,
    OutboxError,
    Replica,
    Unprocessable,
)
from outboxd_client._payload import check_payload
from outboxd_client.testing import Servers

from .support import async_transaction, messages, transaction

SUBJECTS = ["ticket.>"]
UTC = datetime.timezone.utc
EVENT = Event("ticket.created", {"id": "t1"}, key="t1")


class Ticket(TypedDict):
    id: str
    price: int


CREATED = EventType[Ticket]("ticket.created")


@pytest.fixture
def outbox(db: Database[Any]) -> Outbox:
    """An outbox that no relay empties."""
    return Outbox(db, collection="kept")


# A transaction


def test_every_call_needs_a_transaction(db: Database[Any], outbox: Outbox) -> None:
    soon = datetime.datetime.now(UTC)
    calls: list[Callable[[Any], object]] = [
        lambda session: outbox.enqueue(session, EVENT),
        lambda session: outbox.enqueue_many(session, [EVENT]),
        lambda session: outbox.enqueue_many(session, []),
        lambda session: outbox.schedule(session, EVENT, soon),
        lambda session: outbox.cancel(session, "x"),
        lambda session: outbox.reschedule(session, "x", soon),
        lambda session: Inbox(db, "g").once(session, "x", lambda: None),
    ]
    with db.client.start_session() as session:
        for call in calls:
            for given in (session, None):
                with pytest.raises(OutboxError, match="outside a transaction") as refused:
                    call(given)
                assert refused.value.code == "transaction"
        with session.start_transaction():
            db["tickets"].insert_one({"a": 1}, session=session)
        with pytest.raises(OutboxError, match="outside a transaction"):
            outbox.enqueue(session, EVENT)
    assert db["kept"].count_documents({"key": "t1"}) == 0


def test_a_rollback_leaves_no_event(db: Database[Any], outbox: Outbox) -> None:
    def work(session: ClientSession, fails: bool) -> None:
        db["tickets"].insert_one({"_id": "t2"}, session=session)
        outbox.enqueue(session, dataclasses.replace(EVENT, key="t2"))
        if fails:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        transaction(db, partial(work, fails=True))
    assert db["kept"].count_documents({"key": "t2"}) == 0
    transaction(db, partial(work, fails=False))
    assert db["kept"].count_documents({"key": "t2"}) == 1
    assert db["tickets"].count_documents({"_id": "t2"}) == 1


def test_many_events_are_written_in_order_or_none_is(db: Database[Any], outbox: Outbox) -> None:
    events: list[Event[Any]] = [
        Event(f"ticket.{change}", {}, key="m") for change in ("created", "updated", "sold")
    ]
    ids = transaction(db, lambda session: outbox.enqueue_many(session, iter(events)))
    assert [row["_id"] for row in db["kept"].find({"key": "m"}).sort("ts")] == ids

    bad = [dataclasses.replace(events[0], key="n"), dataclasses.replace(events[1], key="")]
    with pytest.raises(OutboxError, match="empty"):
        transaction(db, lambda session: outbox.enqueue_many(session, bad))
    assert db["kept"].count_documents({"key": "n"}) == 0


def test_a_write_conflict_is_retried(db: Database[Any], outbox: Outbox) -> None:
    db["tickets"].insert_one({"_id": "c", "n": 0})

    def work(session: ClientSession) -> None:
        db["tickets"].update_one({"_id": "c"}, {"$inc": {"n": 1}}, session=session)
        outbox.enqueue(session, dataclasses.replace(EVENT, key="c"))

    threads = [threading.Thread(target=transaction, args=(db, work)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db["kept"].count_documents({"key": "c"}) == 8


def test_the_asynchronous_outbox_does_the_same(servers: Servers) -> None:
    async def every() -> None:
        async with AsyncMongoClient[Any](servers.mongodb_uri) as client:
            db = client.get_default_database()
            outbox = AsyncOutbox(db, collection="async_kept")
            later = datetime.datetime.now(UTC) + datetime.timedelta(hours=1)
            transact = partial(async_transaction, db)
            events: list[Event[Any]] = [
                Event("ticket.a", {}, key="m"),
                Event("ticket.b", {}, key="m"),
            ]
            ids = await transact(lambda session: outbox.enqueue_many(session, events))
            stored = await db["async_kept"].find().sort("ts").to_list()
            assert [row["_id"] for row in stored] == ids

            id = await transact(lambda session: outbox.schedule(session, EVENT, later))
            assert await transact(lambda session: outbox.reschedule(session, id, later))
            assert await transact(lambda session: outbox.cancel(session, id))
            assert not await transact(lambda session: outbox.cancel(session, id))
            async with client.start_session() as session:
                with pytest.raises(OutboxError, match="outside a transaction"):
                    await outbox.enqueue(session, EVENT)

            inbox = AsyncInbox(db, "async")
            await inbox.migrate()
            runs: list[int] = []

            async def work() -> None:
                runs.append(1)

            for ran in (True, False):
                assert ran == await transact(lambda session: inbox.once(session, "m", work))
            assert len(runs) == 1

            replica = AsyncReplica(db, "async_copies")
            results = [replica.apply({"id": "r", "version": 0}) for _ in range(5)]
            assert set(await asyncio.gather(*results)) == {"done"}
            assert await replica.remove({"id": "r", "version": 2}) == "later"

    asyncio.run(every())


# Payloads and events


def test_the_length_is_that_of_the_message(db: Database[Any], servers: Servers) -> None:
    payload: list[Any] = [
        *(0.1, 1e16, 1e20, 1e21, 1.5e300, 1e-5, 1.25e-6, 1e-7, 5e-324, -0.0, 123456.75, -1e-6),
        *(7, -(2**63), True, False, None, "naïve\n", uuid.uuid4(), ObjectId(), b"abcd"),
        *(Decimal128("1E+3"), datetime.datetime(2026, 1, 1, 0, 0, 0, 120_000), {"a": {}, "b": []}),
    ]
    id = transaction(db, lambda session: Outbox(db).enqueue(session, Event("ticket.size", payload)))
    message = messages(servers, 1)[f"shop.outbox.{id}"]
    assert check_payload(payload)[1] == len(message.data)
    assert json.loads(message.data)[:12] == payload[:12]


def test_a_datetime_without_a_time_zone_is_in_utc_as_in_the_driver(
    db: Database[Any], outbox: Outbox
) -> None:
    naive = datetime.datetime(2026, 1, 2, 3, 4, 5)
    event = Event[Any]("ticket.a", {"at": naive})
    id = transaction(db, lambda session: outbox.enqueue(session, event))
    found = db["kept"].find_one({"_id": id})
    assert found is not None
    assert found["payload"]["at"] == naive


@pytest.mark.parametrize("id", [ObjectId(), uuid.uuid4(), "order-7", Binary(b"x" * 16, 4)])
def test_ids_and_keys_may_be_of_every_kind(db: Database[Any], outbox: Outbox, id: Any) -> None:
    event = Event[Any]("ticket.a", {}, key=id, id=id)
    assert transaction(db, lambda session: outbox.enqueue(session, event)) == id
    key = str(uuid.UUID(bytes=bytes(id))) if isinstance(id, Binary) else str(id)
    assert db["kept"].count_documents({"key": key}) == 1


def test_an_event_type_makes_events_of_its_subject() -> None:
    made = CREATED({"id": "t1", "price": 5}, key="t1", headers={"a": "b"})
    assert made == Event("ticket.created", {"id": "t1", "price": 5}, key="t1", headers={"a": "b"})


def test_a_dictionary_is_no_event(db: Database[Any], outbox: Outbox) -> None:
    given: Any = {"subject": "ticket.a", "payload": {}}
    with pytest.raises(OutboxError, match="an event is an Event, and this one is of type dict"):
        transaction(db, lambda session: outbox.enqueue(session, given))


# The validator


def test_the_validator_is_put_in_words(db: Database[Any]) -> None:
    key = {"bsonType": "string", "maxLength": 3, "description": "at most 3 letters"}
    schema = {"$jsonSchema": {"required": ["shop"], "properties": {"key": key}}}
    rule = {"$expr": {"$cond": [{"$ne": ["$key", "odd"]}, True, {"$not": ["The key is odd."]}]}}
    strict = Outbox(db, collection="strict")

    def reasons(key: str, many: bool = False) -> str:
        event = Event[Any]("ticket.a", {}, key=key)
        write: Callable[[ClientSession], object]
        if many:
            write = partial(strict.enqueue_many, events=[event])
        else:
            write = partial(strict.enqueue, event=event)
        with pytest.raises(OutboxError) as refused:
            transaction(db, write)
        assert refused.value.code == "validator"
        assert refused.value.__cause__ is not None
        return str(refused.value)

    db.create_collection("strict", validator=schema)
    for many in (False, True):
        words = reasons("long", many)
        assert "key: at most 3 letters" in words
        assert "shop is missing" in words
    db.command({"collMod": "strict", "validator": rule})
    for many in (False, True):
        assert "the event: The key is odd." in reasons("odd", many)


def test_other_errors_of_the_driver_stay_as_they_are(db: Database[Any], outbox: Outbox) -> None:
    event = Event[Any]("ticket.a", {}, id="once")
    transaction(db, lambda session: outbox.enqueue(session, event))
    with pytest.raises(DuplicateKeyError):
        transaction(db, lambda session: outbox.enqueue(session, event))


# Scheduled events


def test_a_scheduled_event_is_moved_and_cancelled(db: Database[Any], outbox: Outbox) -> None:
    id = uuid.uuid4()
    event = Event[Any]("ticket.expired", {}, key="o1", id=id)
    now = datetime.datetime.now(UTC).replace(microsecond=0)
    first, second = now + datetime.timedelta(minutes=15), now + datetime.timedelta(minutes=30)
    transact = partial(transaction, db)
    assert transact(lambda session: outbox.schedule(session, event, first)) == id
    assert transact(lambda session: outbox.reschedule(session, id, second))
    [stored] = db["kept_scheduled"].find()
    assert stored["deliverAt"].replace(tzinfo=UTC) == second
    assert transact(lambda session: outbox.cancel(session, id))
    assert not transact(lambda session: outbox.cancel(session, id))
    assert not transact(lambda session: outbox.reschedule(session, id, second))


def test_a_dead_event_is_cancelled_and_not_moved(db: Database[Any], outbox: Outbox) -> None:
    now = datetime.datetime.now(UTC)
    db["kept_scheduled"].insert_one({"_id": "dead", "deadAt": now, "deliverAt": now})
    assert not transaction(db, lambda session: outbox.reschedule(session, "dead", now))
    assert transaction(db, lambda session: outbox.cancel(session, "dead"))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("soon", "it is of type str, not a datetime"),
        (datetime.datetime(2026, 1, 1), "it has no time zone"),
        (datetime.datetime(1969, 12, 31, tzinfo=UTC), "outside the years 1970 to 9999"),
    ],
)
def test_other_times_are_refused(db: Database[Any], outbox: Outbox, at: Any, words: str) -> None:
    with pytest.raises(OutboxError, match=words) as refused:
        transaction(db, lambda session: outbox.schedule(session, EVENT, at))
    assert refused.value.code == "deliver-at"


# A trace


@pytest.fixture
def span() -> Iterator[None]:
    made = SpanContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, False, TraceFlags(1))
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(made)))
    yield
    context.detach(token)


FULL = {f"h{number}": "v" for number in range(64)}
TRACEPARENT = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


@pytest.mark.usefixtures("span")
@pytest.mark.parametrize(
    ("headers", "stored"),
    [
        (None, TRACEPARENT),
        ({"a": "b"}, {"a": "b", **TRACEPARENT}),
        ({"Traceparent": "mine"}, {"Traceparent": "mine"}),
        (FULL, FULL),
    ],
)
def test_an_event_carries_the_trace_unless_it_names_one(
    db: Database[Any],
    outbox: Outbox,
    headers: Mapping[str, str] | None,
    stored: Mapping[str, str],
) -> None:
    event = Event[Any]("ticket.a", {}, headers=headers)
    id = transaction(db, lambda session: outbox.enqueue(session, event))
    found = db["kept"].find_one({"_id": id})
    assert found is not None
    assert found["headers"] == stored


# The inbox and the replica


def test_an_inbox_expires_its_ids_and_changes_the_expiry(db: Database[Any]) -> None:
    for hours in (2, 1, 1):
        after = datetime.timedelta(hours=hours)
        Inbox(db, "any", collection="expiring", expire_after=after).migrate()
        index = db["expiring"].index_information()["outboxd_expiry"]
        assert index["expireAfterSeconds"] == hours * 3600
    assert "outboxd_at" in db["expiring_failed"].index_information()
    with pytest.raises(ValueError, match="at least 1:00:00"):
        Inbox(db, "any", expire_after=datetime.timedelta(seconds=60))
    with pytest.raises(ValueError, match="name of its group"):
        Inbox(db, "")


def test_an_inbox_acts_once_whoever_is_first(db: Database[Any]) -> None:
    inbox = Inbox(db, "shipping")
    inbox.migrate()
    db.create_collection("shipments")

    def act(session: ClientSession) -> bool:
        def work() -> None:
            db["shipments"].insert_one({}, session=session)

        return inbox.once(session, "m1", work)

    threads = [threading.Thread(target=transaction, args=(db, act)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db["shipments"].count_documents({}) == 1
    with pytest.raises(Later):
        transaction(db, lambda session: inbox.once(session, "m2", lambda: "later"))
    with pytest.raises(Unprocessable, match="no Nats-Msg-Id"):
        transaction(db, lambda session: inbox.once(session, "", lambda: None))


@pytest.mark.parametrize(
    "record",
    [
        {"id": "r"},
        {"id": "r", "version": 1.5},
        {"id": "r", "version": True},
        {"id": "r", "version": -1},
        {"id": "", "version": 1},
        {"version": 1},
        None,
    ],
)
def test_a_replica_refuses_what_is_no_record(db: Database[Any], record: Any) -> None:
    with pytest.raises(Unprocessable):
        Replica(db, "copies").apply(record)
