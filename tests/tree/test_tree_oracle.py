"""Apache ZooKeeper as the oracle: the same frames must get the same replies, stats, zxids and events.

A server of its own runs on a free loopback port. Where the tree departs from it on purpose, the load avoids
the case, and the departure has its own test elsewhere:

- unknown operations and a `check` alone close a connection there;
- version 3.8 keeps one mode per watch and path (ZOOKEEPER-4466), does not withhold events that a session may
  not read (CVE-2024-23944), and sends events without a zxid;
- `exists` needs no permission before 3.9, which lets anyone see the stat of what is hidden from him;
- the empty path reads the root there, by accident of its tables;
- a create2 inside a multi is answered as a create there (ZOOKEEPER-4026);
- `create` with the flags of a container makes a plain znode there.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.peers import free_ports
from tree_world import (
    OPEN,
    Reply,
    World,
    add_watch,
    children,
    children2,
    create,
    delete,
    exists,
    frame,
    get_acl,
    get_data,
    multi,
    op_check,
    op_create,
    op_delete,
    op_set,
    read,
    set_acl,
    set_data,
    set_watches,
    text,
)

JARS = Path("/usr/share/java")
JAR = JARS / "zookeeper.jar"
NEEDED = [
    "zookeeper",
    "zookeeper-jute",
    "slf4j-api",
    "slf4j-nop",
    "netty-all",
    "metrics-core",
    "snappy-java",
    "commons-io",
    "commons-cli",
]
JOE = b"joe:" + base64.b64encode(hashlib.sha1(b"joe:secret").digest())

pytestmark = [pytest.mark.slow, pytest.mark.requires("zookeeper")]


def four_letters(port: int, word: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(word)
        return connection.recv(65536)


def _serves(port: int) -> bool:
    try:
        return b"Mode:" in four_letters(port, b"srvr")
    except OSError:
        return False


class Oracle:
    """A running server and the connections to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.wires: list[Wire] = []

    def connect(self) -> Wire:
        wire = Wire(self.port)
        self.wires.append(wire)
        return wire


