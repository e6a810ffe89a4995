"""The wires of the cell: a TCP proxy before every replica, in a thread of its own, that can cut, hold and delay.

A wire leads from one replica to another, or from the clients (`CLIENTS`) to a replica and back. Who calls is read
from the hello, the first message of either kind of peer connection, since all callers dial the same address. A wire
that is cut holds what comes, as a network that loses packets does for a while; when it is whole again the bytes go
on, or the connections that crossed it are reset, as after a time-out of TCP. A wire that loses some holds now and
then what comes, and all behind it, for as long as TCP takes to send it again.

Read `Wires`, then `_Pair`: two connections that make one. No root needed.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

from synod.base import RemoteProtocolError
from synod.replica import Hello, decode_message

from ._network import CLIENTS, Link, Place
from ._processes import NotStarted

PORTS: Final = (20_000, 30_000)
"""Below the range from which the kernel draws the local ends of connections: a replica that comes back must find its
port free."""

RESENT_S: Final = (0.2, 0.4)
"""So long does Linux wait before it sends again what was lost, at the least; twice as long the second time."""

HELD_BYTES_MAX: Final = 256 << 10
"""What a cut wire takes before the sender's own buffers fill, as the kernel's would."""

HELLO_BYTES_MAX: Final = 1024
_LENGTH: Final = struct.Struct(">I")


class Wires:
    """The proxy, a `Network`; every method may be called from another thread than its own.

    Args:
        seed: of the jitter of delays, and of losses.
    """

    missing: Mapping[str, str] = {}

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.pairs: set[_Pair] = set()
        self.cuts: Counter[Link] = Counter()
        self.delays: dict[Link, tuple[float, float]] = {}
        self.losses: dict[Link, float] = {}
        self.held = 0
        self._listening: list[tuple[socket.socket, int, int, bool]] = []
        self._reserved: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def lay(self, ids: Sequence[int]) -> dict[int, Place]:
        """See `Network`: three ports for each replica, and two before it."""
        places = {}
        self._reserved = reserved(3 * len(ids))
        ports = iter(sock.getsockname()[1] for sock in self._reserved)
        for i in ids:
            client, peer, http = next(ports), next(ports), next(ports)
            fronts = []
            for port, peers in ((client, False), (peer, True)):
                sock = socket.create_server(("127.0.0.1", 0))
                self._listening.append((sock, i, port, peers))
                fronts.append(sock.getsockname()[1])
            places[i] = Place(*(f"127.0.0.1:{port}" for port in (client, peer, http, *fronts)))
        return places

    def enter(self, i: int) -> None:  # noqa: ARG002 -- all are in the same place
        """See `Network`: nothing."""
        return

    def start(self) -> None:
        """Begin to listen."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="wires", daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        from synod.server import event_loop

        with asyncio.Runner(loop_factory=event_loop()) as runner:
            runner.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        servers = [
            await self._loop.create_server(self._front(to, port, peers=peers), sock=sock)
            for sock, to, port, peers in self._listening
        ]
        ready.set()
        await self._end.wait()
        for server in servers:
            server.close()
        for pair in tuple(self.pairs):
            pair.abort()

    def _front(self, to: int, port: int, *, peers: bool) -> Callable[[], _End]:
        return lambda: _Pair(self, to, port, peers=peers).ends[0]

    def stop(self) -> None:
        """End the thread and every connection."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
            self._thread = None
        for sock in (*self._reserved, *(sock for sock, *_ in self._listening)):
            sock.close()

    def _do(self, work: Callable[[], None]) -> None:
        """Have it done by the thread of the wires; what is sent after this has returned meets what was done."""
        assert self._loop is not None
        done = threading.Event()

        def run() -> None:
            work()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    def cut(self, links: Iterable[Link], *, drop: bool) -> None:
        """Let nothing through these; `drop` resets the connections that cross them as well."""
        wanted = frozenset(links)

        def work() -> None:
            self.cuts.update(wanted)
            if drop:
                self._reset(wanted)

        self._do(work)

    def mend(self, links: Iterable[Link], *, drop: bool) -> None:
        """Undo one `cut` of these; what was held goes on, or is lost together with its connection."""
        wanted = frozenset(links)

        def work() -> None:
            self.cuts.subtract(wanted)
            if drop:
                self._reset(wanted)
            for pair in tuple(self.pairs):
                pair.flow()

        self._do(work)

    def delay(self, links: Iterable[Link], seconds: float, jitter: float) -> None:
        """Let everything on these arrive later; 0 ends it."""
        wanted = frozenset(links)

        def work() -> None:
            for link in wanted:
                if seconds:
                    self.delays[link] = (seconds, jitter)
                else:
                    self.delays.pop(link, None)

        self._do(work)

    def lose(self, links: Iterable[Link], share: float) -> None:
        """See `Network`."""
        wanted = frozenset(links)

        def work() -> None:
            for link in wanted:
                if share:
                    self.losses[link] = share
                else:
                    self.losses.pop(link, None)

        self._do(work)

    def evidence(self) -> int:
        """Pieces that came to a wire that was cut, or lost for a while."""
        return self.held

    def heal(self) -> None:
        """See `Network`."""

        def work() -> None:
            self.cuts.clear()
            self.delays.clear()
            self.losses.clear()
            for pair in tuple(self.pairs):
                pair.flow()

        self._do(work)

    def _reset(self, links: frozenset[Link]) -> None:
        for pair in tuple(self.pairs):
            if pair.link(0) in links or pair.link(1) in links:
                pair.abort()


class _Pair:
    """A connection from a caller, and the one to the replica called.

    Args:
        wires: whose.
        to: the replica called.
        port: its own.
        peers: whether replicas call here, who say who they are, or clients, who do not.
    """

    def __init__(self, wires: Wires, to: int, port: int, *, peers: bool) -> None:
        self.wires = wires
        self.to = to
        self.caller: int | None = None if peers else CLIENTS
        self._port = port
        self._greeting = bytearray()
        self.ends = (_End(self, 0), _End(self, 1))
        self.ways = (_Way(self, 0), _Way(self, 1))
        self._dialling: asyncio.Task[None] | None = None
        self._over = False

    def link(self, way: int) -> Link | None:
        """The wire that a way takes: 0 is to the replica called, 1 from it."""
        if self.caller is None:
            return None
        return (self.caller, self.to) if way == 0 else (self.to, self.caller)

    def begun(self) -> None:
        self.wires.pairs.add(self)
        if self.caller is not None:
            self._dial()

    def _dial(self) -> None:
        self._dialling = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.ends[1], "127.0.0.1", self._port)
        except OSError:
            self.abort()
            return
        if self._over:
            self.abort()
        self.flow()

    def received(self, side: int, data: bytes) -> None:
        way = self.ways[side]
        if self.caller is not None:
            way.take(data)
            return
        self._greeting += data
        caller = self._who()
        if caller is not None:
            self.caller = caller
            way.take(bytes(self._greeting))
            self._dial()

    def _who(self) -> int | None:
        if len(self._greeting) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._greeting)
        if length > HELLO_BYTES_MAX:
            self.abort()
            return None
        if len(self._greeting) < _LENGTH.size + length:
            return None
        try:
            hello = decode_message(bytes(self._greeting[_LENGTH.size + 1 : _LENGTH.size + length]))
        except RemoteProtocolError:
            hello = None
        if not isinstance(hello, Hello):
            self.abort()
            return None
        return hello.id

    def flow(self) -> None:
        """Pass on what may go now."""
        for way in self.ways:
            way.flow()

    def abort(self) -> None:
        self._over = True
        self.wires.pairs.discard(self)
        if self._dialling is not None:
            self._dialling.cancel()
        for end in self.ends:
            if end.transport is not None:
                end.transport.abort()


class _End(asyncio.Protocol):
    def __init__(self, pair: _Pair, side: int) -> None:
        self._pair = pair
        self._side = side
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._side == 0:
            self._pair.begun()

    def data_received(self, data: bytes) -> None:
        self._pair.received(self._side, data)

    def eof_received(self) -> bool:
        """The other end is told once it has all that came before."""
        self._pair.ways[self._side].end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        # A reset does not cross a wire that is cut: the other end finds out by itself, or when it is whole again.
        self._pair.ways[self._side].end(reset=exc is not None)

    def pause_writing(self) -> None:
        self._pair.ways[1 - self._side].slow(True)

    def resume_writing(self) -> None:
        self._pair.ways[1 - self._side].slow(False)


class _Way:
    """One direction of a pair: bytes in order, each with the time before which it does not arrive."""

    def __init__(self, pair: _Pair, source: int) -> None:
        self._pair = pair
        self._source = source
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._slow = False
        self._ended = False
        self._reading = True

    def take(self, data: bytes) -> None:
        link = self._pair.link(self._source)
        assert link is not None
        wires = self._pair.wires
        due = 0.0
        if link in wires.delays:
            seconds, jitter = wires.delays[link]
            due = asyncio.get_running_loop().time() + seconds + wires.rng.random() * jitter
        share = wires.losses.get(link, 0.0)
        if share and wires.rng.random() < share:
            wires.held += 1
            wait = wires.rng.uniform(*RESENT_S)
            while wires.rng.random() < share:
                wait *= 2
            due = asyncio.get_running_loop().time() + wait
        if wires.cuts[link] > 0:
            wires.held += 1
        if self._waiting:
            due = max(due, self._waiting[-1][0])
        self._waiting.append((due, data))
        self._bytes += len(data)
        self.flow()

    def end(self, *, reset: bool = False) -> None:
        self._ended = True
        if reset:
            # What waits was lost with the connection.
            self._waiting.clear()
            self._bytes = 0
        self.flow()

    def slow(self, slow: bool) -> None:
        self._slow = slow
        self.flow()

    def flow(self) -> None:
        link = self._pair.link(self._source)
        target = self._pair.ends[1 - self._source].transport
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        cut = link is not None and self._pair.wires.cuts[link] > 0
        if target is not None and target.is_closing():
            self._waiting.clear()
            self._bytes = 0
        elif not cut and not self._slow and target is not None:
            now = asyncio.get_running_loop().time()
            while self._waiting and self._waiting[0][0] <= now:
                data = self._waiting.popleft()[1]
                self._bytes -= len(data)
                target.write(data)
            if self._waiting:
                self._timer = asyncio.get_running_loop().call_at(self._waiting[0][0], self.flow)
        self._pace()
        if self._ended and not self._waiting and not cut and not self._slow:
            if target is None:
                self._pair.abort()
            else:
                self._close(target)

    def _close(self, target: asyncio.Transport) -> None:
        target.close()
        source = self._pair.ends[self._source].transport
        if source is not None:
            source.close()
        self._pair.wires.pairs.discard(self._pair)

    def _pace(self) -> None:
        """Stop reading what could not be passed on."""
        source = self._pair.ends[self._source].transport
        if source is None or source.is_closing():
            return
        reading = self._bytes <= HELD_BYTES_MAX
        if reading != self._reading:
            self._reading = reading
            if reading:
                source.resume_reading()
            else:
                source.pause_reading()


def reserved(count: int) -> list[socket.socket]:
    """Sockets on so many free ports of 127.0.0.1, none of which listens.

    Nobody else is given these ports while a replica is down. The replica itself, which reuses addresses, is: two
    sockets may have one port as long as one of them does not listen.

    Raises:
        NotStarted: there are none.
    """
    found: list[socket.socket] = []
    first = random.Random(time.time_ns() ^ os.getpid()).randrange(*PORTS)
    for port in range(first, first + 2_000):
        sock = socket.socket()
        try:
            with socket.socket() as probe:  # this one is told of others that reserve, too
                probe.bind(("127.0.0.1", port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.close()
            continue
        found.append(sock)
        if len(found) == count:
            return found
    raise NotStarted(f"there are no {count} free ports on 127.0.0.1 from {first}")
