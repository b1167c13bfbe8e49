"""How a payload becomes a value that the driver writes and the relay publishes as expected.

A document or an array is published as plain JSON. Python's own values are treated as ``json.dumps``
treats them: a tuple is an array, and a key that is a number, a bool or None is its text. Beyond
``json.dumps``, a dataclass is the document of its fields, and a model of Pydantic is what
``model_dump(mode="json")`` returns. BSON's values keep their types: an ObjectId, a UUID or a
decimal is published as a string, a datetime as RFC 3339, binary as base64. Values that JSON lacks
are refused with their path.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeVar

from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from ._errors import OutboxError

P = TypeVar("P")

MAX_DEPTH = 100
"""Deepest nesting of documents and arrays in a payload."""

MAX_PAYLOAD_BYTES = 1024 * 1024 - 32 * 1024
"""Longest payload as published: 1 MiB, the server's default, less 32 KiB for headers."""

UUID_SUBTYPE = 4

_EARLIEST, _LATEST = -62_167_219_200_000, 253_402_300_799_999  # the dates of RFC 3339
_MIN_LONG, _MAX_LONG = -(2**63), 2**63 - 1
_PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,63}")

_BSON_NAMES: dict[type, str] = {
    Code: "javascript",
    MaxKey: "maxKey",
    MinKey: "minKey",
    Regex: "regex",
    re.Pattern: "regex",
    Timestamp: "timestamp",
}
_ADVICE: tuple[tuple[type, str], ...] = (
    (Set, "a set; write a list"),
    (datetime.date, "a date without a time; write a datetime, or isoformat()"),
    (datetime.time, "a time without a date; write isoformat()"),
    (datetime.timedelta, "a timedelta; write total_seconds()"),
)


def check_payload(payload: Any) -> tuple[Any, int]:
    """The value to write, and its length as published, in bytes."""
    if isinstance(payload, (bytes, bytearray, memoryview)):
        data = _binary(payload)
        return data, len(data)
    if isinstance(payload, str) and not isinstance(payload, Code):
        return str.__str__(payload), len(encoded(payload, "payload"))

    walk = _Walk()
    value = walk.container(payload, "payload", 0)
    if value is None:
        kind = type(payload).__name__
        raise _refused(
            f"it is of type {kind}; a payload is a document, an array, a string or binary"
        )
    return value, walk.size


