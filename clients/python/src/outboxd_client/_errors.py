"""Why an event was not written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pymongo.errors import OperationFailure

ErrorCode = Literal[
    "transaction",
    "subject",
    "key",
    "id",
    "header",
    "payload",
    "too-long",
    "deliver-at",
    "validator",
]
"""What was wrong: the part of the event, or how the outbox was called."""

DOCUMENT_VALIDATION_FAILURE = 121


class OutboxError(Exception):
    """The outbox refused an event, or was called outside a transaction. Nothing was written.

    The error has none of the driver's labels, so ``with_transaction`` aborts and does not run the
    callback again.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def explained() -> Iterator[None]:
    """Puts the validator's reasons in words; leaves every other error of the driver as it is."""
    try:
        yield
    except OperationFailure as error:
        info = _validator_info(error)
        if info is None:
            raise
        reasons = dict.fromkeys(_reasons(info))  # each once, in order
        text = "; ".join(reasons) or "it gave no reason"
        raise OutboxError(
            "validator", f"the validator of the collection refuses the event: {text}"
        ) from error


def _validator_info(error: OperationFailure) -> Any:
    details: Mapping[str, Any] = error.details or {}
    for failed in (details, *details.get("writeErrors", ())):
        if failed.get("code", error.code) == DOCUMENT_VALIDATION_FAILURE:
            return failed.get("errInfo", {})
    return None


def _reasons(part: Any) -> Iterator[str]:
    """Walks ``errInfo``, which nests operators, properties and items in each other."""
    if isinstance(part, list):
        for item in part:
            yield from _reasons(item)
    if not isinstance(part, Mapping):
        return

    # The rules that a schema cannot express end in {"$not": ["the rule in words"]}.
    match part.get("specifiedAs"):
        case {"$expr": {"$cond": [_, _, {"$not": [str(words), *_]}, *_]}}:
            yield words
    if isinstance(part.get("propertyName"), str):
        yield f"{part['propertyName']}: {part.get('description', 'it breaks the schema')}"
    for name in part.get("missingProperties", ()):
        yield f"{name} is missing"
    for name in part.get("additionalProperties", ()):
        yield f"{name} is not allowed"
    for name, value in part.items():
        if name not in ("specifiedAs", "consideredValue"):
            yield from _reasons(value)
