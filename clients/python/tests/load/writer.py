"""Raises the records' versions to a target; started again after a kill, it continues."""

import asyncio
import os
import sys
from typing import Any

from pymongo import AsyncMongoClient, ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession

from outboxd_client import AsyncOutbox, Event


async def main(records: int, versions: int) -> None:
    async with AsyncMongoClient[Any](os.environ["MONGODB_URI"]) as client:
        db = client.get_default_database()
        outbox = AsyncOutbox(db)

        async def raise_once(session: AsyncClientSession, id: str) -> int:
            record = await db["records"].find_one({"_id": id}, session=session)
            version = -1 if record is None else record["version"]
            if version == versions - 1:
                return versions
            raised: Any = await db["records"].find_one_and_update(
                {"_id": id},
                [{"$set": {"version": version + 1, "price": {"$rand": {}}}}],
                upsert=True,
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            payload = {"id": id, "price": raised["price"], "version": raised["version"]}
            subject = "record.updated" if record else "record.created"
            await outbox.enqueue(session, Event(subject, payload, key=id))
            return version + 1

        async def raise_all(id: str) -> None:
            version = -1
            while version < versions - 1:
                async with client.start_session() as session:
                    version = await session.with_transaction(lambda s: raise_once(s, id))

        await asyncio.gather(*(raise_all(f"r{number}") for number in range(records)))


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
