"""`terminal.py OUTBOXD` writes docs/terminal.svg: what a terminal shows of an event that no stream takes.

Run it by `deploy/local/servers run -- python3 docs/terminal.py target/debug/outboxd`, with pymongo installed. Everything in
the picture was typed and answered: a relay runs beside a real mongod and a real nats-server, and a writer has inserted three events.
"""

import html
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo import MongoClient

COLUMNS, LINE, WIDTH = 92, 19, 8.43
OUTBOXD = os.path.abspath(sys.argv[1])
TARGET = pathlib.Path(__file__).with_name("terminal.svg")


def event(subject, key):
    return {
        "_id": ObjectId(),
        "ts": Timestamp(0, 0),
        "subject": subject,
        "key": key,
        "payload": {"id": key, "version": 1},
        "isLocked": True,
        "failures": [],
    }


def typed(line):
    """The line, and what came back."""
    words = line.split()
    answer = subprocess.run([OUTBOXD, *words[1:]], capture_output=True, text=True, check=False)
    return [f"$ {line}", *(answer.stdout + answer.stderr).rstrip().splitlines()]


def leads(address):
    for _ in range(300):
        try:
            if urllib.request.urlopen(f"http://{address}/readyz").status == 200:
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("the relay did not lead within 30 s")


def session():
    relay = subprocess.Popen([OUTBOXD, "run"], stderr=subprocess.DEVNULL)
    try:
        leads(os.environ["OUTBOXD_ADMIN__LISTEN"])
        outbox = MongoClient(os.environ["MONGODB_URI"]).get_default_database()["outbox"]
        outbox.insert_many([event("ticket.moved", "t1"), event("ticket.created", "t1"), event("ticket.created", "t2")])
        while outbox.count_documents({"isLocked": True}):
            time.sleep(0.1)
        lines = [*typed("outboxd stats"), ""]
        groups = typed("outboxd groups")
        group = next(found[1] for line in groups if (found := re.match(r"([0-9a-f]{8}) ", line)))
        return [*lines, *groups, "", *typed(f"outboxd groups {group}")]
    finally:
        relay.terminate()
        relay.wait()


def svg(lines):
    height = (len(lines) + 2) * LINE + 22
    width = round(COLUMNS * WIDTH + 32)
    rows = []
    for at, line in enumerate(lines):
        prompt = line.startswith("$ ")
        colour = "#7ee787" if prompt else "#e6edf3"
        rows.append(f'<text x="16" y="{52 + at * LINE}" fill="{colour}" xml:space="preserve">{html.escape(line)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="14">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>\n'
        '<circle cx="20" cy="18" r="6" fill="#ff5f56"/><circle cx="40" cy="18" r="6" fill="#ffbd2e"/>'
        '<circle cx="60" cy="18" r="6" fill="#27c93f"/>\n' + "\n".join(rows) + "\n</svg>\n"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "MONGODB_URI": os.environ["OUTBOXD_TEST_MONGODB_URI"].replace("/?", "/shop?"),
            "NATS_URL": os.environ["OUTBOXD_TEST_NATS_URL"],
            "NATS_CLUSTER_ID": "SHOP",
            "NATS_CLIENT_ID": "tickets-7d4b9",
            "OUTBOXD_STREAM__SUBJECTS": "ticket.created,ticket.updated",
            "OUTBOXD_ADMIN__LISTEN": os.environ.get("OUTBOXD_ADMIN__LISTEN", "127.0.0.1:9464"),
            "OUTBOXD_ALERTS__FILE": f"{folder}/alerts.jsonl",
            "COLUMNS": str(COLUMNS),
        }
        subprocess.run([OUTBOXD, "migrate"], check=True, stdout=subprocess.DEVNULL)
        TARGET.write_text(svg(session()))
