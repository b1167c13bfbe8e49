"""Servers for tests: a mongod, a nats-server and the relay between them.

Programs come from ``OUTBOXD_MONGOD``, ``OUTBOXD_NATS_SERVER`` and ``OUTBOXD_BIN``, from ``PATH``,
or from the cache of outboxd's ``deploy/local/servers fetch``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

PATIENCE = 30.0
"""How long a server may take to start, in seconds."""


class Relay:
    """A relay that can be killed and started again."""

    def __init__(self, process: Callable[[str], Process]) -> None:
        self._process = process
        self._running: Process | None = None

    def start(self) -> None:
        self._running = self._process("run")

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Ends it as ``kill -9`` does, or with another signal."""
        if self._running is not None:
            self._running.end(signal_number)
            self._running = None


class Servers:
    """Servers that run until ``stop``, or until the end of a ``with``."""

    mongodb_uri: str
    """With the database in it."""
    nats_url: str
    database: str
    stream: str
    relay: Relay

    def __init__(
        self,
        subjects: Sequence[str],
        *,
        database: str = "shop",
        stream: str = "SHOP",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.database = database
        self.stream = stream
        self._folder = Path(tempfile.mkdtemp(prefix="outboxd-test-"))
        self._processes: list[Process] = []
        try:
            self.mongodb_uri = self._start_mongod()
            self.nats_url = self._start_nats()
            self._start_relay(subjects, settings or {})
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends what was started and removes its files."""
        while self._processes:
            self._processes.pop().end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, program: str, arguments: Sequence[str], **env: str) -> Process:
        process = Process(program, arguments, self._folder, env)
        self._processes.append(process)
        return process

    def _start_mongod(self) -> str:
        port = _free_port()
        program = find("mongod", "OUTBOXD_MONGOD", "mongod-*")
        arguments = ["--replSet", "rs0", "--dbpath", str(self._folder), "--bind_ip", "127.0.0.1"]
        arguments += ["--port", str(port), "--nounixsocket", "--quiet"]
        mongod = self._start(program, [*arguments, "--wiredTigerCacheSizeGB", "0.25"])
        host = f"127.0.0.1:{port}"
        members = [{"_id": 0, "host": host}]

        def is_primary() -> bool:
            uri = f"mongodb://{host}/?directConnection=true"
            with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=1000) as client:
                try:
                    hello = client.admin.command("hello")
                    if "setName" not in hello:
                        config = {"_id": "rs0", "members": members}
                        client.admin.command("replSetInitiate", config)
                except PyMongoError:
                    return False
                return bool(hello["isWritablePrimary"])

        mongod.wait_until("a writable primary", is_primary)
        return f"mongodb://{host}/{self.database}?replicaSet=rs0"

    def _start_nats(self) -> str:
        program = find("nats-server", "OUTBOXD_NATS_SERVER", "nats-server-*")
        arguments = ["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", str(self._folder)]
        arguments += ["--jetstream", "--store_dir", str(self._folder / "nats")]
        nats = self._start(program, arguments)
        urls: list[str] = []

        def has_ports() -> bool:
            for file in self._folder.glob("*.ports"):
                if text := file.read_text():
                    urls.extend(json.loads(text)["nats"])
            return bool(urls)

        nats.wait_until("a listening nats-server", has_ports)
        return urls[0]

    def _start_relay(self, subjects: Sequence[str], settings: Mapping[str, str]) -> None:
        program = find("outboxd", "OUTBOXD_BIN", "outboxd*")
        env = {
            "MONGODB_URI": self.mongodb_uri,
            "NATS_URL": self.nats_url,
            "NATS_CLUSTER_ID": self.stream,
            "OUTBOXD_STREAM__SUBJECTS": ",".join(subjects),
            "OUTBOXD_ADMIN__LISTEN": "127.0.0.1:0",
            "OUTBOXD_ALERTS__FILE": str(self._folder / "alerts.jsonl"),
            # A relay that was killed is followed soon.
            "OUTBOXD_LEASE__TTL": "3s",
            "OUTBOXD_RETRY__OUTAGE_GRACE": "2s",
            "OUTBOXD_NATS__ACK_TIMEOUT": "1s",
            **settings,
        }
        self._start(program, ["migrate"], **env).wait()
        self.relay = Relay(lambda verb: self._start(program, [verb], **env))
        self.relay.start()


class Process:
    """A program that runs, and ends with this process, however that ends."""

    def __init__(
        self, program: str, arguments: Sequence[str], folder: Path, env: Mapping[str, str]
    ) -> None:
        self._log = folder / f"{Path(program).name}.log"
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | env,
                start_new_session=True,  # Ctrl-C is for the tests, which stop it
            )
        # The guard's input ends with this process.
        script = 'read -r line; kill -9 "$1"'
        self._guard = subprocess.Popen(
            ["sh", "-c", script, "sh", str(self._child.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self, signal_number: int) -> None:
        self._child.send_signal(signal_number)
        self._child.wait()
        self._end_guard()

    def wait(self) -> None:
        """Waits until it ends well."""
        code = self._child.wait()
        self._end_guard()
        if code != 0:
            raise RuntimeError(f"{self._child.args!r} exited with {code}:\n{self._last_lines()}")

    def wait_until(self, what: str, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            if self._child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{what}: waited in vain; its log:\n{self._last_lines()}")
            time.sleep(0.1)

    def _end_guard(self) -> None:
        self._guard.kill()
        self._guard.communicate()

    def _last_lines(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


def find(name: str, variable: str, cached: str) -> str:
    """A program: from its variable, from PATH, or the newest one in the cache."""
    if given := os.environ.get(variable):
        return given
    if on_path := shutil.which(name):
        return on_path

    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("OUTBOXD_CACHE") or Path(caches) / "outboxd")
    programs = (file for file in cache.glob(cached) if file.is_file() and os.access(file, os.X_OK))
    newest = max(programs, key=lambda file: file.stat().st_mtime, default=None)
    if newest is None:
        raise FileNotFoundError(
            f"no {name} on PATH or in {cache}; install it, or set {variable} to its path"
        )
    return str(newest)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
