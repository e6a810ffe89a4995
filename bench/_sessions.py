"""Thousands of sessions of the ZooKeeper protocol that cost their own generator next to nothing."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from ._load import RECEIVE_BYTES, connect
from ._zookeeper import CLOSE, PING, greeting

AT_ONCE: Final = 90
"""ZooKeeper's listen backlog is 50 for each server; what overflows it waits a second."""
PING_FRAME: Final = struct.pack(">iii", 8, -2, PING)
CLOSE_FRAME: Final = struct.pack(">iii", 8, 1, CLOSE)
TICK_S: Final = 0.005


class Sessions:
    """Many sessions; a context manager that closes them.

    Args:
        ports: the sessions take them in turn.
        count: how many.
        timeout_ms: what they ask for.
    """

    def __init__(self, ports: Sequence[int], count: int, timeout_ms: int) -> None:
        self.sockets: list[socket.socket] = []
        self.timeout_ms = timeout_ms
        self._pinged = 0
        self._poll = select.epoll()
        for first in range(0, count, AT_ONCE):
            fresh = [connect(ports[index % len(ports)]) for index in range(first, min(first + AT_ONCE, count))]
            self.sockets += fresh
            for sock in fresh:
                sock.sendall(greeting(timeout_ms))
            for sock in fresh:
                answer = sock.recv(64)
                if len(answer) < 40:
                    raise RuntimeError("the server gave no session")
                self.timeout_ms = struct.unpack_from(">i", answer, 8)[0]
        for sock in self.sockets:
            self._poll.register(sock.fileno(), select.EPOLLIN)
        self._by_fd = {sock.fileno(): sock for sock in self.sockets}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for first in range(0, len(self.sockets), AT_ONCE):
            some = self.sockets[first : first + AT_ONCE]
            for sock in some:
                sock.sendall(CLOSE_FRAME)
            for sock in some:
                sock.settimeout(5.0)
                while sock.recv(RECEIVE_BYTES):
                    pass
        for sock in self.sockets:
            sock.close()
        self._poll.close()

    def idle(self, seconds: float) -> None:
        """Only ping, as clients do: three times in a session timeout, each at its own moment."""
        interval_s = self.timeout_ms / 3_000
        count = len(self.sockets)
        began = time.perf_counter()
        before = self._pinged
        while (elapsed := time.perf_counter() - began) < seconds:
            due = before + int(elapsed / interval_s * count)
            while self._pinged < due:
                self.sockets[self._pinged % count].sendall(PING_FRAME)
                self._pinged += 1
            self._take()
            time.sleep(TICK_S)  # the pace of the pings: this loop must cost little beside what it measures

    def ping(self) -> None:
        """One ping from each."""
        for sock in self.sockets:
            sock.sendall(PING_FRAME)
        self._take()

    def _take(self) -> None:
        for fd, _ in self._poll.poll(0):
            if not self._by_fd[fd].recv(RECEIVE_BYTES):
                raise RuntimeError("the server closed an idle session")
