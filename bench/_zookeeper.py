"""The ZooKeeper protocol, just enough of it to load a server: for synod and for ZooKeeper alike."""

from __future__ import annotations

import contextlib
import random
import select
import struct
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from ._load import NUDGE_S, RECEIVE_BYTES, connect

KEYS: Final = 16
SESSION_MS: Final = 30_000
ROOT: Final = "/bench"
CREATE, DELETE, EXISTS, GET, SET, CHILDREN, SYNC, PING, MULTI, CLOSE = 1, 2, 3, 4, 5, 8, 9, 11, 14, -11
NODE_EXISTS: Final = -110
EPHEMERAL_SEQUENTIAL: Final = 3
OPEN_ACL: Final = struct.pack(">ii", 1, 31) + b"\0\0\0\5world\0\0\0\6anyone"
HEAD: Final = struct.Struct(">iiqi")
PREFIX: Final = struct.Struct(">ii")

Script = Iterator[tuple[bytes, bool]]


def text(value: str | bytes) -> bytes:
    """A string or buffer with its length."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">i", len(data)) + data


class ZooKeeperClient:
    """One session on one connection.

    Args:
        port: of the server.
        index: of this client; its nodes are its own.
        value: what it writes.
        mode: a key of `MODES`, or what to do.
    """

    def __init__(self, port: int, index: int, value: bytes, mode: str | Callable[[ZooKeeperClient], Script]) -> None:
        self.sock = connect(port)
        self._poll = select.poll()  # unlike select, it takes descriptors above 1,023
        self._poll.register(self.sock, select.POLLIN)
        self._port = port
        self._index = index
        self._value = value
        self._xid = 0
        self._sent: deque[tuple[int, bool, float]] = deque()  # answers come in the order of the requests
        self._buffer = b""
        self._script = MODES[mode](self) if isinstance(mode, str) else mode(self)
        self.answer = b""
        self._greet()

    def path(self, key: int) -> str:
        """One of this client's nodes."""
        return f"{ROOT}/c{self._index:04d}-{key % KEYS:02d}"

    @property
    def value(self) -> bytes:
        """What is written."""
        return self._value

    # -- the load --------------------------------------------------------------------------------------------

    def next(self) -> bytes:
        """See `Client`. A script yields (bytes of a request, whether its answer ends an operation)."""
        body, ends = next(self._script)
        self._xid = xid = self._xid + 1
        self._sent.append((xid, ends, time.perf_counter()))
        return PREFIX.pack(len(body) + 4, xid) + body

    def take(self, data: bytes, now: float, latencies: array[float]) -> int:
        """See `Client`; steps that do not end an operation are followed at once, without being counted."""
        buffer = self._buffer + data if self._buffer else data
        at, size, done = 0, len(buffer), 0
        sent = self._sent
        while size - at >= 20:
            length, xid, _, error = HEAD.unpack_from(buffer, at)
            if size - at - 4 < length:
                break
            at += 4 + length
            if xid < 0:
                continue
            if error:
                raise RuntimeError(f"the server answered error {error}")
            expected, ends, began = sent.popleft()
            if xid != expected:
                raise RuntimeError(f"the server answered request {xid} before {expected}")
            if ends:
                latencies.append(now - began)
                done += 1
            else:
                self.answer = buffer[at - length + 16 : at]
                self.sock.sendall(self.next())
        self._buffer = buffer[at:] if at < size else b""
        return done

    # -- before it -------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        self.sock.sendall(greeting(SESSION_MS))
        if len(self._frame()) < 36:
            raise RuntimeError("the server gave no session")

    def ask(self, body: bytes, *, allowed: tuple[int, ...] = ()) -> None:
        """One request, before the load."""
        self._xid += 1
        self.sock.sendall(struct.pack(">ii", len(body) + 4, self._xid) + body)
        while True:
            frame = self._frame()
            xid, _, error = struct.unpack_from(">iqi", frame)
            if xid == self._xid:
                break
        if error and error not in allowed:
            raise RuntimeError(f"the server answered error {error}")

    def prepare(self) -> None:
        """Make the nodes that the load needs."""
        self.ask(create(ROOT, b""), allowed=(NODE_EXISTS,))
        for key in range(KEYS):
            self.ask(create(self.path(key), self._value), allowed=(NODE_EXISTS,))

    def _frame(self) -> bytes:
        while len(self._buffer) < 4 or len(self._buffer) < 4 + struct.unpack_from(">i", self._buffer)[0]:
            if not self._poll.poll(1_000 * NUDGE_S):
                self.nudge()
            data = self.sock.recv(RECEIVE_BYTES)
            if not data:
                raise RuntimeError("the server closed the connection")
            self._buffer += data
        end = 4 + struct.unpack_from(">i", self._buffer)[0]
        frame, self._buffer = self._buffer[4:end], self._buffer[end:]
        return frame

    def waiting(self) -> bool:
        """See `Client`."""
        return bool(self._sent)

    def nudge(self) -> None:
        """See `Client`."""
        nudge(self._port)

    def close(self) -> None:
        """See `Client`: a session that is left behind would expire in the middle of another measurement."""
        with contextlib.suppress(OSError, RuntimeError):
            self.sock.settimeout(1.0)
            self.ask(struct.pack(">i", CLOSE))
        self.sock.close()


