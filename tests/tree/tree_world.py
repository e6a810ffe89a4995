"""A small world around one `Tree`: clients' frames in, replies and events out, everything recorded.

`World` plays the origin, the leader and the log; `PlainTree` is the slow twin that never takes the fast path.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from synod.base import Ballot
from synod.tree import (
    FEATURE_LEVEL,
    Tree,
    encode_attach,
    encode_auth,
    encode_batch,
    encode_create_session,
    encode_group,
    encode_opening,
    encode_slice,
)

PASSWORD = b"0123456789abcdef"
OPEN = [(31, b"world", b"anyone")]
STAT_FIELDS = [
    "czxid",
    "mzxid",
    "ctime",
    "mtime",
    "version",
    "cversion",
    "aversion",
    "ephemeral_owner",
    "data_length",
    "num_children",
    "pzxid",
]


def text(data: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if data is None else struct.pack(">i", len(data)) + data


def acl_bytes(entries: Sequence[tuple[int, bytes, bytes]] = OPEN) -> bytes:  # type: ignore[assignment]
    return struct.pack(">i", len(entries)) + b"".join(struct.pack(">i", p) + text(s) + text(i) for p, s, i in entries)


def frame(xid: int, op: int, body: bytes = b"") -> bytes:
    return struct.pack(">iii", 8 + len(body), xid, op) + body


def create_body(path: bytes, data: bytes | None = b"", flags: int = 0, acl=OPEN) -> bytes:
    return text(path) + text(data) + acl_bytes(acl) + struct.pack(">i", flags)


def create(xid: int, path: bytes, data: bytes | None = b"", flags: int = 0, *, acl=OPEN, op: int = 1) -> bytes:
    return frame(xid, op, create_body(path, data, flags, acl))


def delete(xid: int, path: bytes, version: int = -1) -> bytes:
    return frame(xid, 2, text(path) + struct.pack(">i", version))


def set_data(xid: int, path: bytes, data: bytes | None, version: int = -1) -> bytes:
    return frame(xid, 5, text(path) + text(data) + struct.pack(">i", version))


def set_acl(xid: int, path: bytes, acl, version: int = -1) -> bytes:
    return frame(xid, 7, text(path) + acl_bytes(acl) + struct.pack(">i", version))


def close(xid: int) -> bytes:
    return frame(xid, -11)


def read(xid: int, op: int, path: bytes, watch: bool | None = False) -> bytes:
    return frame(xid, op, text(path) + (b"" if watch is None else bytes([watch])))


def exists(xid: int, path: bytes, watch: bool = False) -> bytes:
    return read(xid, 3, path, watch)


def get_data(xid: int, path: bytes, watch: bool = False) -> bytes:
    return read(xid, 4, path, watch)


def get_acl(xid: int, path: bytes) -> bytes:
    return read(xid, 6, path, None)


def children(xid: int, path: bytes, watch: bool = False) -> bytes:
    return read(xid, 8, path, watch)


def children2(xid: int, path: bytes, watch: bool = False) -> bytes:
    return read(xid, 12, path, watch)


def multi(xid: int, *operations: tuple[int, bytes], op: int = 14) -> bytes:
    body = b"".join(struct.pack(">i?i", kind, False, -1) + one for kind, one in operations)
    return frame(xid, op, body + struct.pack(">i?i", -1, True, -1))


def op_create(path: bytes, data: bytes | None = b"", flags: int = 0, *, op: int = 1, acl=OPEN) -> tuple[int, bytes]:
    return op, create_body(path, data, flags, acl)


def op_delete(path: bytes, version: int = -1) -> tuple[int, bytes]:
    return 2, text(path) + struct.pack(">i", version)


def op_set(path: bytes, data: bytes | None, version: int = -1) -> tuple[int, bytes]:
    return 5, text(path) + text(data) + struct.pack(">i", version)


def op_check(path: bytes, version: int) -> tuple[int, bytes]:
    return 13, text(path) + struct.pack(">i", version)


def set_watches(xid: int, since: int, data=(), exist=(), child=(), persistent=None, recursive=None) -> bytes:
    lists = [data, exist, child]
    op = 101
    if persistent is not None or recursive is not None:
        op = 105
        lists += [persistent or (), recursive or ()]
    body = struct.pack(">q", since)
    for paths in lists:
        body += struct.pack(">i", len(paths)) + b"".join(text(p) for p in paths)
    return frame(xid, op, body)


def add_watch(xid: int, path: bytes, mode: int) -> bytes:
    return frame(xid, 106, text(path) + struct.pack(">i", mode))


def check_watches(xid: int, path: bytes, type_: int) -> bytes:
    return frame(xid, 17, text(path) + struct.pack(">i", type_))


def remove_watches(xid: int, path: bytes, type_: int) -> bytes:
    return frame(xid, 18, text(path) + struct.pack(">i", type_))


class Reply:
    """One frame to a client, taken apart."""

    def __init__(self, data: bytes) -> None:
        length, self.xid, self.zxid, self.err = struct.unpack_from(">iiqi", data)
        assert length + 4 == len(data), "a frame says its own length"
        self.body = data[20:]
        if self.err:
            assert self.body == b""

    def __repr__(self) -> str:
        return f"Reply(xid={self.xid}, zxid={self.zxid}, err={self.err}, body={self.body!r})"

    def field(self) -> bytes | None:
        (size,) = struct.unpack_from(">i", self.body)
        return None if size == -1 else self.body[4 : 4 + size]

    def stat(self, at: int | None = None) -> dict[str, int]:
        at = len(self.body) - 68 if at is None else at
        return dict(zip(STAT_FIELDS, struct.unpack_from(">qqqqiiiqiiq", self.body, at), strict=True))

    def names(self) -> list[bytes]:
        (count,) = struct.unpack_from(">i", self.body)
        at, found = 4, []
        for _ in range(count):
            (size,) = struct.unpack_from(">i", self.body, at)
            found.append(self.body[at + 4 : at + 4 + size])
            at += 4 + size
        return found

    def event(self) -> tuple[int, bytes]:
        assert self.xid == -1
        kind, state, size = struct.unpack_from(">iii", self.body)
        assert state == 3
        assert len(self.body) == 12 + size
        return kind, self.body[12:]

    def results(self) -> list[tuple[int, int, bytes]]:
        """(type, err, body) of a multi's results."""
        found, at, body = [], 0, self.body
        while True:
            kind, done, err = struct.unpack_from(">i?i", body, at)
            at += 9
            if done:
                assert (kind, err, at) == (-1, -1, len(body))
                return found
            start = at
            if kind == -1:
                at += 4
            elif kind in (1, 15):
                at += 4 + struct.unpack_from(">i", body, at)[0] + (68 if kind == 15 else 0)
            elif kind == 5:
                at += 68
            elif kind == 4:
                at += 4 + max(0, struct.unpack_from(">i", body, at)[0]) + 68
            elif kind == 8:
                (count,) = struct.unpack_from(">i", body, at)
                at += 4
                for _ in range(count):
                    at += 4 + struct.unpack_from(">i", body, at)[0]
            found.append((kind, err, body[start:at]))


