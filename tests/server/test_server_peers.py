"""The connections between replicas: how a peer is called."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import subprocess
import sys

import pytest

from synod.server import _peers

pytestmark = pytest.mark.requires("pure")  # compiled connections want a real host

PATIENCE_S = 30.0


async def test_a_call_that_nobody_answers_is_given_up_and_made_anew(monkeypatch) -> None:
    """Packets of a network that is cut get no answer at all: what TCP waits for then, nobody shall wait for."""
    thrice = asyncio.Event()
    calls = 0

    async def unanswered(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            thrice.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", unanswered)
    monkeypatch.setattr(_peers, "DIAL_S", 0.01)
    calling = asyncio.create_task(_peers.dial(None, 1, "127.0.0.1:1", bulk=False))
    await asyncio.wait_for(thrice.wait(), PATIENCE_S)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()


async def test_who_answers_a_call_and_does_not_say_who_he_is_is_called_anew(monkeypatch) -> None:
    """So does a process that stands still: its kernel takes the call. And a caller that says nothing is hung up on."""
    thrice = asyncio.Event()
    taken: list[asyncio.StreamWriter] = []

    class Replica:
        hello = staticmethod(lambda: b"hello")

    class Host:
        replica = Replica

        def peer_lost(self, connection: _peers.PeerConnection) -> None:
            assert connection.peer is None

    def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        if len(taken) == 3:
            thrice.set()

    monkeypatch.setattr(_peers, "HELLO_S", 0.05)
    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(take, "127.0.0.1", 0) as deaf:
        port = deaf.sockets[0].getsockname()[1]
        calling = asyncio.create_task(_peers.dial(Host(), 1, f"127.0.0.1:{port}", bulk=False))
        await asyncio.wait_for(thrice.wait(), PATIENCE_S)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        for writer in taken:
            writer.close()
    async with await loop.create_server(lambda: _peers.PeerConnection(Host()), "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()


# -- a peer that dies while the network is cut ---------------------------------------------------------------

DYING = """
import socket, struct, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    caller, _ = server.accept()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is one packet
    caller.recv(100)
    caller.sendall(struct.pack(">I", 6) + b"Mhello")
    sys.stdin.read()
"""

LISTENING = """
import asyncio, signal, sys
from synod.server._peers import PeerConnection
signal.alarm(90)

class Replica:
    id = 1
    hello = staticmethod(lambda: b"hello")
    check_hello = classmethod(lambda cls, data, main: cls)

class Host:
    replica = told = Replica
    peer_met = staticmethod(lambda connection: print("met", flush=True))
    peer_lost = staticmethod(lambda connection: print("lost", flush=True))

async def main():
    connection = PeerConnection(Host, dialled=1)
    await asyncio.get_running_loop().create_connection(lambda: connection, sys.argv[1], int(sys.argv[2]))
    await connection.closed

asyncio.run(main())
"""

CUT = """
import subprocess, sys
from synod.torment._spaces import Spaces
spaces = Spaces()
host = spaces.lay((1, 2))[1].peer.partition(":")[0]
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
dying = subprocess.Popen([sys.executable, "-c", sys.argv[1], host], preexec_fn=spaces.enter(1), **pipes)
port = dying.stdout.readline().strip()
listening = subprocess.Popen([sys.executable, "-c", sys.argv[2], host, port], preexec_fn=spaces.enter(2), **pipes)
try:
    print(listening.stdout.readline(), end="")
    spaces.cut({(1, 2), (2, 1)}, drop=True)
    dying.kill()
    dying.wait()
    spaces.heal()
    print(listening.stdout.readline(), end="")
finally:
    for process in (dying, listening):
        process.kill()
        process.wait()
"""


@pytest.mark.requires("namespaces")
def test_a_peer_that_died_while_the_network_was_cut_is_missed_by_who_only_listens() -> None:
    """Its last packet was lost: a replica that joins had nothing to send, heard nothing, and waited for ever."""
    done = subprocess.run(
        [sys.executable, "-c", CUT, DYING, LISTENING], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("met\nlost\n", 0), done.stderr


async def test_a_connection_that_is_gone_already_takes_nothing_else_with_it() -> None:
    """On uvloop a write can meet a closed handle before anybody was told: chunks for the disk wait behind it."""

    class Gone:
        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            raise RuntimeError("unable to perform operation; the handler is closed")

    connection = _peers.PeerConnection(None)
    connection.transport = Gone()
    connection.send(b"message")
    connection.flush()


@pytest.mark.parametrize("dialled", [None, 1], ids=["called", "dialled"])
@pytest.mark.parametrize("kind", [_peers.MAIN, _peers.BULK], ids=["main", "bulk"])
async def test_a_disk_is_not_judged_by_the_hello_of_the_bulk_connection(kind: bytes, dialled: int | None) -> None:
    """That one may come late: whoever stops because of it has forgotten nothing, and starts no more."""
    judged: list[tuple[bytes, bool]] = []

    class Replica:
        id = 1

        def hello(self) -> bytes:
            return b"hello"

        def check_hello(self, data: bytes, main: bool) -> Replica:
            judged.append((data, main))
            return self

    class Host:
        replica = told = Replica()

        def peer_met(self, connection: _peers.PeerConnection) -> None:
            assert connection.bulk == (kind == _peers.BULK)

    connection = _peers.PeerConnection(Host(), dialled=dialled, bulk=dialled is not None and kind == _peers.BULK)
    connection.data_received(struct.pack(">I", 6) + kind + b"hello")
    assert judged == [(b"hello", kind == _peers.MAIN)]


async def test_consensus_on_the_bulk_connection_is_refused() -> None:
    """A vote from a peer whose main connection never stood was a bug to whoever got it: it stopped."""
    refused: list[str] = []

    class Host:
        def peer_message(self, peer: int, message: bytes) -> None:
            assert message == b"\x45chunk", "only this may come through"

        def peer_refused(self, connection: _peers.PeerConnection, reason: str) -> None:
            refused.append(reason)

    connection = _peers.PeerConnection(Host(), dialled=1, bulk=True)
    connection.peer = 1
    connection.data_received(struct.pack(">I", 6) + b"\x45chunk")
    assert not refused
    connection.data_received(struct.pack(">I", 5) + b"\x04vote")
    assert refused == ["a message of consensus, kind 4, came on the bulk connection"]
