"""What the synchronous and the asynchronous classes share: each operation is written once.

An operation is a generator that yields the calls of the driver it needs and is sent their results.
``run`` makes the calls with a ``Database``, ``run_async`` with an ``AsyncDatabase``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call of a collection's method, or of the database's if ``collection`` is None."""

    collection: str | None
    method: str
    args: tuple[Any, ...]
    session: Any = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def on(self, db: Any) -> Any:
        target = db if self.collection is None else db.get_collection(self.collection)
        options = self.options
        if self.session is not None:
            options = options | {"session": self.session}
        return getattr(target, self.method)(*self.args, **options)


Calls: TypeAlias = Generator[Call, Any, T]


def run(db: Database[Any], calls: Calls[T]) -> T:
    step: Callable[[], Call] = partial(next, calls)
    while True:
        try:
            call = step()
        except StopIteration as end:
            return cast(T, end.value)
        try:
            step = partial(calls.send, call.on(db))
        except Exception as error:
            step = partial(calls.throw, error)


async def run_async(db: AsyncDatabase[Any], calls: Calls[T]) -> T:
    step: Callable[[], Call] = partial(next, calls)
    while True:
        try:
            call = step()
        except StopIteration as end:
            return cast(T, end.value)
        try:
            step = partial(calls.send, await call.on(db))
        except Exception as error:
            step = partial(calls.throw, error)
