"""Python's own values as payloads: what they are written as, and which are refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import re
import uuid
from typing import Any, NamedTuple

import pytest
from bson import Binary, Code, Decimal128, Int64, ObjectId, Regex

from outboxd_client import OutboxError
from outboxd_client._payload import check_payload

UTC = datetime.timezone.utc


def written(payload: Any) -> Any:
    """The payload as it is stored."""
    value, _ = check_payload(payload)
    return value


def refusal(payload: Any) -> str:
    with pytest.raises(OutboxError) as refused:
        check_payload(payload)
    assert refused.value.code == "payload"
    return str(refused.value)


@dataclasses.dataclass
class Point:
    x: int
    tags: tuple[str, ...] = ()


class Colour(str, enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


class Pair(NamedTuple):
    a: int
    b: str


class Model:
    """What Pydantic's models look like to the client."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"price": "2.50"}


@pytest.mark.parametrize(
    "value",
    [
        {"a": (1, 2), "b": Pair(1, "x"), "c": collections.OrderedDict(z=1, a=2)},
        {7: "int", True: "bool", None: "none", 1.5: "float"},
        {"colour": Colour.RED, "size": Size.LARGE, Colour.RED: 1},
        {"n": 9007199254740993, "m": -(2**63), "f": 1.5, "t": True, "none": None},
        [1, "a", None, [], {}],
        {"text": "naïve 😀 \x00\n\u2028"},
    ],
)
def test_values_are_what_json_makes_of_them(value: Any) -> None:
    assert written(value) == json.loads(json.dumps(value))


def test_subclasses_of_plain_types_are_plain() -> None:
    made = written({"colour": Colour.RED, "size": Size.LARGE})
    assert [type(value) for value in made.values()] == [str, int]
    assert type(written({"n": Int64(5)})["n"]) is Int64


def test_values_beyond_json_are_written_as_bson() -> None:
    id = uuid.uuid4()
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert written({"id": id}) == {"id": Binary(id.bytes, 4)}
    assert written({"price": decimal.Decimal("2.50")}) == {"price": Decimal128("2.50")}
    assert written({"at": at, "data": bytearray(b"x")}) == {"at": at, "data": b"x"}
    assert written(Point(1, ("a",))) == {"x": 1, "tags": ["a"]}
    assert written({"model": Model(), "point": Point(2)}) == {
        "model": {"price": "2.50"},
        "point": {"x": 2, "tags": []},
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, {"price": float("nan")}], "payload.v[1].price is NaN"),
        ({"a b": float("inf")}, 'payload.v["a b"] is Infinity'),
        (Point(float("-inf")), "payload.v.x is -Infinity"),  # type: ignore[arg-type]
        (decimal.Decimal("NaN"), "payload.v is a decimal NaN"),
        (decimal.Decimal("sNaN"), "payload.v is a decimal"),
        (decimal.Decimal("-Infinity"), "payload.v is a decimal -Infinity"),
        (decimal.Decimal("1." + "1" * 34), "payload.v is a decimal that 34 digits do not hold"),
        (decimal.Decimal("1E+9999"), "payload.v is a decimal that 34 digits do not hold"),
        (2**63, "payload.v is a whole number beyond 64 bits; write a string"),
        (-(2**63) - 1, "payload.v is a whole number beyond 64 bits; write a string"),
        ({1}, "payload.v is a set; write a list"),
        (frozenset(), "payload.v is a set; write a list"),
        (datetime.date(2026, 1, 2), "payload.v is a date without a time"),
        (datetime.time(1), "payload.v is a time without a date"),
        (datetime.timedelta(1), "payload.v is a timedelta; write total_seconds()"),
        (re.compile("a"), "payload.v is of type regex"),
        (Regex("a"), "payload.v is of type regex"),
        (Code("f()"), "payload.v is of type javascript"),
        (1j, "payload.v is of type complex"),
        (object(), "payload.v is of type object"),
        (Point, "payload.v is of type type"),
        (iter([1]), "payload.v is of type list_iterator"),
        (collections.deque([1]), "payload.v is of type deque"),
        ("a\ud800", "payload.v is text with half of a surrogate pair"),
        ({"x\udc00": 1}, 'payload.v["x\\udc00"] is text with half of a surrogate pair'),
        ({"a\0b": 1}, "is named with a null character"),
        ({1: "a", "1": "b"}, 'payload.v["1"] is there twice'),
        ({(1, 2): "a"}, "payload.v is a document with a key of type tuple"),
        ({ObjectId(): "a"}, "payload.v is a document with a key of type ObjectId"),
        (
            datetime.datetime.max.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-1))),
            "payload.v is a date outside the years 0 to 9999",
        ),
    ],
)
def test_other_values_are_refused_with_their_path(value: Any, words: str) -> None:
    assert words in refusal({"v": value})


@pytest.mark.parametrize("payload", [1, None, 1.5, {1}, Code("f()"), Point, uuid.uuid4()])
def test_a_payload_is_a_container_text_or_binary(payload: Any) -> None:
    assert "a payload is a document, an array, a string or binary" in refusal(payload)


def test_a_value_that_contains_itself_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["again"] = circle
    assert "deeper than 100 levels" in refusal(circle)
