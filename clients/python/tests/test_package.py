"""The package as it is built, installed into an empty environment and used from there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from outboxd_client.testing import Servers

from .support import messages, until

SUBJECTS = ["ticket.>"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    build = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    assert [path.suffixes[-1] for path in sorted(folder.iterdir())] == [".whl", ".gz"]
    venv.create(folder / "venv", with_pip=True)
    [wheel] = folder.glob("*.whl")
    pip = [str(folder / "venv/bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{wheel}[nats]", "mypy"], check=True, capture_output=True, text=True)
    return folder


def python(project: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [str(project / "venv/bin/python"), *arguments],
        cwd=project,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def examples() -> list[str]:
    """The programs of the README, as the package has it."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_examples_of_the_readme_write_and_consume(
    project: Path, servers: Servers, db: Database[Any]
) -> None:
    writing, consuming, testing = examples()
    (project / "write.py").write_text(writing)
    (project / "consume.py").write_text(consuming)
    env = {
        "MONGODB_URI": servers.mongodb_uri,
        "NATS_URL": servers.nats_url,
        "NATS_CLUSTER_ID": servers.stream,
    }
    python(project, "write.py", **env)
    assert [message.subject for message in messages(servers, 1).values()] == ["ticket.created"]

    command = [str(project / "venv/bin/python"), "consume.py"]
    with subprocess.Popen(command, cwd=project, env=os.environ | env) as consumer:
        try:
            until("the replica is there", lambda: db["ticket_copies"].find_one({"_id": "t1"}))
        finally:
            consumer.send_signal(signal.SIGTERM)
        assert consumer.wait(timeout=30) == 0
    assert "nats://" in python(project, "-c", testing).stdout


def test_it_needs_neither_nats_nor_opentelemetry_to_write(project: Path) -> None:
    script = """
        import sys
        sys.modules["nats"] = None
        from outboxd_client._trace import AVAILABLE
        import outboxd_client, outboxd_client.testing
        print(AVAILABLE, *outboxd_client.__all__)
    """
    ran = python(project, "-c", re.sub(r"(?m)^ +", "", script))
    assert ran.stdout.startswith("False AsyncInbox AsyncOutbox")


def test_it_has_types_that_refuse_what_is_wrong(project: Path) -> None:
    (project / "types_of.py").write_text((ROOT / "tests/types_of.py").read_text())
    python(project, "-m", "mypy", "--strict", "types_of.py")
