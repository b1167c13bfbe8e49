"""Acting once on each message: its id is written in the transaction of what it causes."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ._calls import Call, Calls, run, run_async
from ._outbox import require_transaction

Verdict: TypeAlias = Literal["done", "later"]
"""What became of a message: applied, or to be asked for again as an earlier one is missing."""

MONTH = datetime.timedelta(days=30)
SHORTEST = datetime.timedelta(hours=1)
"""Ids are kept for an hour at least."""
INDEX_OPTIONS_CONFLICT = 85
"""What MongoDB answers when an index is there with another expiry."""


class Later(Exception):
    """The work answered ``later``.

    The error has the transaction rolled back, so that neither the work nor the message id stays.
    """

    def __init__(self) -> None:
        super().__init__("an earlier message is missing; ask for this one again")


class Unprocessable(Exception):
    """A message that can never be applied. The listener puts it aside with this reason at once."""


class _Operations:
    """What both kinds of inbox do, as calls of the driver."""

    def __init__(self, group: str, collection: str, expire_after: datetime.timedelta) -> None:
        if not isinstance(group, str) or group == "":
            raise ValueError("an inbox needs the name of its group")
        if expire_after < SHORTEST:
            raise ValueError(
                f"ids are kept for at least {SHORTEST}; expire_after is {expire_after}"
            )
        self.group = group
        self.collection = collection
        self.expire_after = expire_after

    def migrate(self) -> Calls[None]:
        name, seconds = "outboxd_expiry", int(self.expire_after.total_seconds())
        expiry = {"name": name, "expireAfterSeconds": seconds}
        try:
            yield Call(self.collection, "create_index", ("at",), options=expiry)
        except OperationFailure as error:
            if error.code != INDEX_OPTIONS_CONFLICT:
                raise
            index = {"name": name, "expireAfterSeconds": seconds}
            change = {"collMod": self.collection, "index": index}
            yield Call(None, "command", (change,))
        failed = f"{self.collection}_failed"
        yield Call(failed, "create_index", ("at",), options={"name": "outboxd_at"})

    def claim(self, session: Any, message_id: str) -> Calls[bool]:
        """Writes an id; False if it is there."""
        require_transaction(session)
        if not isinstance(message_id, str) or message_id == "":
            raise Unprocessable("the message has no Nats-Msg-Id")

        filter = {"_id": {"group": self.group, "id": message_id}}
        once = {"$setOnInsert": {"at": _now()}}
        upsert = {"upsert": True}
        result = yield Call(self.collection, "update_one", (filter, once), session, upsert)
        return result.upserted_id is not None

    def fail(self, message_id: str, fields: dict[str, Any]) -> Calls[None]:
        """Puts a message aside. The same message is put aside once."""
        filter = {"_id": {"group": self.group, "id": message_id}}
        failed = {"$set": {"at": _now(), **fields}}
        options = {"upsert": True}
        yield Call(f"{self.collection}_failed", "update_one", (filter, failed), None, options)


class Inbox:
    """The ids of the messages that a group of consumers has acted on.

    Two groups in one database act on a message once each. Ids are kept for ``expire_after``. A
    message must not come again after that, so it has to be longer than the stream's dedupe window
    and the longest outage of a consumer. Messages that were put aside are in
    ``<collection>_failed``.
    """

    def __init__(
        self,
        db: Database[Any],
        group: str,
        *,
        collection: str = "inbox",
        expire_after: datetime.timedelta = MONTH,
    ) -> None:
        self._db = db
        self._do = _Operations(group, collection, expire_after)

    def migrate(self) -> None:
        """Makes the collections, and the index that removes old ids. May run again at any time."""
        run(self._db, self._do.migrate())

    def once(
        self, session: ClientSession, message_id: str, work: Callable[[], Verdict | None]
    ) -> bool:
        """Runs ``work`` unless the message was acted on before; returns whether it ran.

        The id is written in the session's transaction, so that it and the work commit together. If
        the work returns ``later``, ``Later`` is raised: let it out, so that the transaction aborts.
        """
        if not run(self._db, self._do.claim(session, message_id)):
            return False
        if work() == "later":
            raise Later
        return True


class AsyncInbox:
    """``Inbox`` for an ``AsyncMongoClient``."""

    def __init__(
        self,
        db: AsyncDatabase[Any],
        group: str,
        *,
        collection: str = "inbox",
        expire_after: datetime.timedelta = MONTH,
    ) -> None:
        self._db = db
        self._do = _Operations(group, collection, expire_after)

    async def migrate(self) -> None:
        """As ``Inbox.migrate``."""
        await run_async(self._db, self._do.migrate())

    async def once(
        self,
        session: AsyncClientSession,
        message_id: str,
        work: Callable[[], Awaitable[Verdict | None]],
    ) -> bool:
        """As ``Inbox.once``."""
        if not await run_async(self._db, self._do.claim(session, message_id)):
            return False
        if await work() == "later":
            raise Later
        return True

    async def fail(self, message_id: str, **fields: Any) -> None:
        """Puts a message aside, with the reason. The same message is put aside once."""
        await run_async(self._db, self._do.fail(message_id, fields))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