def greeting(timeout_ms: int) -> bytes:
    """The frame that asks for a session."""
    return struct.pack(">iiqiqi", 44, 0, 0, timeout_ms, 0, 16) + bytes(16)


def nudge(port: int) -> None:
    """ZooKeeper 3.6 to 3.8.0 can forget the request of a lone client until another one's comes.

    Ref: ZOOKEEPER-4537, a wake-up that is lost between two of its threads.

    Raises:
        OSError: nobody answers there.
    """
    with connect(port) as other:
        other.sendall(greeting(SESSION_MS))
        other.recv(64)
        other.sendall(struct.pack(">iii", 8, 1, CLOSE))


def create(path: str, value: bytes, flags: int = 0) -> bytes:
    """The body of a create."""
    return struct.pack(">i", CREATE) + text(path) + text(value) + OPEN_ACL + struct.pack(">i", flags)


def _writes(client: ZooKeeperClient) -> Script:
    bodies = [
        struct.pack(">i", SET) + text(client.path(key)) + text(client.value) + struct.pack(">i", -1)
        for key in range(KEYS)
    ]
    while True:
        for body in bodies:
            yield body, True


def _reads(client: ZooKeeperClient) -> Script:
    bodies = [struct.pack(">i", GET) + text(client.path(key)) + b"\0" for key in range(KEYS)]
    while True:
        for body in bodies:
            yield body, True


def _sync_reads(client: ZooKeeperClient) -> Script:
    """ZooKeeper's way to a read that is not stale: the pair counts as one operation."""
    for body, _ in _reads(client):
        yield struct.pack(">i", SYNC) + text(ROOT), False
        yield body, True


def _mixed(client: ZooKeeperClient) -> Script:
    rng, reads, writes = random.Random(client.path(0)), _reads(client), _writes(client)
    while True:
        yield next(reads) if rng.random() < 0.9 else next(writes)


def _create_delete(client: ZooKeeperClient) -> Script:
    """Each half counts."""
    number = 0
    while True:
        path = f"{client.path(0)}-{number}"
        number += 1
        yield create(path, client.value, 1), True
        yield struct.pack(">i", DELETE) + text(path) + struct.pack(">i", -1), True


def _multi(client: ZooKeeperClient) -> Script:
    """Ten writes in one transaction."""
    writes = b"".join(
        struct.pack(">i?i", SET, False, -1) + text(client.path(key)) + text(client.value) + struct.pack(">i", -1)
        for key in range(10)
    )
    while True:
        yield struct.pack(">i", MULTI) + writes + struct.pack(">i?i", -1, True, -1), True


def _lock(client: ZooKeeperClient) -> Script:
    """A lock that nobody else wants, as the recipe takes it: contend, look, give back. One cycle counts."""
    contend = create(f"{client.path(0)}/lock-", b"", EPHEMERAL_SEQUENTIAL)
    look = struct.pack(">i", CHILDREN) + text(client.path(0)) + b"\0"
    while True:
        yield contend, False
        path = client.answer[4:]
        yield look, False
        yield struct.pack(">i", DELETE) + text(path) + struct.pack(">i", -1), True


MODES: Final[dict[str, Callable[[ZooKeeperClient], Script]]] = {
    "write": _writes,
    "read": _reads,
    "read linearizable": _sync_reads,
    "mixed": _mixed,
    "create delete": _create_delete,
    "multi": _multi,
    "lock": _lock,
}
