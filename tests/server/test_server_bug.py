"""What cannot be happens: a replica that meets a bug of its own stops, and begins again from what is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from _cells import config_document
from synod.base import Ballot, Entry, InvariantViolation, RemoteProtocolError
from synod.server import _run, parse_config, serve
from synod.server._host import Host
from synod.storage import Identity, RealFileSystem, Store, format_directory
from synod.tree import Tree

pytestmark = pytest.mark.requires("pure")  # what is compiled cannot be replaced by what is broken

FIRST = Ballot(1, 1)


@pytest.fixture
async def host(tmp_path) -> AsyncIterator[Host]:
    """The host of a cell of one, without its sockets."""
    config = parse_config(config_document(tmp_path), str(tmp_path / "replica.toml"))
    format_directory(RealFileSystem(), config.data_dir, Identity(1, 1, config.configuration, 1))
    stopped = asyncio.get_running_loop().create_future()
    made = Host(config, on_stop=stopped.set_result)
    made.stopped = stopped
    made.start()
    yield made
    made.close()


def broken(*_: object) -> None:
    raise InvariantViolation("two and two are five")


@pytest.mark.parametrize("where", ["ready", "step", "client_data", "persisted"])
async def test_a_bug_stops_the_replica_at_once(host, monkeypatch, where) -> None:
    """Half a turn may hold chunks of a snapshot, or a message that others wait for: it must not be lost unseen."""
    monkeypatch.setattr(host.replica, where, broken)
    match where:
        case "ready":
            host.poke()
        case "step":
            host.peer_message(2, b"x")
        case "client_data":
            host.client_data(1, b"x")
        case "persisted":
            host._from_disk(host.persisted, 1, 0.001, 1)
    reason = await asyncio.wait_for(host.stopped, 30)
    assert "a bug in synod: InvariantViolation('two and two are five'); nothing durable is lost" in reason


def test_the_process_of_a_replica_does_not_end_like_one_that_was_removed(tmp_path, monkeypatch) -> None:
    """An interpreter that dies of an exception ends with 1; then nobody would start the replica again."""

    def fails(_: object) -> None:
        raise RuntimeError("nobody expects this")

    monkeypatch.setattr(_run, "Server", fails)
    assert serve(parse_config(config_document(tmp_path), str(tmp_path / "replica.toml"))) == 3


async def test_what_a_peer_does_wrong_is_no_bug_of_ours(host) -> None:
    """Its connection ends, and nothing else."""
    with pytest.raises(RemoteProtocolError):
        host.peer_message(2, b"\xff\xff")
    assert not host.stopped.done()


async def test_a_snapshot_that_is_no_state_leaves_the_one_before_it(tmp_path) -> None:
    """Each chunk is sound, but one of them was never written: found at the start, and told; the log has the rest."""
    config = parse_config(config_document(tmp_path), str(tmp_path / "replica.toml"))
    fs = RealFileSystem()
    format_directory(fs, config.data_dir, Identity(1, 1, config.configuration, 1))
    tree = Tree(configuration=config.configuration.encode())
    store = Store.open(fs, config.data_dir, cell_id=config.cell_id, replica_id=1)
    for slot in (1, 2):
        tree.apply(slot, b"", None)
        store.append(promised=FIRST, chosen_mark=slot, entries=(Entry(slot, FIRST, b""),))
        store.sync()
        tree.begin_snapshot()
        chunks = []
        while (chunk := tree.snapshot_step(64)) is not None:
            chunks.append(chunk)
        assert len(chunks) > 2
        store.snapshot_begin(slot)
        for number, chunk in enumerate(chunks):
            if slot == 1 or number != 1:
                store.snapshot_write(chunk)
        store.snapshot_commit()
    store.close()
    host = Host(config, on_stop=print)
    try:
        assert host.replica.tree.slot == 1
        assert host.replica.snapshot_slot == 1
    finally:
        host.close()
