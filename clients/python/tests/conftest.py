"""Servers and clients that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from outboxd_client.testing import Servers


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with Servers(request.module.SUBJECTS) as started:
        yield started


@pytest.fixture(scope="module")
def db(servers: Servers) -> Iterator[Database[Any]]:
    with MongoClient[Any](servers.mongodb_uri) as client:
        yield client.get_default_database()
