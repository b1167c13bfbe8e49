#!/usr/bin/env python3
"""replset.py PORT PID: makes the mongod at 127.0.0.1:PORT, process PID, the writable
primary of the replica set rs0, with a user root who may do everything. Speaks the wire protocol itself (OP_MSG, BSON), because
a test machine has no mongosh. Exit status: 0 done; 3 the process ended, or another one
answers at the port; 1 not within 60 s, with one line that says why."""

import os
import signal
import socket
import struct
import sys
import time


def encode(document):
    body = b""
    for key, value in document.items():
        name = key.encode() + b"\0"
        if isinstance(value, int):
            body += b"\x12" + name + struct.pack("<q", value)
        elif isinstance(value, str):
            text = value.encode() + b"\0"
            body += b"\x02" + name + struct.pack("<i", len(text)) + text
        elif isinstance(value, dict):
            body += b"\x03" + name + encode(value)
        else:
            body += b"\x04" + name + encode({str(i): item for i, item in enumerate(value)})
    return struct.pack("<i", len(body) + 5) + body + b"\0"


# BSON types with a size of their own; those without a format are only stepped over:
# undefined, ObjectId, date, null, timestamp, decimal128.
FIXED = {0x01: (8, "<d"), 0x08: (1, "<?"), 0x10: (4, "<i"), 0x12: (8, "<q"),
         0x06: (0, ""), 0x07: (12, ""), 0x09: (8, ""), 0x0A: (0, ""), 0x11: (8, ""), 0x13: (16, "")}


def decode(data, at):
    """The top level of the document at `at`, without its documents, arrays and binaries."""
    document, end = {}, at + struct.unpack_from("<i", data, at)[0] - 1
    at += 4
    while at < end:
        kind, name_end = data[at], data.index(0, at + 1)
        name, at, value = data[at + 1 : name_end].decode(), name_end + 1, None
        if kind in FIXED:
            size, form = FIXED[kind]
            value = struct.unpack_from(form, data, at)[0] if form else None
        else:  # a length comes first, which a document counts and the others do not
            size = struct.unpack_from("<i", data, at)[0] + {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5}[kind]
            if kind == 0x02:
                value = data[at + 4 : at + size - 1].decode()
        document[name] = value
        at += size
    return document


def command(connection, document):
    body = struct.pack("<IB", 0, 0) + encode({**document, "$db": "admin"})
    connection.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body)
    reply = b""
    while len(reply) < 4 or len(reply) < struct.unpack_from("<i", reply)[0]:
        part = connection.recv(65536)
        if not part:
            raise OSError("mongod closed the connection")
        reply += part
    return decode(reply, 16 + 5)


def listens(port, pid):
    """Whether it is the process itself that listens at the port."""
    files = f"/proc/{pid}/fd"
    with open("/proc/net/tcp") as table:
        sockets = [line.split() for line in table]
    ours = {f"socket:[{line[9]}]" for line in sockets if line[1].endswith(f":{port:04X}") and line[3] == "0A"}
    return any(os.readlink(f"{files}/{fd}") in ours for fd in os.listdir(files))


def step(port, pid):
    """One step towards a primary with a user: None when it is one, else what it still lacks."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        if not listens(port, pid):
            sys.exit(3)
        hello = command(connection, {"hello": 1})
        if hello.get("isWritablePrimary"):
            user = {"createUser": "root", "pwd": "root", "roles": ["root"]}
            return command(connection, user).get("errmsg")
        if "setName" in hello:
            return "it is not primary yet"
        config = {"_id": "rs0", "members": [{"_id": 0, "host": f"127.0.0.1:{port}"}]}
        return command(connection, {"replSetInitiate": config}).get("errmsg", "just initiated")


port, pid = int(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at Ctrl-C without a traceback
deadline = time.monotonic() + 60
while True:
    try:
        lacking = step(port, pid)
        if lacking is None:
            sys.exit(0)
    except OSError as error:
        lacking = error
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        sys.exit(3)
    if time.monotonic() > deadline:
        sys.exit(f"servers: mongod is not primary after 60 s ({lacking}); see its log")
    time.sleep(0.1)