def PlainTree(**options) -> Tree:  # noqa: N802 - stands for a kind of tree
    """The slow twin: every frame goes the obvious way."""
    return Tree(fast=False, **options)


class RecordingSink:
    """The host's side. Connection numbers are given by the test; each has one output."""

    def __init__(self, origin: int = 1, boot: int = 1) -> None:
        self.origin = origin
        self.boot = boot
        self.outs: dict[int, list[bytes]] = {}
        self.conn_of: dict[tuple[int, int], int] = {}
        self.calls: list[tuple] = []

    def output(self, session: int, attach_epoch: int) -> list[bytes] | None:
        self.calls.append(("output", session, attach_epoch))
        conn = self.conn_of.get((session, attach_epoch))
        return None if conn is None else self.outs[conn]

    def watcher(self, conn: int) -> list[bytes] | None:
        return self.outs.get(conn)

    def opened(self, conn: int, session: int, attach_epoch: int, timeout_ms: int) -> None:
        self.calls.append(("opened", conn, session, attach_epoch, timeout_ms))
        if session:
            self.conn_of[session, attach_epoch] = conn
            self.outs.setdefault(conn, [])

    def group_applied(self, origin: int, boot: int, seq: int) -> None:
        self.calls.append(("applied", origin, boot, seq))

    def group_skipped(self, origin: int, boot: int, seq: int) -> None:
        self.calls.append(("skipped", origin, boot, seq))

    def session_opened(self, session: int, timeout_ms: int) -> None:
        self.calls.append(("session_opened", session, timeout_ms))

    def sessions_touched(self, sessions: list[int]) -> None:
        self.calls += [("touched", session) for session in sessions]

    def session_awake(self, session: int) -> None:
        self.calls.append(("awake", session))

    def session_moved(self, session: int, attach_epoch: int) -> None:
        self.calls.append(("moved", session, attach_epoch))

    def session_ended(self, session: int) -> None:
        self.calls.append(("ended", session))

    def take(self, conn: int) -> list[Reply]:
        out = self.outs.get(conn, [])
        taken = [Reply(data) for data in out]
        out.clear()
        return taken

    def named(self, name: str) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == name]


