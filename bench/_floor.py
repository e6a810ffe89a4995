"""The least that a replicated write, and a read, can cost in Python on this machine: what no core of ours could save.

Three processes with a leader that never changes. A write is answered when two of them have it on their disks, in
batches as they come; a read is answered at once, with bytes that are always the same. There are no ballots, no state,
no sessions, no checksums and nothing to recover: only what any such service has to ask of the kernel.

Each runs as `python -m bench._floor INDEX CLIENT_PORT LEADER_PORT FILE`.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import threading
from collections import deque
from pathlib import Path
from queue import SimpleQueue
from typing import Final, cast

import uvloop

from ._zookeeper import GET, HEAD
from .peers import Peer, free_ports

CONNECT: Final = struct.pack(">iiiqi", 36, 0, 30_000, 1, 16) + bytes(16)
DATA: Final = struct.pack(">i", 100) + bytes(100 + 68)
STAT: Final = bytes(68)
REPLICAS: Final = 3
FILE_BYTES: Final = 64 << 20
BLOCK: Final = 4096
LENGTH: Final = struct.Struct(">ci")
REQUEST: Final = struct.Struct(">iii")

Owed = list[tuple["Client", int]]
"""Clients, and the number of the request that each waits for."""


class Server:
    """One of the three: what waits, what is under way, and who is owed an answer."""

    def __init__(self, index: int, file: Path) -> None:
        self.leads = index == 0
        self.peers: list[asyncio.Transport] = []
        self._loop = asyncio.get_running_loop()
        self._due = False
        self._frames: list[bytes] = []
        self._owed: Owed = []
        self._waiting: deque[Owed] = deque()
        self._forwarded: list[bytes] = []
        self._batch = b""
        self._number = 0
        self._synced = 2  # as if there had been a batch before the first
        self._answers: dict[Client, list[bytes]] = {}
        self._jobs: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT)
        os.write(self._fd, bytes(FILE_BYTES))
        os.fsync(self._fd)
        threading.Thread(target=self._disk, daemon=True).start()

    def request(self, client: Client, frame: bytes, xid: int, operation: int) -> None:
        """A request of a client of this server."""
        if operation == GET:
            self.answer(client, xid, DATA)
        else:
            self._frames.append(frame)
            self._owed.append((client, xid))
        self.poke()

    def answer(self, client: Client, xid: int, body: bytes) -> None:
        """Have it leave at the end of this turn, with all others of this client."""
        self._answers.setdefault(client, []).append(HEAD.pack(16 + len(body), xid, 1, 0) + body)

    def poke(self) -> None:
        """Something happened."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        if self._frames:
            mine, self._frames = b"".join(self._frames), []
            self._waiting.append(self._owed)
            self._owed = []
            if self.leads:
                self._forwarded.append(LENGTH.pack(b"0", len(mine)) + mine)
            else:
                self.tell(b"F", mine)
        if self._forwarded and self._synced >= 2:
            self._batch, self._forwarded = b"".join(self._forwarded), []
            self._number += 1
            self._synced = 0
            self.tell(b"A", self._batch)
            self._jobs.put((self._number, self._batch))
        answers, self._answers = self._answers, {}
        for client, parts in answers.items():
            client.transport.write(b"".join(parts))

    def tell(self, kind: bytes, body: bytes) -> None:
        """A message to every server that this one is connected to: the leader's to both, a follower's to the leader."""
        message = LENGTH.pack(kind, len(body)) + body
        for peer in self.peers:
            peer.write(message)

    def told(self, sender: int, kind: bytes, body: bytes) -> None:
        """A message of another server."""
        if kind == b"F":
            self._forwarded.append(LENGTH.pack(b"%d" % sender, len(body)) + body)
        elif kind == b"A":
            self._batch = body
            self._number += 1
            self._jobs.put((self._number, body))
        elif kind == b"K":
            self._is_synced(int(body))
        else:
            self._apply(self._batch, body)
        self.poke()

    def _disk(self) -> None:
        at = 0
        while True:
            number, batch = self._jobs.get()
            padded = batch.ljust(-(-len(batch) // BLOCK) * BLOCK, b"\0")
            at = at if at + len(padded) <= FILE_BYTES else 0
            os.pwrite(self._fd, padded, at)
            os.fdatasync(self._fd)
            at += len(padded)
            self._loop.call_soon_threadsafe(self._written, number)

    def _written(self, number: int) -> None:
        if self.leads:
            self._is_synced(number)
        else:
            self.tell(b"K", b"%d" % number)

    def _is_synced(self, number: int) -> None:
        self._synced += number == self._number
        if self._synced == 2 and number == self._number:
            for index, peer in enumerate(self.peers):
                peer.write(LENGTH.pack(b"C", 1) + b"%d" % (index + 1))
            self._apply(self._batch, b"0")
            self.poke()

    def _apply(self, batch: bytes, me: bytes) -> None:
        at = 0
        while at < len(batch):
            origin, size = LENGTH.unpack_from(batch, at)
            at += LENGTH.size + size
            if origin == me:
                for client, xid in self._waiting.popleft():
                    self.answer(client, xid, STAT)


class Client(asyncio.Protocol):
    """A connection of the generator."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        at = 0
        if not self._greeted:
            self._greeted = True
            self.transport.write(CONNECT)
            return
        while at < len(data):  # a generator on this machine sends whole frames of this size
            length, xid, operation = REQUEST.unpack_from(data, at)
            self._server.request(self, data[at : at + 4 + length], xid, operation)
            at += 4 + length


class Link(asyncio.Protocol):
    """A connection between the leader and a follower."""

    def __init__(self, server: Server, index: int) -> None:
        self._server = server
        self._index = index
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.peers.append(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at = 0
        while len(data) - at >= LENGTH.size:
            kind, size = LENGTH.unpack_from(data, at)
            if len(data) - at < LENGTH.size + size:
                break
            at += LENGTH.size + size
            self._server.told(self._index, kind, data[at - size : at])
        self._buffer = data[at:]


class Floor(Peer):
    """The three, as something that a row can be measured on."""

    name = "floor"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, REPLICAS)

    def begin(self) -> None:
        self.ports = free_ports(4)
        leader = str(self.ports.pop())
        for index, port in enumerate(self.ports):
            file = str(self.directory / f"file-{index}")
            self.processes.add([sys.executable, "-m", "bench._floor", str(index), str(port), leader, file])
            self.processes.start(index)

    def serving(self) -> bool:
        return all((self.directory / f"output-{i}").read_bytes() == b"ready\n" for i in range(len(self.ports)))


async def _main(index: int, client_port: int, leader_port: int, file: Path) -> None:
    loop = asyncio.get_running_loop()
    server = Server(index, file)
    if index == 0:
        followers = iter((1, 2))
        await loop.create_server(lambda: Link(server, next(followers)), "127.0.0.1", leader_port)
    else:
        while len(server.peers) < 1:
            try:
                await loop.create_connection(lambda: Link(server, 0), "127.0.0.1", leader_port)
            except OSError:
                await asyncio.sleep(0.02)
    await loop.create_server(lambda: Client(server), "127.0.0.1", client_port)
    print("ready", flush=True)
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
