"""The cases that every client passes, against a real MongoDB, relay and NATS."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import Any, cast

import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database

from outboxd_client import (
    AsyncOutbox,
    Event,
    EventId,
    Inbox,
    Outbox,
    OutboxError,
    Replica,
    Unprocessable,
    Verdict,
)
from outboxd_client.listener import Listener, Received
from outboxd_client.testing import Servers

from .support import (
    async_transaction,
    canonical,
    cases,
    messages,
    millis,
    parsed,
    stream_of,
    transaction,
)

SUBJECTS = ["case", "case.>", "listened.>"]

FILES = ("subjects", "keys", "headers", "payloads")
EVENTS = [(file, case) for file in FILES for case in cases(file)]
RAW: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


@pytest.fixture(scope="module")
def sent() -> list[dict[str, Any]]:
    """The cases that were written, with their message ids."""
    return []


def event_of(case: dict[str, Any]) -> Event[Any]:
    fields = parsed(case["event"])
    if "headers" in fields:
        fields["headers"] = case["event"]["headers"]
    return Event(**fields)


@pytest.mark.parametrize(
    ("file", "case"), EVENTS, ids=[f"{file}: {case['name']}" for file, case in EVENTS]
)
def test_event(
    db: Database[Any], sent: list[dict[str, Any]], file: str, case: dict[str, Any]
) -> None:
    outbox = Outbox(db)
    event = event_of(case)
    if "refused" in case:
        with pytest.raises(OutboxError) as refused:
            transaction(db, lambda session: outbox.enqueue(session, event))
        assert case["refused"] in str(refused.value)
        return

    def write(session: ClientSession) -> tuple[Any, dict[str, Any]]:
        id = outbox.enqueue(session, event)
        # Read in the transaction: afterwards the relay may have taken it.
        found = db.get_collection("outbox", RAW).find({}, session=session).sort("ts", -1)
        return id, next(document for document in found if _is(document["_id"], id))

    id, stored = transaction(db, write)
    given = parsed(case["event"])
    order = ("subject", "key", "payload", "headers")
    usual = {name: given[name] for name in order if name in given}
    wanted = parsed(case.get("document")) or usual | {"isLocked": True, "failures": []}
    assert '"$timestamp"' in canonical(stored.pop("ts"))
    stored_id = stored.pop("_id")
    if "id" in given:
        assert canonical(stored_id) == canonical(given["id"])
    assert canonical(stored) == canonical(wanted)
    sent.append(case | {"id": case.get("messageId", str(id))})


def _is(stored: Any, id: Any) -> bool:
    return canonical(stored) == canonical(id)


def test_events_are_published_as_expected(servers: Servers, sent: list[dict[str, Any]]) -> None:
    assert len(sent) > 80
    found = messages(servers, len(sent))
    for case in sent:
        message = found[f"{servers.database}.outbox.{case['id']}"]
        name = case["name"]
        if "messageBase64" in case:
            assert message.data == base64.b64decode(case["messageBase64"]), name
        else:
            assert message.data == case["message"].encode(), name
        assert message.subject == case["event"]["subject"]
        for header, value in case["event"].get("headers", {}).items():
            if value is not None:
                assert (message.headers or {}).get(header) == value, name


def test_the_asynchronous_outbox_writes_and_refuses_the_same(servers: Servers) -> None:
    async def every() -> None:
        async with AsyncMongoClient[Any](servers.mongodb_uri) as client:
            db = client.get_default_database()
            enqueue = AsyncOutbox(db, collection="asynchronous").enqueue
            for _, case in EVENTS:
                event = event_of(case)
                writing = async_transaction(db, partial(enqueue, event=event))
                if "refused" not in case:
                    await writing
                    continue
                with pytest.raises(OutboxError) as refused:
                    await writing
                assert case["refused"] in str(refused.value)
            written = await db["asynchronous"].count_documents({})
            assert written == sum("refused" not in case for _, case in EVENTS)

    asyncio.run(every())


@named(cases("scheduled"))
def test_scheduled(db: Database[Any], case: dict[str, Any]) -> None:
    outbox = Outbox(db, collection="timetable")
    at = parsed(case["deliverAt"])
    event = Event[Any]("case.a", {})

    def write(session: ClientSession) -> EventId:
        return outbox.schedule(session, event, at)

    if "refused" in case:
        with pytest.raises(OutboxError) as refused:
            transaction(db, write)
        assert case["refused"] in str(refused.value)
        return

    id = transaction(db, write)
    stored = db.get_collection("timetable_scheduled", RAW).find_one({"_id": id})
    assert stored is not None
    assert millis(stored["deliverAt"]) == millis(at)
    fields = ["_id", "ts", "subject", "payload", "isLocked", "failures", "deliverAt"]
    assert list(stored) == fields


@named(cases("replicas"))
def test_replica(db: Database[Any], case: dict[str, Any]) -> None:
    replica = Replica(db, f"replica of {case['name']}")
    for message in case["messages"]:
        change = replica.remove if message.get("removed") else replica.apply
        record = message["record"]
        assert transaction(db, partial(change, record)) == message["verdict"], record
    copies = list(db[replica.collection].find().sort("_id"))
    for copy in copies:
        if copy.pop("removedAt", None) is not None:
            copy["removed"] = True
    assert copies == case["copies"]


@named(cases("inboxes"))
def test_inbox(db: Database[Any], case: dict[str, Any]) -> None:
    collection = f"inbox of {case['name']}"
    effects = db[f"effects of {case['name']}"]
    for message in case["messages"]:
        inbox = Inbox(db, message["group"], collection=collection)
        runs = []

        def act(session: ClientSession, message: dict[str, Any] = message) -> bool:
            def work() -> Verdict:
                runs.append(message["id"])
                effects.insert_one({"id": message["id"]}, session=session)
                if message["work"] == "error":
                    raise RuntimeError("no luck")
                return cast(Verdict, message["work"])

            return inbox.once(session, message["id"], work)

        try:
            assert transaction(db, act) == message["ran"]
        except Exception:
            assert message["work"] != "done"
        assert bool(runs) == message["ran"]
    ids = [[row["_id"]["group"], row["_id"]["id"]] for row in db[collection].find().sort("_id")]
    assert ids == case["ids"]
    assert effects.count_documents({}) == case["effects"]


@named(cases("listeners"))
def test_listener(servers: Servers, case: dict[str, Any]) -> None:
    asyncio.run(listened(servers, case))


async def listened(servers: Servers, case: dict[str, Any]) -> None:
    number = cases("listeners").index(case)
    subject, group, collection = f"listened.{number}", f"group{number}", f"listened{number}"
    answers = list(case["answers"])

    async with AsyncMongoClient[Any](servers.mongodb_uri) as client, stream_of(servers) as stream:
        db = client.get_default_database()
        effects = db[f"effect{number}"]
        await stream.publish(subject, case["payload"].encode(), f"message-{number}")

        async def handle(_: Any, received: Received) -> Verdict | None:
            answer = answers.pop(0)
            await effects.insert_one({}, session=received.session)
            if answer == "error":
                raise RuntimeError("no luck")
            if answer == "unprocessable":
                raise Unprocessable("it is never applied")
            return cast(Verdict, answer)

        for round in range(2 if case.get("again") else 1):
            if round:  # a consumer that is made again gets everything again
                await stream.delete_consumer(group)
            listener = Listener(
                nats=servers.nats_url,
                stream=servers.stream,
                group=group,
                db=db,
                on={subject: handle},
                inbox=collection,
                max_deliveries=3,
                max_later=3,
            )
            async with listener:
                await stream.until_idle(group)

        assert answers == []
        assert await effects.count_documents({}) == case["effects"]
        failed = await db[f"{collection}_failed"].find().to_list()
        assert len(failed) == ("failed" in case)
        for message in failed:
            assert case["failed"] in message["reason"]
            assert message["_id"] == {"group": group, "id": f"message-{number}"}
            assert message["subject"] == subject
            assert message["payload"] == case["payload"].encode()