class World:
    """One replica's tree, its clients, and the log that feeds it."""

    def __init__(self, tree: Tree | None = None, *, origin: int = 1, boot: int = 1) -> None:
        self.tree = Tree() if tree is None else tree
        self.sink = RecordingSink(origin, boot)
        self.seq = self.tree.origins.get(origin, (0, 0))[1]
        self.cell_time_ms = self.tree.cell_time_ms
        self.wall_ms = 1_700_000_000_000
        self.log: list[bytes] = []

    def batch(self, *commands: bytes) -> bytes:
        self.cell_time_ms += 1
        self.wall_ms += 1
        return encode_batch(
            feature_level=FEATURE_LEVEL,
            cell_time_ms=self.cell_time_ms,
            wall_ms=self.wall_ms,
            commands=commands,
        )

    def apply(self, batch: bytes) -> None:
        self.log.append(batch)
        self.tree.apply(self.tree.slot + 1, batch, self.sink)

    def command(self, *commands: bytes) -> None:
        self.apply(self.batch(*commands))

    def group(self, *items: bytes) -> bytes:
        self.seq += 1
        return encode_group(self.sink.origin, self.sink.boot, self.seq, items)

    def items(self, *items: bytes) -> None:
        self.command(self.group(*items))

    def connect(self, conn: int, timeout_ms: int = 10_000) -> int:
        """A new session on connection `conn`; its id."""
        self.items(encode_create_session(conn, timeout_ms, PASSWORD))
        return self.sink.named("opened")[-1][1]

    def attach(self, conn: int, session: int, password: bytes = PASSWORD) -> int:
        """Move a session to connection `conn`; its attach epoch, 0 when refused."""
        self.items(encode_attach(conn, session, password, 10_000))
        return self.sink.named("opened")[-1][2]

    def auth(self, session: int, scheme: bytes, identity: bytes, xid: int = -4) -> None:
        epoch = self.tree.sessions[session].attach_epoch
        self.items(encode_auth(session, epoch, xid, scheme, identity))

    def open_ballot(self, ballot: Ballot) -> None:
        self.command(encode_opening(ballot))

    def slice(self, session: int, *frames: bytes) -> bytes:
        epoch = self.tree.sessions[session].attach_epoch
        return encode_slice(session, epoch, len(frames), b"".join(frames))

    def write(self, session: int, *frames: bytes) -> list[Reply]:
        """Send writes on the session's connection; everything that its connection got."""
        epoch = self.tree.sessions[session].attach_epoch
        self.items(self.slice(session, *frames))
        return self.sink.take(self.sink.conn_of[session, epoch])

    def one(self, session: int, request: bytes) -> Reply:
        """The reply to one write; events and replies to auth are left out."""
        replies = [reply for reply in self.write(session, request) if reply.xid not in (-1, -4)]
        assert len(replies) == 1
        return replies[0]

    def read(self, session: int, request: bytes, conn: int | None = None) -> Reply:
        epoch = self.tree.sessions[session].attach_epoch
        conn = self.sink.conn_of[session, epoch] if conn is None else conn
        return Reply(self.tree.read(request, session, conn, self.sink))


def state_of(tree: Tree) -> list[bytes]:
    """Everything that is replicated, in a comparable form: the full-recompute twin of the digest reads it."""
    records = [b"head" + tree._head().encode()]
    records += sorted(b"session" + session.record() for session in tree.sessions.values())
    records += sorted(b"znode" + node.record() for node in tree.nodes.values())
    return records
