"""A lean closed-loop load generator: one thread, raw sockets, frames that were built before.

Each connection keeps so many requests on their way ("in the pipe"); an answer is followed by the next request at
once. What the generator itself costs is measured and reported: on a small machine it competes with the servers.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

RECEIVE_BYTES = 65_536
"""Python makes a buffer of this size for every answer: one of 128 KiB or more is mapped and unmapped by the C library
each time, which costs 13 microseconds."""
CONNECT_S = 30.0
DRAIN_S = 5.0
NUDGE_S = 0.5

Cost = Callable[[], float]
"""The CPU seconds that the servers have taken until now."""


class Client(Protocol):
    """One connection of a protocol."""

    sock: socket.socket

    def next(self) -> bytes:
        """The bytes of the next request; the client notes that it is on its way."""
        ...

    def take(self, data: bytes, now: float, latencies: array[float]) -> int:
        """Parse what arrived; appends the latency of each answer, in seconds, and returns their number.

        Raises:
            RuntimeError: an answer is an error, or out of order.
        """
        ...

    def waiting(self) -> bool:
        """Whether a request is still without an answer."""
        ...

    def nudge(self) -> None:
        """Nothing was answered for `NUDGE_S`: wake a server that forgot this client."""
        ...

    def close(self) -> None:
        """Take leave of the server, and close the connection."""
        ...


@dataclass(frozen=True)
class Measured:
    """What one run of a row gave.

    Args:
        rate: operations a second.
        p50_us: median latency, microseconds.
        p99_us: of a hundred answers one is slower.
        max_us: the slowest.
        generator: share of one core that the generator took.
        cost_us: CPU time of all servers for one operation.
        others: cores that everything else on the machine took meanwhile.
    """

    rate: float
    p50_us: float
    p99_us: float
    max_us: float
    generator: float
    cost_us: float
    others: float


@dataclass(frozen=True)
class Paced:
    """What a load at a fixed rate gave.

    Args:
        rate: acknowledgements a second.
        gaps: (seconds since the beginning, width in seconds) of the wide gaps between acknowledgements.
        widest_s: the widest gap of all.
        p99_s: of a hundred answers one took longer.
        max_s: the largest latency.
        own_pause_s: the longest time for which the generator itself did not look; gaps below it may be its own.
    """

    rate: float
    gaps: tuple[tuple[float, float], ...]
    widest_s: float
    p99_s: float
    max_s: float
    own_pause_s: float


def connect(port: int) -> socket.socket:
    """A blocking loopback connection without Nagle's delay."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A time-out of Python's own asks poll before each call; the kernel's costs nothing.
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(CONNECT_S), 0))
    return sock


