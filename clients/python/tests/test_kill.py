"""Writers, consumers and the relay are killed in the middle of their work, again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from outboxd_client.testing import Servers

from .support import until

SUBJECTS = ["record.*"]
RECORDS, VERSIONS = 8, 30
TOTAL = RECORDS * VERSIONS

Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def run(servers: Servers) -> Iterator[Run]:
    children: list[subprocess.Popen[bytes]] = []

    def start(script: str, *arguments: int) -> subprocess.Popen[bytes]:
        path = Path(__file__).parent / "load" / f"{script}.py"
        env = {
            "MONGODB_URI": servers.mongodb_uri,
            "NATS_URL": servers.nats_url,
            "NATS_CLUSTER_ID": servers.stream,
        }
        command = [sys.executable, str(path), *map(str, arguments)]
        child = subprocess.Popen(command, env=os.environ | env)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_kill_9_leaves_the_replicas_equal(servers: Servers, db: Database[Any], run: Run) -> None:
    # Until a transaction expires, the one of a killed process keeps its documents from all others.
    db.client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=3)
    for name in ("records", "replicas", "applied"):
        db.create_collection(name)

    def applied() -> int:
        return sum(row["times"] for row in db["applied"].find())

    def start() -> list[subprocess.Popen[bytes]]:
        return [run("writer", RECORDS, VERSIONS), run("consumer"), run("consumer")]

    running = start()
    for share in (0.15, 0.35, 0.55):
        until(f"{share:.0%} are applied", lambda: applied() > share * TOTAL)
        servers.relay.kill()
        for child in running:
            child.kill()
            child.wait()
        running = start()
        servers.relay.start()
    writer, *consumers = running
    until("all are written", lambda: writer.poll() == 0)
    until("all are applied", lambda: applied() >= TOTAL)

    def show(name: str) -> list[Any]:
        return list(db[name].find({}, {"price": 1, "version": 1}).sort("_id"))

    assert show("replicas") == show("records")
    assert [record["version"] for record in show("records")] == [VERSIONS - 1] * RECORDS
    assert applied() == TOTAL
    assert db["inbox"].count_documents({}) == TOTAL
    assert db["inbox_failed"].count_documents({}) == 0

    for consumer in consumers:
        consumer.send_signal(signal.SIGTERM)
    assert [consumer.wait(timeout=30) for consumer in consumers] == [0, 0]
