"""The servers for users' own tests."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from outboxd_client.testing import find

from .support import until

SCRIPT = """
import json, sys
from outboxd_client.testing import Servers
with Servers(["a.>"]) as servers:
    print(json.dumps([servers.mongodb_uri, servers.nats_url]), flush=True)
    sys.stdin.readline()
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    ports = [urlsplit(uri).port for uri in json.loads(child.stdout.readline())]
    return child, [port for port in ports if port is not None]


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_servers_end_with_stop(tmp_path: Path) -> None:
    child, ports = started(tmp_path)
    assert [listens(port) for port in ports] == [True, True]
    child.communicate("stop\n", timeout=30)
    assert child.returncode == 0
    assert not any(map(listens, ports))
    assert list(tmp_path.iterdir()) == []


def test_the_servers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    child, ports = started(tmp_path)
    child.kill()
    child.communicate()
    until("the servers have ended", lambda: not any(map(listens, ports)))


def test_a_program_is_found_in_three_places(tmp_path: Path, monkeypatch: Any) -> None:
    def program(folder: str, name: str) -> str:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.chmod(stat.S_IRWXU)
        return str(path)

    monkeypatch.delenv("OUTBOXD_MONGOD", raising=False)
    monkeypatch.setenv("OUTBOXD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(FileNotFoundError, match=r"no mongod on PATH or in .*set OUTBOXD_MONGOD"):
        find("mongod", "OUTBOXD_MONGOD", "mongod-*")
    cached = program("cache", "mongod-6.0.5")
    assert find("mongod", "OUTBOXD_MONGOD", "mongod-*") == cached
    on_path = program("path", "mongod")
    assert find("mongod", "OUTBOXD_MONGOD", "mongod-*") == on_path
    monkeypatch.setenv("OUTBOXD_MONGOD", "given")
    assert find("mongod", "OUTBOXD_MONGOD", "mongod-*") == "given"
