"""A thousand watchers of one znode: how long until the last of them has its event.

Every watcher is a client with a connection of its own, on every system, spread over all servers: so it is in
production, and so the servers have as many sockets to write. On etcd each has a watch stream on its connection.
The writer is one more client; it takes the servers in turn.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Final, Self

from ._etcd import DATA, PUT, EtcdClient, field, frames, put
from ._load import RECEIVE_BYTES, connect
from ._sessions import Sessions
from ._zookeeper import GET, SET, ZooKeeperClient, create, text
from .peers import Etcd, Peer

WATCH: Final = "/etcdserverpb.Watch/Watch"
PATH: Final = "/bench-watched"
EVENT_XID: Final = b"\xff\xff\xff\xff"
TIMEOUT_S: Final = 30.0
WATCHERS_TIMEOUT_MS: Final = 60_000  # no watcher pings: a round is over sooner


@dataclass(frozen=True)
class FanOut:
    """Medians of some rounds.

    Args:
        sent_s: from sending the write until the last watcher has its event.
        acknowledged_s: from the write's acknowledgement; below zero when the last event came first.
    """

    sent_s: float
    acknowledged_s: float


class Watchers(ABC):
    """Watchers of one system and its writers.

    Args:
        sockets: of the watchers.
    """

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self.sockets = sockets

    @abstractmethod
    def arm(self) -> None:
        """Every watcher watches when this returns."""

    @abstractmethod
    def write(self) -> socket.socket:
        """Send the write that fires; the socket that will get its acknowledgement."""

    def is_event(self, data: bytes) -> bool:
        """Whether the event is in what a watcher received."""
        return data[4:8] == EVENT_XID

    def is_answer(self, data: bytes) -> bool:
        """Whether the acknowledgement is in what the writer received."""
        return bool(data)

    @abstractmethod
    def close(self) -> None:
        """Let all go."""


class ZooKeeperWatchers(Watchers):
    """Sessions that read with a watch, again before each round, as watches of this protocol fire once."""

    def __init__(self, ports: Sequence[int], count: int) -> None:
        self._writers = [ZooKeeperClient(port, index, b"x", "write") for index, port in enumerate(ports)]
        self._turns = itertools.cycle(self._writers)
        self._writers[0].ask(create(PATH, b"x"), allowed=(-110,))
        self._sessions = Sessions(ports, count, WATCHERS_TIMEOUT_MS)
        super().__init__(self._sessions.sockets)
        body = struct.pack(">ii", 1, GET) + text(PATH) + b"\1"
        self._arm = struct.pack(">i", len(body)) + body
        body = struct.pack(">ii", 1, SET) + text(PATH) + text(b"x" * 100) + struct.pack(">i", -1)
        self._write = struct.pack(">i", len(body)) + body

    def arm(self) -> None:
        """See `Watchers`."""
        for sock in self.sockets:
            sock.sendall(self._arm)
        for sock in self.sockets:
            _demand(sock.recv(RECEIVE_BYTES))

    def write(self) -> socket.socket:
        """See `Watchers`."""
        writer = next(self._turns).sock
        writer.sendall(self._write)
        return writer

    def close(self) -> None:
        """See `Watchers`."""
        self._sessions.__exit__(None, None, None)
        for writer in self._writers:
            writer.close()


class EtcdWatchers(Watchers):
    """Connections with one watch stream each, which stays."""

    def __init__(self, ports: Sequence[int], count: int) -> None:
        self._writers = [EtcdClient(port, index, b"x", "write") for index, port in enumerate(ports)]
        self._turns = itertools.cycle(self._writers)
        self._key = PATH.encode()
        self._writers[0].ask(PUT, put(self._key, b"x"))
        self._watchers = [EtcdClient(ports[index % len(ports)], index, b"x", "write") for index in range(count)]
        super().__init__([watcher.sock for watcher in self._watchers])
        for watcher in self._watchers:
            watcher.sock.sendall(watcher.request(WATCH, field(1, field(1, self._key)), stays_open=True))
        for sock in self.sockets:
            while not self.is_event(_demand(sock.recv(RECEIVE_BYTES))):  # that it is watching
                pass

    def arm(self) -> None:
        """Nothing to do: a watch of etcd stays."""

    def write(self) -> socket.socket:
        """See `Watchers`."""
        writer = next(self._turns)
        writer.sock.sendall(writer.request(PUT, put(self._key, b"x" * 100)))
        return writer.sock

    def is_event(self, data: bytes) -> bool:
        """See `Watchers`."""
        return _has_message(data)

    def is_answer(self, data: bytes) -> bool:
        """See `Watchers`."""
        return _has_message(data)

    def close(self) -> None:
        """See `Watchers`."""
        for client in (*self._watchers, *self._writers):
            client.sock.close()


class BareWatchers(Watchers):
    """The server of `_bare`."""

    def __init__(self, count: int) -> None:
        command = [sys.executable, "-m", "bench._bare"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        super().__init__([connect(port) for _ in range(count)])
        self._writer = connect(port)

    def arm(self) -> None:
        """Nothing to do: every event goes to every socket."""

    def write(self) -> socket.socket:
        """See `Watchers`."""
        self._writer.sendall(b"w")
        return self._writer

    def close(self) -> None:
        """See `Watchers`."""
        for sock in (*self.sockets, self._writer):
            sock.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Rounds:
    """Rounds of one system's watchers; a context manager."""

    def __init__(self, watchers: Watchers) -> None:
        self._watchers = watchers
        self._poll = select.epoll()
        self._by_fd = {sock.fileno(): sock for sock in watchers.sockets}
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poll.close()
        self._watchers.close()

    def one(self) -> tuple[float, float]:
        """Seconds until the last event, from sending the write and from its acknowledgement."""
        watchers, poll = self._watchers, self._poll
        watchers.arm()
        missing = len(self._by_fd)
        acknowledged = last = 0.0
        began = time.perf_counter()
        writer = watchers.write()
        poll.register(writer.fileno(), select.EPOLLIN)
        try:
            while missing or not acknowledged:
                ready = poll.poll(TIMEOUT_S, 2_000)
                if not ready:
                    raise RuntimeError(f"{missing} watchers have no event after {TIMEOUT_S:g} s")
                for fd, _ in ready:
                    if fd == writer.fileno():
                        if watchers.is_answer(_demand(writer.recv(RECEIVE_BYTES))):
                            acknowledged = acknowledged or time.perf_counter()
                    elif watchers.is_event(_demand(self._by_fd[fd].recv(RECEIVE_BYTES))):
                        missing -= 1
                        last = time.perf_counter()
        finally:
            poll.unregister(writer.fileno())
        return last - began, last - acknowledged


def rounds(system: Peer | None, watchers: int) -> Rounds:
    """Of a running system, or without one of bare sockets."""
    if system is None:
        return Rounds(BareWatchers(watchers))
    if isinstance(system, Etcd):
        return Rounds(EtcdWatchers(system.ports, watchers))
    return Rounds(ZooKeeperWatchers(system.ports, watchers))


def medians(found: Sequence[tuple[float, float]]) -> FanOut:
    """Of some rounds."""
    return FanOut(median(sent for sent, _ in found), median(acknowledged for _, acknowledged in found))


def _has_message(data: bytes) -> bool:
    return any(kind == DATA and payload for kind, _, payload in frames(data))


def _demand(data: bytes) -> bytes:
    if not data:
        raise RuntimeError("the server closed a watcher's connection")
    return data