class Load:
    """Clients under a closed loop; a context manager.

    Args:
        clients: connected ones.
        pipe: requests on their way on each.
    """

    def __init__(self, clients: Sequence[Client], pipe: int) -> None:
        self._clients = clients
        self._pipe = pipe
        self._by_fd = {client.sock.fileno(): client for client in clients}
        self._poll = select.epoll()

    def __enter__(self) -> Self:
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)
        for client in self._clients:
            client.sock.sendall(b"".join(client.next() for _ in range(self._pipe)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.drain()
        self._poll.close()

    def run(self, seconds: float) -> array[float]:
        """Load for a while; the latencies."""
        latencies: array[float] = array("d")
        clock: Callable[[], float] = time.perf_counter
        by_fd = self._by_fd
        until = clock() + seconds
        now = clock()
        while now < until:
            ready = self._poll.poll(min(NUDGE_S, until - now))
            if not ready and now < until - NUDGE_S:
                for client in self._clients[:3]:
                    client.nudge()
            for fd, _ in ready:
                client = by_fd[fd]
                data = client.sock.recv(RECEIVE_BYTES)
                if not data:
                    raise RuntimeError("the server closed a connection")
                done = client.take(data, clock(), latencies)
                if done == 1:
                    client.sock.sendall(client.next())
                elif done:
                    client.sock.sendall(b"".join([client.next() for _ in range(done)]))
            now = clock()
        return latencies

    def drain(self) -> None:
        """Take the answers that are still to come: what is left behind would burden who is measured next."""
        ignored: array[float] = array("d")
        until = time.perf_counter() + DRAIN_S
        while any(client.waiting() for client in self._clients) and time.perf_counter() < until:
            for fd, _ in self._poll.poll(0.1):
                client = self._by_fd[fd]
                data = client.sock.recv(RECEIVE_BYTES)
                if not data:
                    return
                client.take(data, 0.0, ignored)


@dataclass(frozen=True)
class Run:
    """What happened while some clients were under load.

    Args:
        latencies: of each answer, seconds.
        took_s: of measured time.
        generator_s: CPU that this process took.
        servers_s: CPU that all servers took.
        machine_s: CPU that everything took.
    """

    latencies: array[float]
    took_s: float
    generator_s: float
    servers_s: float
    machine_s: float

    def __add__(self, other: Run) -> Run:
        return Run(
            self.latencies + other.latencies,
            self.took_s + other.took_s,
            self.generator_s + other.generator_s,
            self.servers_s + other.servers_s,
            self.machine_s + other.machine_s,
        )

    def measured(self) -> Measured:
        """The figures.

        Raises:
            RuntimeError: there was no answer.
        """
        if not self.latencies:
            raise RuntimeError("no answer came within the measured time")
        ordered = sorted(self.latencies)
        return Measured(
            rate=len(ordered) / self.took_s,
            p50_us=1e6 * ordered[len(ordered) // 2],
            p99_us=1e6 * ordered[len(ordered) * 99 // 100],
            max_us=1e6 * ordered[-1],
            generator=self.generator_s / self.took_s,
            cost_us=1e6 * self.servers_s / len(ordered),
            others=max(0.0, self.machine_s - self.generator_s - self.servers_s) / self.took_s,
        )


def drive(clients: Sequence[Client], pipe: int, warm_s: float, measure_s: float, *, cost: Cost) -> Run:
    """Load the clients for `warm_s`, then measure for `measure_s`."""
    with Load(clients, pipe) as load:
        load.run(warm_s)
        own, theirs, all_ = _cpu(), cost(), busy_s()
        began = time.perf_counter()
        latencies = load.run(measure_s)
        took = time.perf_counter() - began
        return Run(latencies, took, _cpu() - own, cost() - theirs, busy_s() - all_)


def pace(
    clients: Sequence[Client],
    rate: float,
    seconds: float,
    *,
    wide_s: float = 0.02,
    done: threading.Event | None = None,
) -> Paced:
    """Send at a fixed rate, whether or not anything is answered, and look for gaps between the answers.

    Args:
        clients: they send in turn.
        rate: requests a second.
        seconds: so long.
        wide_s: gaps of at least so many seconds are listed.
        done: or until this is set.
    """
    poll = select.epoll()
    by_fd = {client.sock.fileno(): client for client in clients}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    latencies: array[float] = array("d")
    gaps: list[tuple[float, float]] = []
    widest = own_pause = 0.0
    began = answered = looked = time.perf_counter()
    sent = turn = 0
    try:
        while (now := time.perf_counter()) < began + seconds and not (done is not None and done.is_set()):
            own_pause = max(own_pause, now - looked)
            due = int((now - began) * rate) - sent
            sent += due
            while due > 0:
                share = min(due, 1 + due // len(clients))
                client = clients[turn % len(clients)]
                client.sock.sendall(b"".join([client.next() for _ in range(share)]))
                turn += 1
                due -= share
            ready = poll.poll(0.001)
            looked = time.perf_counter()
            for fd, _ in ready:
                client = by_fd[fd]
                data = client.sock.recv(RECEIVE_BYTES)
                if not data:
                    raise RuntimeError("the server closed a connection")
                now = time.perf_counter()
                if client.take(data, now, latencies):
                    if now - answered > wide_s:
                        gaps.append((answered - began, now - answered))
                    widest = max(widest, now - answered)
                    answered = now
    finally:
        poll.close()
    seconds = now - began
    return Paced(
        rate=len(latencies) / seconds,
        gaps=tuple(gaps),
        widest_s=max(widest, began + seconds - answered),
        p99_s=sorted(latencies)[len(latencies) * 99 // 100] if latencies else seconds,
        max_s=max(latencies, default=seconds),
        own_pause_s=own_pause,
    )


def busy_s() -> float:
    """CPU seconds that the whole machine has spent on programs so far."""
    user, nice, system, _idle, _wait, irq, soft, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
