"""What a type checker accepts and refuses; it is checked in the project that has the package."""

from typing import Any, TypedDict

from pymongo import MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.client_session import ClientSession

from outboxd_client import AsyncOutbox, Event, EventId, EventType, Inbox, Outbox, Replica, Verdict
from outboxd_client.listener import Handler, Listener, Received


class Ticket(TypedDict):
    id: str
    price: int


created = EventType[Ticket]("ticket.created")


def write(client: MongoClient[Any], session: ClientSession) -> EventId:
    outbox = Outbox(client.get_default_database())
    outbox.enqueue(session, created({"id": "t1", "price": 5}, key="t1"))
    outbox.enqueue(session, created({"id": "t1"}))  # type: ignore[typeddict-item]
    outbox.enqueue(session, Event("ticket.created", {}, key=5))  # type: ignore[arg-type]
    outbox.enqueue(session, {"subject": "ticket.created"})  # type: ignore[arg-type]
    verdict: Verdict = Replica(client.get_default_database(), "a").apply({"id": "x"}, session)
    ran: bool = Inbox(client.get_default_database(), "g").once(session, "m", lambda: verdict)
    assert ran
    return outbox.enqueue(session, Event[Ticket]("ticket.created", {"id": "t1", "price": 5}))


async def apply(ticket: Ticket, received: Received) -> Verdict | None:
    return "done" if received.deliveries else None


async def wrong(ticket: Ticket, received: Received) -> str:
    return "nearly"


async def consume(db: AsyncDatabase[Any]) -> AsyncOutbox:
    handlers: dict[str, Handler] = {"ticket.*": apply, "ticket.a": wrong}  # type: ignore[dict-item]
    await Listener(nats="nats://localhost", stream="S", group="g", db=db, on=handlers).run()
    return AsyncOutbox(db)
