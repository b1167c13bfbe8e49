"""Copies of another service's records, kept by the versions in its messages."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ._calls import Call, Calls, run, run_async
from ._inbox import Unprocessable, Verdict


class Replica:
    """Keeps copies of records in a collection, in the order of their versions.

    The order in which the messages come does not matter. A record has ``id``, ``version`` and the
    rest; the first version is 0, and each change raises it by one.

    A copy that was removed stays as ``{_id, version, removedAt}``, so that a message that comes
    again does not bring it back. Live copies are ``{"removedAt": None}``.
    """

    def __init__(self, db: Database[Any], collection: str) -> None:
        self._db = db
        self.collection = collection

    def apply(self, record: Mapping[str, Any], session: ClientSession | None = None) -> Verdict:
        """Stores a version.

        ``done`` if it is stored, now or before; ``later`` if the one before it is missing.
        """
        return run(self._db, _store(self.collection, _copy(record), session))

    def remove(self, record: Mapping[str, Any], session: ClientSession | None = None) -> Verdict:
        """Removes a copy. The version of a removal is the last one plus one."""
        return run(self._db, _store(self.collection, _tombstone(record), session))


class AsyncReplica:
    """``Replica`` for an ``AsyncMongoClient``."""

    def __init__(self, db: AsyncDatabase[Any], collection: str) -> None:
        self._db = db
        self.collection = collection

    async def apply(
        self, record: Mapping[str, Any], session: AsyncClientSession | None = None
    ) -> Verdict:
        """As ``Replica.apply``."""
        return await run_async(self._db, _store(self.collection, _copy(record), session))

    async def remove(
        self, record: Mapping[str, Any], session: AsyncClientSession | None = None
    ) -> Verdict:
        """As ``Replica.remove``."""
        return await run_async(self._db, _store(self.collection, _tombstone(record), session))


def _store(collection: str, copy: dict[str, Any], session: Any) -> Calls[Verdict]:
    id, version = copy["_id"], copy["version"]
    # A loop, for those who call it without a transaction: another one may write in between.
    while True:
        fields = {"version": 1}
        found = yield Call(collection, "find_one", ({"_id": id}, fields), session)
        stored = -1 if found is None else found["version"]
        if stored >= version:
            return "done"
        if stored != version - 1:
            return "later"

        if found is None:
            try:
                yield Call(collection, "insert_one", (copy,), session)
                return "done"
            except DuplicateKeyError:
                if session is not None:
                    raise  # the error has ended the transaction
        else:
            before = {"_id": id, "version": stored}
            result = yield Call(collection, "replace_one", (before, copy), session)
            if result.matched_count:
                return "done"


def _copy(record: Any) -> dict[str, Any]:
    _check(record)
    return {"_id": record["id"]} | {name: v for name, v in record.items() if name != "id"}


def _tombstone(record: Any) -> dict[str, Any]:
    _check(record)
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"_id": record["id"], "version": record["version"], "removedAt": now}


def _check(record: Any) -> None:
    fields = record if isinstance(record, Mapping) else {}
    id, version = fields.get("id"), fields.get("version")
    if not isinstance(id, str) or id == "":
        raise Unprocessable("the payload has no field id of text")
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise Unprocessable("the payload has no field version with a whole number from 0 on")