@pytest.fixture
def zookeeper(tmp_path: Path) -> Iterator[Oracle]:
    """A fresh server."""
    java = shutil.which("java")
    if java is None or not JAR.exists():
        if "zookeeper" in os.environ.get("SYNOD_REQUIRE", ""):
            pytest.fail("Apache ZooKeeper is required and not installed")
        pytest.skip("Apache ZooKeeper is not installed")
    (port,) = free_ports(1)
    config = tmp_path / "zoo.cfg"
    config.write_text(
        f"tickTime=2000\ndataDir={tmp_path}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
        "admin.enableServer=false\n4lw.commands.whitelist=*\n"
    )
    command = [
        java,
        "-Xmx256m",
        "-cp",
        ":".join(str(JARS / f"{name}.jar") for name in NEEDED),
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        str(config),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not _serves(port):
            assert server.poll() is None, "the server ended by itself"
            assert time.monotonic() < deadline, "the server does not begin to serve"
            time.sleep(0.05)
        oracle = Oracle(port)
        yield oracle
        for wire in oracle.wires:
            wire.socket.close()
    finally:
        server.kill()
        server.wait()


class Wire:
    """One connection to the oracle, used a frame at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = struct.pack(">iqiq", 0, 0, 30_000, 0) + text(bytes(16)) + b"\0"
        self.socket.sendall(struct.pack(">i", len(request)) + request)
        answer = self._frame()
        (self.session,) = struct.unpack_from(">q", answer, 12)

    def _frame(self) -> bytes:
        head = self._exactly(4)
        return head + self._exactly(struct.unpack(">i", head)[0])

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the oracle closed the connection"
            data += more
        return data

    def ask(self, request: bytes) -> list[Reply]:
        """Events that came, and the reply, in the order of their arrival."""
        self.socket.sendall(request)
        (xid,) = struct.unpack_from(">i", request, 4)
        got = []
        while True:
            reply = Reply(self._frame())
            got.append(reply)
            if reply.xid == xid and xid != -1:
                return got


class Pair:
    """A client that asks both, and compares."""

    def __init__(self, world: World, oracle: Oracle, conn: int) -> None:
        self.world = world
        self.conn = conn
        self.wire = oracle.connect()
        self.session = world.connect(conn)
        world.auth(self.session, b"ip", b"127.0.0.1")

    def ask(self, request: bytes, *, write: bool, owners: dict[int, int]) -> Reply:
        theirs = self.wire.ask(request)
        world = self.world
        if write:
            ours = world.write(self.session, request)
        else:
            answer = world.read(self.session, request)
            ours = [*world.sink.take(self.conn), answer]
        op = struct.unpack_from(">i", request, 8)[0]
        if op == 3 and ours[-1].err == -102:
            return ours[-1]
        got = [self._plain(r, op, {}) for r in ours]
        wanted = [self._plain(r, op, owners) for r in theirs]
        if op == 101:  # a znode that is gone is told twice there, once per list
            got, wanted = list(dict.fromkeys(got)), list(dict.fromkeys(wanted))
        assert got == wanted, request
        return ours[-1]

    def _plain(self, reply: Reply, op: int, owners: dict[int, int]) -> object:
        if reply.xid == -1:
            return ("event", *reply.event())
        body = reply.body
        if reply.err == 0:
            if op == 14:
                body = tuple(_result(*result, owners) for result in reply.results())
            elif op == 8:
                body = tuple(sorted(reply.names()))
            elif op == 12:
                body = (tuple(sorted(reply.names())), _blank(body, len(body) - 68, owners)[-68:])
            elif op == 107:
                body = tuple(sorted(_strings(body)))  # its order is that of a Java hash set
            elif op in (3, 4, 5, 6, 7, 15, 19):
                body = _blank(body, len(body) - 68, owners)
        return (reply.xid, reply.zxid, reply.err, body)


def _blank(body: bytes, at: int, owners: dict[int, int]) -> bytes:
    """The body without wall-clock times, and with our session ids."""
    stat = list(struct.unpack_from(">qqqqiiiqiiq", body, at))
    stat[2] = stat[3] = 0
    stat[7] = owners.get(stat[7], stat[7])
    return body[:at] + struct.pack(">qqqqiiiqiiq", *stat)


def _result(kind: int, err: int, body: bytes, owners: dict[int, int]) -> tuple[int, int, bytes]:
    if kind == 15:
        return 1, err, body[:-68]
    return kind, err, _blank(body, 0, owners) if kind == 5 else body


def _strings(body: bytes) -> list[bytes]:
    at, found = 4, []
    while at < len(body):
        (size,) = struct.unpack_from(">i", body, at)
        found.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return found


PATHS = [b"/a", b"/b", b"/a/c", b"/a/d", b"/a/c/e", b"/b/f", b"/zookeeper/quota/x"]
EMOJI = "/😀".encode()
ODD = [
    b"/",
    b"/zookeeper",
    b"/zookeeper/config",
    b"/zookeeper/quota",
    b"",
    b"a",
    b"/a/",
    b"//a",
    b"/./a",
    b"/a/..",
    b"/\x01",
    "/ä".encode(),
    "/\ue000".encode(),
    EMOJI,
    b"/none/x",
    b"/a//b",
    b"x/y",
]
ACLS = [OPEN] * 6 + [
    [(31, b"auth", b"")],
    [(1, b"world", b"anyone")],
    [(3, b"digest", JOE), (5, b"world", b"anyone")],
    [(31, b"ip", b"127.0.0.1")],
    [(30, b"ip", b"10.0.0.0/8"), (1, b"world", b"anyone")],
    [(31, b"ip", b"127.0.0.1/40")],
    [(31, b"digest", b"nocolon")],
    [(31, b"world", b"nobody")],
    [(31, b"none", b"x")],
    [],
    OPEN + OPEN,
]


def draw_write(rng: random.Random, xid: int, path: bytes) -> bytes:
    version = rng.choice([-1, -1, -1, 0, 1, 2])
    value = rng.choice([b"", b"x", b"value", None])
    kind = rng.randrange(10)
    if kind < 4:
        op, flags = rng.choice([(1, 0), (1, 0), (1, 1), (1, 2), (1, 3), (15, 0), (15, 3), (19, 4), (1, 5), (1, 9)])
        return create(xid, path, value, flags, acl=rng.choice(ACLS), op=op)
    if kind < 6:
        return set_data(xid, path, value, version)
    if kind < 8:
        return delete(xid, path, version)
    if kind == 8 and path != b"/":
        return set_acl(xid, path, rng.choice(ACLS), version)
    operations = []
    for _ in range(rng.randrange(1, 5)):
        inner = rng.choice(PATHS)
        operations.append(
            rng.choice(
                [
                    op_create(inner, value, rng.choice([0, 0, 1, 2]), op=rng.choice([1, 15])),
                    op_create(inner, value, 4, op=19),
                    op_delete(inner, version),
                    op_set(inner, value, version),
                    op_check(inner, version),
                ]
            )
        )
    return multi(xid, *operations)


def draw_read(rng: random.Random, xid: int, path: bytes, since: int, watch: bool) -> bytes:
    draw = rng.randrange(12)
    if draw < 3:
        return exists(xid, path, watch)
    if draw < 5:
        return get_data(xid, path, watch)
    if draw < 7:
        return children(xid, path, watch)
    if draw == 7:
        return children2(xid, path, watch)
    if draw == 8:
        return get_acl(xid, path)
    if draw == 9:
        return read(xid, 104, path, None)
    if draw == 10:
        return read(xid, 9, path, None)
    return set_watches(xid, since, [path], [path], [path]) if watch else frame(xid, 107)


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_answers_as_zookeeper_does(zookeeper: Oracle, seed: int) -> None:
    """Two clients, one of them authenticated, in turns; also every error code and stat, zxid by zxid."""
    rng = random.Random(seed)
    world = World()
    pairs = [Pair(world, zookeeper, conn) for conn in (1, 2)]
    owners = {pair.wire.session: pair.session for pair in pairs}
    pairs[0].wire.ask(frame(-4, 100, struct.pack(">i", 0) + text(b"digest") + text(b"joe:secret")))
    world.auth(pairs[0].session, b"digest", JOE)
    world.sink.take(1)
    errors: dict[int, int] = {}
    for xid in range(1, 1500):
        pair = rng.choice(pairs)
        path = rng.choice(PATHS) if rng.random() < 0.85 else rng.choice(ODD)
        if rng.random() < 0.6:
            reply = pair.ask(draw_write(rng, xid, path), write=True, owners=owners)
        else:
            if path == EMOJI:
                path = b"/"  # read back by Java's UTF-8 dialect, it has other bytes
            since = rng.randrange(world.tree.zxid + 1)
            # Only the authenticated client watches: 3.8 tells the other one of what it may not read.
            watch = pair is pairs[0] and rng.random() < 0.5
            reply = pair.ask(draw_read(rng, xid, path or b"/", since, watch), write=False, owners=owners)
        errors[reply.err] = errors.get(reply.err, 0) + 1
    assert {0, -6, -8, -101, -102, -103, -110, -111, -114} <= set(errors)
    world.tree.check()


def test_lasting_watches_fire_as_zookeepers(zookeeper: Oracle) -> None:
    rng = random.Random(1)
    world = World()
    pairs = [Pair(world, zookeeper, conn) for conn in (1, 2)]
    owners = {pair.wire.session: pair.session for pair in pairs}
    pairs[0].ask(add_watch(1, b"/a", 1), write=False, owners=owners)
    pairs[1].ask(add_watch(1, b"/a", 0), write=False, owners=owners)
    pairs[1].ask(add_watch(1, b"/a/c", 0), write=False, owners=owners)
    for xid in range(2, 400):
        path = rng.choice(PATHS[:6])
        request = rng.choice(
            [create(xid, path), create(xid, path, flags=2), set_data(xid, path, b"x"), delete(xid, path)]
        )
        rng.choice(pairs).ask(request, write=True, owners=owners)
        for pair in pairs:
            pair.ask(exists(10_000 + xid, b"/"), write=False, owners=owners)


def test_closing_a_session_as_zookeeper_does(zookeeper: Oracle) -> None:
    world = World()
    first, second = (Pair(world, zookeeper, conn) for conn in (1, 2))
    owners = {pair.wire.session: pair.session for pair in (first, second)}
    first.ask(create(1, b"/p"), write=True, owners=owners)
    for xid in range(3):
        first.ask(create(xid, b"/p/e", flags=3), write=True, owners=owners)
    second.ask(children(1, b"/p", watch=True), write=False, owners=owners)
    theirs = first.wire.ask(frame(9, -11))
    world.items(world.slice(first.session, frame(9, -11)))
    ours = world.sink.take(1)
    assert [(r.xid, r.zxid, r.err) for r in ours] == [(r.xid, r.zxid, r.err) for r in theirs]
    second.ask(children2(2, b"/p"), write=False, owners=owners)
    second.ask(exists(3, b"/p"), write=False, owners=owners)


def test_whoami_ephemerals_and_multi_read(zookeeper: Oracle) -> None:
    world = World()
    pair = Pair(world, zookeeper, 1)
    owners = {pair.wire.session: pair.session}
    pair.wire.ask(frame(-4, 100, struct.pack(">i", 0) + text(b"digest") + text(b"joe:secret")))
    world.auth(pair.session, b"digest", JOE)
    world.sink.take(1)
    pair.ask(frame(1, 107), write=False, owners=owners)
    pair.ask(create(2, b"/e", b"v", flags=1), write=True, owners=owners)
    pair.ask(read(3, 103, b"/", None), write=False, owners=owners)
    pair.ask(read(4, 103, b"/e", None), write=False, owners=owners)
    pair.ask(read(5, 103, b"/x", None), write=False, owners=owners)
    body = b"".join(
        struct.pack(">i?i", op, False, -1) + text(p) + b"\0"
        for op, p in ((8, b"/zookeeper/quota"), (4, b"/n"), (8, b"/n"))
    )
    pair.ask(frame(6, 22, body + struct.pack(">i?i", -1, True, -1)), write=False, owners=owners)
