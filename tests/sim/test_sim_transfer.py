"""A snapshot that travels to a replica that is far behind survives what happens to the connection."""

from __future__ import annotations

import dataclasses

import pytest

from synod.base import MILLISECOND, SECOND, NoSpace, StorageError
from synod.replica import SnapshotAsk, SnapshotChunk, decode_message
from synod.replica._transfer import ROOM_PAUSE
from synod.sim import Plan, World
from synod.sim._machine import DIRECTORY, Machine  # a test of the simulator may open its machines
from synod.sim._network import Network

pytestmark = pytest.mark.slow

PLAN = dataclasses.replace(Plan.calm(replicas=3, clients=3), snapshots=True)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, SnapshotAsk | SnapshotChunk]]:
    """Everything that was said about snapshots: who, to whom, what."""
    said: list[tuple[int, int, SnapshotAsk | SnapshotChunk]] = []
    send = Network.send

    def spied(self: Network, a: int, b: int, message: bytes) -> None:
        if message[0] in (69, 70):
            said.append((a, b, decode_message(message)))
        send(self, a, b, message)

    monkeypatch.setattr(Network, "send", spied)
    return said


def far_behind() -> tuple[World, Machine]:
    """A cell in which one replica was away until nobody's log reaches back to where it stands."""
    world = World(11, PLAN)
    world.begin()
    world.run(world.now + 2 * SECOND)
    away = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role != "leader")
    slot = away.replica.tree.slot
    away.kill(power_cut=False)
    for _ in range(60):
        world.run(world.now + SECOND)
        others = [m for m in world.machines.values() if m is not away]
        if all(m.store.log_start > slot + 1 for m in others):
            return world, away
    raise AssertionError("the logs were never trimmed")


def run_until_some_has_come(world: World, machine: Machine) -> int:
    """Until some of a snapshot has come, and not all of it; how many bytes are there."""
    for _ in range(50_000):
        download = machine.replica._download
        if download is not None and download.received:
            return download.received
        world.run(world.now + MILLISECOND // 10)
    raise AssertionError("no transfer was seen")


def leader(world: World) -> int:
    """Who leads."""
    return next(m.id for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")


def test_a_broken_transfer_goes_on_where_it_was(told) -> None:
    """The connection breaks in the middle: the next ask names the offset, and what had come is not sent again."""
    world, machine = far_behind()
    machine.start()
    come = run_until_some_has_come(world, machine)
    source, slot, total = (
        machine.replica._download.peer,
        machine.replica._download.slot,
        machine.replica._download.total,
    )
    del told[:]
    world.network.disconnect(machine.id, source)
    for _ in range(100):
        world.run(world.now + 100 * MILLISECOND)
        if machine.replica.snapshot_slot >= slot:
            break
    assert machine.replica.snapshot_slot == slot
    asks = [what for a, _, what in told if isinstance(what, SnapshotAsk) and a == machine.id]
    assert asks
    assert all((ask.slot, ask.offset >= come) == (slot, True) for ask in asks), asks
    sent = sum(len(what.data) for _, b, what in told if isinstance(what, SnapshotChunk) and b == machine.id)
    assert sent <= total - come + 2 * machine.replica.options.transfer_chunk_bytes
    world.demand_progress()
    world.judge()


def test_a_source_that_does_not_come_back_is_given_up(told) -> None:
    """After ten seconds another replica is asked, from the beginning: its file is another one."""
    world, machine = far_behind()
    machine.start()
    run_until_some_has_come(world, machine)
    source = world.machines[machine.replica._download.peer]
    source.kill(power_cut=False)
    for _ in range(300):
        world.run(world.now + 100 * MILLISECOND)
        if machine.replica.tree.slot > 0 and machine.replica._download is None:
            break
    assert {b for a, b, what in told if isinstance(what, SnapshotAsk)} == set(world.machines) - {machine.id}
    source.start()
    world.demand_progress()
    world.judge()


def test_a_snapshot_of_ones_own_is_given_up_for_one_from_a_peer() -> None:
    """It would be of a state that is about to go; later ones are taken as before."""
    world, machine = far_behind()
    machine.start()
    run_until_some_has_come(world, machine)
    replica = machine.replica
    replica._begin_walk()
    replica._walk_next = world.now + 20 * SECOND  # as a large one, it is still under way when the peer's has come
    assert replica._walking is not None
    for _ in range(100):
        world.run(world.now + 100 * MILLISECOND)
        if replica._download is None and replica._installing is None:
            break
    taken_over = replica.snapshot_slot
    assert machine.replica is replica, "it lives"
    for _ in range(60):
        world.run(world.now + SECOND)
        if replica.snapshot_slot > taken_over:
            break
    assert replica.snapshot_slot > taken_over, "it takes snapshots again"
    kept = [n for n in machine.fs.list_dir(DIRECTORY) if n.endswith(".snap")]
    assert len(kept) <= 2
    world.demand_progress()
    world.judge()


def test_a_snapshot_without_room_is_fetched_again_after_a_pause_and_from_whom_it_was(told) -> None:
    """At once it would fill the disk again and again; and it is not the peer's fault."""
    world, machine = far_behind()
    machine.start()
    run_until_some_has_come(world, machine)
    replica = machine.replica
    source = replica._download.peer
    partial = f"{DIRECTORY}/snapshot-transfer.tmp"
    healthy = machine.fs.fail

    def full(operation: str, path: str) -> StorageError | None:
        """Room for the log's next segment, and not for as much as a snapshot."""
        return NoSpace(f"{path}: full") if (operation, path) == ("write", partial) else healthy(operation, path)

    machine.fs.fail = full
    for _ in range(1000):
        world.run(world.now + MILLISECOND)
        if replica._download is None:
            break
    assert replica._download is None
    assert not machine.fs.exists(partial), "its room is given back"
    del told[:]
    world.run(world.now + ROOM_PAUSE - SECOND)
    assert machine.replica is replica, "it lives"
    assert [what for a, _, what in told if isinstance(what, SnapshotAsk) and a == machine.id] == []
    assert replica._bad_sources == {}
    machine.fs.fail = healthy
    world.run(world.now + 4 * SECOND)
    assert {b for a, b, what in told if isinstance(what, SnapshotAsk) and a == machine.id} <= {source, leader(world)}
    assert replica.snapshot_slot > 0, "it catches up when there is room"
    world.demand_progress()
    world.judge()


def test_a_late_refusal_of_a_transfer_that_was_given_up_is_not_one_of_the_present_one() -> None:
    """A slow disk may tell of it so late: another peer's snapshot is on its way, and goes on."""
    world, machine = far_behind()
    machine.start()
    run_until_some_has_come(world, machine)
    replica = machine.replica
    download = replica._download
    for slot, upto in ((download.slot - 1, download.received), (download.slot, download.received + 1), (0, 0)):
        for no_room in (False, True):
            replica.snapshot_refused(slot, upto, no_room, machine.now())
            assert replica._download is download
    assert replica._bad_sources == {}
    for _ in range(100):
        world.run(world.now + 100 * MILLISECOND)
        if replica.snapshot_slot >= download.slot:
            break
    assert replica.snapshot_slot == download.slot
    replica.snapshot_refused(download.slot, 0, False, machine.now())
    assert replica._bad_sources == {}, "it has long been installed"
    world.demand_progress()
    world.judge()
