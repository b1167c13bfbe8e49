"""The durable consumer of a listener: found, made, or brought in line.

The requests are those of JetStream's API as they are, so that settings that the client library
does not know are kept.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

from nats.aio.client import Client

CONSUMER_NOT_FOUND = 10014
FILTERS_OVERLAP = 10138
TIMEOUT = 5.0


class Misconfigured(Exception):
    """What the listener was given does not fit the server; a person has to change one of them."""


class ApiError(Exception):
    """JetStream refused a request."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("description", "it gave no reason"))
        self.code = error.get("err_code")


@dataclasses.dataclass(frozen=True, slots=True)
class ConsumerSettings:
    group: str
    subjects: tuple[str, ...]
    ack_wait: float
    max_ack_pending: int

    def wanted(self) -> dict[str, Any]:
        return {
            "ack_wait": round(self.ack_wait * 1e9),
            "filter_subjects": list(self.subjects),
            "max_ack_pending": self.max_ack_pending,
            "max_deliver": -1,
            "backoff": [],  # it would take the place of ack_wait
        }


async def check_window(connection: Client, stream: str, expire_after: datetime.timedelta) -> None:
    """Refuses an inbox that forgets ids before the stream does."""
    info = await _request(connection, f"STREAM.INFO.{stream}")
    window = datetime.timedelta(microseconds=info["config"].get("duplicate_window", 0) / 1000)
    if expire_after <= window:
        raise Misconfigured(
            f"the inbox forgets ids after {expire_after}, and the stream {stream} drops duplicates "
            f"for {window}; raise expire_after"
        )


async def ready_consumer(connection: Client, stream: str, settings: ConsumerSettings) -> None:
    """Makes the consumer, or updates it if a setting differs; every other setting is kept."""
    group, wanted = settings.group, settings.wanted()
    try:
        there = await consumer_config(connection, stream, group)
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise
        made = {"ack_policy": "explicit", "deliver_policy": "all", "durable_name": group}
        await _write(connection, stream, group, wanted | made)
        return

    if there.get("deliver_subject") or there["ack_policy"] != "explicit":
        raise Misconfigured(
            f"the consumer {group} of the stream {stream} is no pull consumer with explicit acks; "
            "give the listener another group, or remove that consumer"
        )
    single = there.pop("filter_subject", None)
    there = {"filter_subjects": [single] if single else [], "backoff": []} | there
    if any(there.get(name) != value for name, value in wanted.items()):
        await _write(connection, stream, group, there | wanted)


async def consumer_config(connection: Client, stream: str, group: str) -> dict[str, Any]:
    info = await _request(connection, f"CONSUMER.INFO.{stream}.{group}")
    config: dict[str, Any] = info["config"]
    return config


async def _write(connection: Client, stream: str, group: str, config: dict[str, Any]) -> None:
    body = {"stream_name": stream, "config": config | {"name": group}}
    try:
        await _request(connection, f"CONSUMER.CREATE.{stream}.{group}", body)
    except ApiError as error:
        if error.code != FILTERS_OVERLAP:
            raise
        raise Misconfigured(f"two of the listener's subjects overlap: {error}") from error


async def _request(
    connection: Client, subject: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    reply = await connection.request(f"$JS.API.{subject}", data, timeout=TIMEOUT)
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        raise ApiError(answer["error"])
    return answer
