"""Keeps replicas of the records, and counts each message once; runs until it is ended."""

import asyncio
import os
import signal
from typing import Any

from pymongo import AsyncMongoClient

from outboxd_client import AsyncReplica, Verdict
from outboxd_client.listener import Listener, Received


async def main() -> None:
    async with AsyncMongoClient[Any](os.environ["MONGODB_URI"]) as client:
        db = client.get_default_database()
        replica = AsyncReplica(db, "replicas")

        async def apply(record: Any, received: Received) -> Verdict:
            session = received.session
            verdict = await replica.apply(record, session)
            count = {"$inc": {"times": 1}}
            await db["applied"].update_one(
                {"_id": record["id"]}, count, upsert=True, session=session
            )
            return verdict

        listener = Listener(
            nats=os.environ["NATS_URL"],
            stream=os.environ["NATS_CLUSTER_ID"],
            group="copies",
            db=db,
            on={"record.*": apply},
            ack_wait=2.0,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, listener.stop)
        await listener.run()


asyncio.run(main())
