"""A lean closed-loop load generator: one thread, raw sockets, frames that were built before.

Each connection keeps so many requests on their way ("in the pipe"); an answer is followed by the next request at
once. What the generator itself costs is measured and reported: on a small machine it competes with the servers.
"""

from __future__ import annotations

import resource
import select
import socket
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

RECEIVE_BYTES = 262_144
CONNECT_S = 10.0


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


@dataclass(frozen=True)
class Measured:
    """What one run of a row gave.

    Args:
        rate: operations a second.
        p50_us: median latency, microseconds.
        p99_us: of a hundred answers one is slower.
        max_us: the slowest.
        generator: share of one core that the generator took.
    """

    rate: float
    p50_us: float
    p99_us: float
    max_us: float
    generator: float


def connect(port: int) -> socket.socket:
    """A blocking loopback connection without Nagle's delay."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def drive(clients: list[Client], pipe: int, warm_s: float, measure_s: float) -> Measured:
    """Load the clients for `warm_s`, then measure for `measure_s`."""
    poll = select.epoll()
    by_fd = {client.sock.fileno(): client for client in clients}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    for client in clients:
        client.sock.sendall(b"".join(client.next() for _ in range(pipe)))
    try:
        _run(poll, by_fd, warm_s)
        spent = _cpu()
        began = time.perf_counter()
        latencies = _run(poll, by_fd, measure_s)
        took = time.perf_counter() - began
        spent = _cpu() - spent
    finally:
        poll.close()
    if not latencies:
        raise RuntimeError("no answer came within the measured time")
    ordered = sorted(latencies)
    return Measured(
        rate=len(ordered) / took,
        p50_us=1e6 * ordered[len(ordered) // 2],
        p99_us=1e6 * ordered[len(ordered) * 99 // 100],
        max_us=1e6 * ordered[-1],
        generator=spent / took,
    )


def _run(poll: select.epoll, by_fd: dict[int, Client], seconds: float) -> array[float]:
    latencies: array[float] = array("d")
    clock: Callable[[], float] = time.perf_counter
    until = clock() + seconds
    now = clock()
    while now < until:
        for fd, _ in poll.poll(min(1.0, until - now)):
            client = by_fd[fd]
            data = client.sock.recv(RECEIVE_BYTES)
            if not data:
                raise RuntimeError("the server closed a connection")
            done = client.take(data, clock(), latencies)
            if done:
                client.sock.sendall(b"".join([client.next() for _ in range(done)]))
        now = clock()
    return latencies


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
