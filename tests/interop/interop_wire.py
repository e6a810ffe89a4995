"""A client of the ZooKeeper protocol with nothing between a test and the bytes; written for tests, from the protocol.

It shares no code with `synod.wire`: a mistake that the server and its codec make together would not be seen else.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from _peers import four_letter_word, nudge

CREATE, DELETE, EXISTS, GET, SET, GET_ACL, SET_ACL, CHILDREN, SYNC = range(1, 10)
PING, CHILDREN2, CHECK, MULTI, CREATE2, RECONFIG, CHECK_WATCHES, REMOVE_WATCHES, CREATE_CONTAINER = range(11, 20)
DELETE_CONTAINER, CREATE_TTL, MULTI_READ = range(20, 23)
AUTH, SET_WATCHES, SASL, EPHEMERALS, COUNT, SET_WATCHES2, ADD_WATCH, WHO_AM_I = range(100, 108)
CLOSE = -11

OPEN = ((31, "world", "anyone"),)
STAT = struct.Struct(">qqqqiiiqiiq")
STAT_FIELDS = (
    "czxid",
    "mzxid",
    "ctime",
    "mtime",
    "version",
    "cversion",
    "aversion",
    "ephemeral_owner",
    "data_length",
    "children",
    "pzxid",
)


def text(value: str | bytes | None) -> bytes:
    if value is None:
        return struct.pack(">i", -1)
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">i", len(data)) + data


def texts(values: Sequence[str]) -> bytes:
    return struct.pack(">i", len(values)) + b"".join(map(text, values))


def acl(entries: Sequence[tuple[int, str, str]]) -> bytes:
    return struct.pack(">i", len(entries)) + b"".join(
        struct.pack(">i", permissions) + text(scheme) + text(identity) for permissions, scheme, identity in entries
    )


def create(path: str, value: bytes | None = b"", flags: int = 0, entries=OPEN) -> bytes:
    return text(path) + text(value) + acl(entries) + struct.pack(">i", flags)


def create_ttl(path: str, value: bytes, flags: int, ttl_ms: int) -> bytes:
    return create(path, value, flags) + struct.pack(">q", ttl_ms)


def versioned(path: str, version: int = -1) -> bytes:
    return text(path) + struct.pack(">i", version)


def set_data(path: str, value: bytes | None, version: int = -1) -> bytes:
    return text(path) + text(value) + struct.pack(">i", version)


def set_acl(path: str, entries, version: int = -1) -> bytes:
    return text(path) + acl(entries) + struct.pack(">i", version)


def read(path: str, watch: bool = False) -> bytes:
    return text(path) + bytes([watch])


def multi(*operations: tuple[int, bytes]) -> bytes:
    parts = [struct.pack(">i?i", op, False, -1) + body for op, body in operations]
    return b"".join(parts) + struct.pack(">i?i", -1, True, -1)


def auth(scheme: str, credential: str) -> bytes:
    return struct.pack(">i", 0) + text(scheme) + text(credential)


def set_watches(since: int, data=(), exist=(), child=()) -> bytes:
    return struct.pack(">q", since) + texts(data) + texts(exist) + texts(child)


Event = tuple[int, int, bytes | None]
"""Of a watch: its type, the state of the connection, the path."""


@dataclass
class Reply:
    """One frame from the server, cut into header and body."""

    xid: int
    zxid: int
    err: int
    body: bytes


@dataclass
class Reader:
    """Takes values off the front of a body."""

    data: bytes
    at: int = 0

    def int(self) -> int:
        self.at += 4
        return int(struct.unpack_from(">i", self.data, self.at - 4)[0])

    def long(self) -> int:
        self.at += 8
        return int(struct.unpack_from(">q", self.data, self.at - 8)[0])

    def bool(self) -> bool:
        self.at += 1
        return self.data[self.at - 1] != 0

    def text(self) -> bytes | None:
        size = self.int()
        if size < 0:
            return None
        self.at += size
        return self.data[self.at - size : self.at]

    def texts(self) -> list[bytes | None]:
        return [self.text() for _ in range(self.int())]

    def stat(self) -> dict[str, int]:
        self.at += STAT.size
        return dict(zip(STAT_FIELDS, STAT.unpack_from(self.data, self.at - STAT.size), strict=True))

    def acl(self) -> list[tuple[int, bytes | None, bytes | None]]:
        return [(self.int(), self.text(), self.text()) for _ in range(self.int())]

    @property
    def rest(self) -> bytes:
        return self.data[self.at :]


class Closed(Exception):
    """The server closed the connection."""


SILENT_S = 8.0
"""Who is silent for so long has forgotten us, hangs, or runs on a busy machine."""

PATIENCE_S = 30.0
"""Longest wait for anything."""


def is_synod(port: int) -> bool:
    return "synod" in four_letter_word(port, b"srvr", SILENT_S)


def wait_until(fact: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)  # between two looks at another process


class Wire:
    """One connection and its session.

    Args:
        port: of a server on 127.0.0.1.
        timeout_ms: asked for; `timeout_ms` of the object is what was granted.
        session: to be resumed, with its `password`.
        seen: the last zxid that this client has seen.
    """

    def __init__(
        self,
        port: int,
        *,
        timeout_ms: int = 10_000,
        session: int = 0,
        password: bytes = bytes(16),
        seen: int = 0,
        read_only: bool | None = False,
    ) -> None:
        self._port = port
        self.patience_s = PATIENCE_S
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = struct.pack(">iqiq", 0, seen, timeout_ms, session) + text(password)
        if read_only is not None:
            request += bytes([read_only])
        self.xid = 0
        self.events: list[Event] = []
        try:
            self.send_raw(request)
            answer = Reader(self.receive_raw())
        except BaseException:
            self.socket.close()
            raise
        self.protocol = answer.int()
        self.timeout_ms = answer.int()
        self.session = answer.long()
        self.password = answer.text()
        self.greeting_rest = answer.rest

    def send_raw(self, body: bytes) -> None:
        self.socket.sendall(struct.pack(">i", len(body)) + body)

    def _exactly(self, size: int) -> bytes:
        data = b""
        until = time.monotonic() + self.patience_s
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except TimeoutError:
                if time.monotonic() > until:
                    raise
                with contextlib.suppress(OSError):
                    if not is_synod(self._port):
                        nudge(self._port)
                continue
            except ConnectionError as gone:
                raise Closed from gone
            if not more:
                raise Closed
            data += more
        return data

    def receive_raw(self) -> bytes:
        return self._exactly(struct.unpack(">i", self._exactly(4))[0])

    def send(self, op: int, body: bytes = b"", xid: int | None = None) -> int:
        """Send a request without waiting; returns its xid."""
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.send_raw(struct.pack(">ii", xid, op) + body)
        return xid

    def receive_any(self) -> Reply | Event:
        """The next frame, whatever it is."""
        data = self.receive_raw()
        xid, zxid, err = struct.unpack_from(">iqi", data)
        if xid != -1:
            return Reply(xid, zxid, err, data[16:])
        event = Reader(data, 16)
        return event.int(), event.int(), event.text()

    def receive(self) -> Reply:
        """The next reply; events that come before it are kept in `events`."""
        while not isinstance(frame := self.receive_any(), Reply):
            self.events.append(frame)
        return frame

    def wait_event(self) -> Event:
        """The next event, of those kept or to come; no reply may come before it."""
        if not self.events:
            frame = self.receive_any()
            assert not isinstance(frame, Reply), frame
            self.events.append(frame)
        return self.events.pop(0)

    def ask(self, op: int, body: bytes = b"", xid: int | None = None) -> Reply:
        """One request and its reply."""
        sent = self.send(op, body, xid)
        reply = self.receive()
        assert reply.xid == sent, f"the reply to {sent} is overtaken by that to {reply.xid}"
        return reply

    def ping(self) -> Reply:
        return self.ask(PING, b"", -2)

    def take_events(self) -> list[Event]:
        taken, self.events = self.events, []
        return taken

    def wait_closed(self) -> None:
        """Read on until the server closes; fails if it does not."""
        with contextlib.suppress(Closed):
            while True:
                self.receive_raw()

    def drop(self) -> None:
        """Close the connection and leave the session to itself."""
        self.socket.close()