def encoded(text: str, path: str) -> bytes:
    """The UTF-8 of a text. A surrogate has none, and ``json.dumps`` would hide it in an escape."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _not_json(path, "text with half of a surrogate pair") from None


def to_millis(value: datetime.datetime | DatetimeMS) -> int | None:
    """Milliseconds since 1970, or None outside the years 1 to 9999 of UTC.

    As in the driver, a datetime without a time zone is in UTC.
    """
    try:
        return int(value if isinstance(value, DatetimeMS) else DatetimeMS(value))
    except OverflowError:
        return None


def _refused(reason: str) -> OutboxError:
    return OutboxError("payload", f"invalid payload: {reason}")


def _not_json(path: str, what: str) -> OutboxError:
    return _refused(f"{path} is {what}; it has no plain form in JSON")


class _Walk:
    """One pass over a payload: makes the value to write and counts the bytes as published."""

    def __init__(self) -> None:
        self.size = 0

    def value(self, value: Any, path: str, depth: int) -> Any:
        match value:
            case None | bool():
                return self._counted(value, 5 if value is False else 4)
            case Code() | Regex() | re.Pattern() | Timestamp() | MinKey() | MaxKey():
                names = (name for kind, name in _BSON_NAMES.items() if isinstance(value, kind))
                raise _not_json(path, f"of type {next(names)}")
            case str():
                return self._counted(str.__str__(value), _quoted(value, path))
            case int():
                return self._whole(value, path)
            case float():
                return self._float(float.__float__(value), path)
            case ObjectId():
                return self._counted(value, 26)
            case uuid.UUID():
                return self._counted(Binary(value.bytes, UUID_SUBTYPE), 38)
            case bytes() | bytearray() | memoryview():
                return self._binary(_binary(value))
            case datetime.datetime() | DatetimeMS():
                return self._datetime(value, path)
            case decimal.Decimal() | Decimal128():
                return self._decimal(value, path)

        made = self.container(value, path, depth)
        if made is not None:
            return made
        for kind, advice in _ADVICE:
            if isinstance(value, kind):
                raise _not_json(path, advice)
        raise _not_json(path, f"of type {type(value).__name__}")

    def container(self, value: Any, path: str, depth: int) -> dict[str, Any] | list[Any] | None:
        """A document or an array; None if ``value`` is neither."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        elif hasattr(value, "model_dump") and not isinstance(value, type):
            value = value.model_dump(mode="json")

        is_array = isinstance(value, (list, tuple))
        if not is_array and not isinstance(value, Mapping):
            return None
        if depth >= MAX_DEPTH:
            raise _refused("it is nested deeper than 100 levels")
        self.size += 2 + max(0, len(value) - 1)  # the brackets and commas
        return self._array(value, path, depth) if is_array else self._document(value, path, depth)

    def _array(self, value: Sequence[Any], path: str, depth: int) -> list[Any]:
        return [self.value(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]

    def _document(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, field in value.items():
            name = _name(key, path)
            plain = _PLAIN_NAME.fullmatch(name)
            at = f"{path}.{name}" if plain else f"{path}[{_shown(name)}]"
            if "\0" in name:
                raise _not_json(at, "named with a null character")
            if name in made:
                raise _not_json(at, "there twice")
            self.size += _quoted(name, at) + 1  # the colon
            made[name] = self.value(field, at, depth + 1)
        return made

    def _whole(self, value: int, path: str) -> int:
        if not _MIN_LONG <= value <= _MAX_LONG:
            raise _not_json(path, "a whole number beyond 64 bits; write a string")
        plain = value if isinstance(value, Int64) else int.__int__(value)
        return self._counted(plain, len(int.__repr__(value)))

    def _float(self, value: float, path: str) -> float:
        if not math.isfinite(value):
            name = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
            raise _not_json(path, name)
        return self._counted(value, _float_length(value))

    def _datetime(self, value: datetime.datetime | DatetimeMS, path: str) -> Any:
        millis = to_millis(value)
        if millis is None or not _EARLIEST <= millis <= _LATEST:
            raise _not_json(path, "a date outside the years 0 to 9999")
        fraction = f"{millis % 1000:03}".rstrip("0")
        return self._counted(value, 22 + len(fraction) + bool(fraction))

    def _decimal(self, value: decimal.Decimal | Decimal128, path: str) -> Decimal128:
        try:
            made = value if isinstance(value, Decimal128) else Decimal128(value)
        except decimal.DecimalException:
            what = "a decimal that 34 digits do not hold; write a string"
            raise _not_json(path, what) from None
        if not made.to_decimal().is_finite():
            raise _not_json(path, f"a decimal {made}")
        return self._counted(made, len(str(made)) + 2)

    def _binary(self, value: bytes) -> bytes:
        is_uuid = isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16
        return self._counted(value, 38 if is_uuid else (len(value) + 2) // 3 * 4 + 2)

    def _counted(self, value: P, size: int) -> P:
        self.size += size
        return value


def _name(key: Any, path: str) -> str:
    """The name of a field, as ``json.dumps`` writes a key."""
    match key:
        case str():
            return str.__str__(key)
        case bool() | None:
            return json.dumps(key)
        case int():
            return int.__repr__(key)
        case float():
            return float.__repr__(key)
    raise _not_json(path, f"a document with a key of type {type(key).__name__}")


def _shown(name: str) -> str:
    return json.dumps(name, ensure_ascii=not name.isprintable())


def _quoted(text: str, path: str) -> int:
    return len(encoded(json.dumps(text, ensure_ascii=False), path))


def _float_length(value: float) -> int:
    """The length of a float as the relay writes it, which is as JavaScript does."""
    if value.is_integer() and abs(value) < 1e21:
        return len(str(int(value)))
    digits, _, exponent = repr(value).partition("e")
    if not exponent:
        return len(digits)
    if -6 <= int(exponent) < 0:  # 1e-05 is written 0.00001
        return len(digits.replace(".", "")) + 1 - int(exponent)
    return len(f"{digits}e{int(exponent):+d}")


def _binary(value: bytes | bytearray | memoryview) -> bytes:
    return value if isinstance(value, bytes) else bytes(value)
