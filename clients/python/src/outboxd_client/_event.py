"""What a service hands to the outbox, and the document that it becomes."""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from bson import Binary, ObjectId, Timestamp

from ._errors import ErrorCode, OutboxError
from ._payload import UUID_SUBTYPE, check_payload

MAX_NAME_BYTES = 255
"""Longest subject, key and string id, in bytes."""
MAX_HEADERS = 64
MAX_HEADER_BYTES = 32 * 1024
"""Most bytes of all names and values of headers."""

Key: TypeAlias = str | ObjectId | uuid.UUID
EventId: TypeAlias = ObjectId | uuid.UUID | str
"""The id of an event. A string id is printable ASCII."""

P = TypeVar("P")

_PRINTABLE = re.compile(r"[!-~]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Unset(Enum):
    UNSET = "unset"


UNSET: Final = _Unset.UNSET
"""Stands for a field that is left out. ``None`` is refused: it is a field that was not filled."""


@dataclasses.dataclass(frozen=True)
class Event(Generic[P]):
    """An event on its way into the outbox."""

    subject: str
    """Where the event is published: tokens of printable ASCII, joined by dots."""
    payload: P
    """A document or an array, published as JSON, or a string or binary, published byte for byte."""
    _: dataclasses.KW_ONLY
    key: Key | Literal[_Unset.UNSET] = UNSET
    """The id of the record that the event is about. Events of one key are published in order."""
    headers: Mapping[str, str | None] | None = None
    """NATS headers. One that is None is left out."""
    id: EventId | Literal[_Unset.UNSET] = UNSET
    """The id of the event; a new ObjectId if left out. It names one event, for ever."""


@dataclasses.dataclass(frozen=True)
class EventType(Generic[P]):
    """A subject and the type of its payload: ``CREATED = EventType[Ticket]("ticket.created")``."""

    subject: str

    def __call__(
        self,
        payload: P,
        *,
        key: Key | Literal[_Unset.UNSET] = UNSET,
        headers: Mapping[str, str | None] | None = None,
        id: EventId | Literal[_Unset.UNSET] = UNSET,
    ) -> Event[P]:
        return Event(self.subject, payload, key=key, headers=headers, id=id)


def to_document(
    event: Event[Any], trace: Mapping[str, str], max_payload_bytes: int
) -> dict[str, Any]:
    """Makes the document of an event; everything that the contract refuses is refused here."""
    if not isinstance(event, Event):
        kind = type(event).__name__
        raise OutboxError("payload", f"an event is an Event, and this one is of type {kind}")
    document: dict[str, Any] = {
        "_id": ObjectId() if event.id is UNSET else check_id(event.id),
        # The server fills an empty Timestamp with its cluster time: the order within a key.
        "ts": Timestamp(0, 0),
        "subject": _check_subject(event.subject),
    }
    if event.key is not UNSET:
        document["key"] = _check_key(event.key)

    document["payload"], size = check_payload(event.payload)
    if size > max_payload_bytes:
        raise OutboxError(
            "too-long",
            f"payload of {size} bytes is over the limit of {max_payload_bytes}; store the content "
            "elsewhere and publish a reference",
        )
    headers = _with_trace(_check_headers(event.headers), trace)
    if headers:
        document["headers"] = headers
    return document | {"isLocked": True, "failures": []}


def check_id(id: Any) -> Any:
    """The id of an event, as it is stored."""
    if isinstance(id, uuid.UUID):
        return Binary(id.bytes, UUID_SUBTYPE)
    if isinstance(id, ObjectId) or _is_uuid(id):
        return id
    if not isinstance(id, str):
        raise _refused("id", "it is neither an ObjectId, a UUID of subtype 4 nor text")
    if not 1 <= _length("id", id) <= MAX_NAME_BYTES:
        raise _refused("id", "a string id has 1 to 255 bytes")
    if not _PRINTABLE.fullmatch(id):
        raise _refused("id", "a string id is printable ASCII without spaces")
    return str.__str__(id)


def _refused(part: ErrorCode, reason: str) -> OutboxError:
    name = "event id" if part == "id" else part
    return OutboxError(part, f"invalid {name}: {reason}")


def _is_uuid(value: Any) -> bool:
    return isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16


def _length(part: ErrorCode, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise _refused(part, "it has half of a surrogate pair") from None


def _check_subject(subject: Any) -> str:
    if not isinstance(subject, str):
        reason = f"it is of type {type(subject).__name__}, not text"
    elif subject == "":
        reason = "it is empty"
    elif _length("subject", subject) > MAX_NAME_BYTES:
        reason = "it is longer than 255 bytes"
    elif "*" in subject or ">" in subject:
        reason = "wildcards are for subscribers"
    elif not _PRINTABLE.fullmatch(subject):
        reason = "only printable ASCII without spaces is allowed"
    elif "" in subject.split("."):
        reason = "it has an empty token"
    elif subject.startswith("$"):
        reason = "subjects that begin with `$` belong to the server"
    elif subject.split(".")[0] == "_INBOX":
        reason = "`_INBOX` belongs to replies"
    else:
        return str.__str__(subject)
    raise _refused("subject", reason)


def _check_key(key: Any) -> str:
    if isinstance(key, (ObjectId, uuid.UUID)):
        return str(key)
    if _is_uuid(key):
        return str(uuid.UUID(bytes=bytes(key)))
    if key is None:
        reason = "it is None; leave the key out for an event without order"
    elif not isinstance(key, str):
        reason = "it is neither text, an ObjectId nor a UUID of subtype 4"
    elif key == "":
        reason = "it is empty; leave the key out for an event without order"
    elif _length("key", key) > MAX_NAME_BYTES:
        reason = "it is longer than 255 bytes"
    else:
        return str.__str__(key)
    raise _refused("key", reason)


def _check_headers(headers: Any) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise OutboxError("header", "headers are a mapping of texts")

    made: dict[str, str] = {}
    size = 0
    for name, value in headers.items():
        reason = _header_fault(name, value)
        if reason is None and value is not None:
            size += len(name) + len(value.encode())
            if name.lower() in map(str.lower, made):
                reason = "it is there twice"
            elif len(made) == MAX_HEADERS:
                reason = "an event has at most 64 headers"
            elif size > MAX_HEADER_BYTES:
                reason = "all headers together are over 32 KiB"
            else:
                made[str.__str__(name)] = str.__str__(value)
        if reason is not None:
            raise OutboxError("header", f"invalid header {json.dumps(str(name)[:64])}: {reason}")
    return made


def _header_fault(name: Any, value: Any) -> str | None:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        return "a name is letters, digits and !#$%&'*+-.^_`|~"
    if name.lower().startswith("nats-"):
        return "names that begin with `Nats-` belong to the server"
    if value is None:
        return None
    if not isinstance(value, str):
        return f"a value is text, and this one is of type {type(value).__name__}"
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        return "a value has half of a surrogate pair"
    if _CONTROL.search(value):
        return "a value has no control characters or line breaks"
    return None


def _with_trace(headers: dict[str, str], trace: Mapping[str, str]) -> dict[str, str]:
    """Adds the trace unless the headers name one. Headers too full for it stay as they are."""
    taken = {name.lower() for name in headers}
    if "traceparent" in taken:
        return headers
    for name, value in trace.items():
        longer = headers | {name: value}
        size = sum(len(known) + len(text.encode()) for known, text in longer.items())
        if name in taken or len(longer) > MAX_HEADERS or size > MAX_HEADER_BYTES:
            break
        headers = longer
    return headers
