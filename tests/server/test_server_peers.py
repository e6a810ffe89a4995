"""The connections between replicas: how a peer is called."""

from __future__ import annotations

import asyncio
import struct

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
