"""Cell time never runs ahead of the time that has passed, whoever proposed what: docs/decisions/silence-is-logged.md."""

from __future__ import annotations

import struct

from replica_alone import new_replica

from synod.base import MILLISECOND, SECOND, Ballot, Configuration, Entry, Member, Micros, Slot
from synod.paxos import Accept, Accepted, Heartbeat, PaxosMessage, Prepare, Promise, TakeOver, decode
from synod.paxos import encode as encode_paxos
from synod.replica import Hello, encode_message
from synod.replica._messages import KIND_FIRST
from synod.tree import FEATURE_LEVEL, encode_batch

CELL = Configuration("c" * 32, tuple(Member(i, f"127.0.0.1:{i}") for i in (1, 2, 3)))
FIRST = CELL.begins_at + 1
STEP = 400 * MILLISECOND
"""Of each step of the story: all of it is shorter than an outage."""


def batch(cell_ms: int) -> bytes:
    return encode_batch(feature_level=FEATURE_LEVEL, cell_time_ms=cell_ms, wall_ms=0, commands=[])


class Heir:
    """Replica 1: it follows, is cut off, and is elected. Its disk is always at once durable."""

    def __init__(self) -> None:
        self.now: Micros = SECOND
        self.store, self.replica = new_replica(CELL, self.now)
        self.proposed: dict[Slot, Accept] = {}
        self.prepared: list[Ballot] = []
        for peer in (2, 3):
            hello = Hello(
                1, 1, bytes.fromhex(CELL.cell_id), CELL.digest(), peer, 1, 1, 1, 1, Ballot(1, 2), CELL.begins_at
            )
            self.replica.peer_connected(self.replica.check_hello(encode_message(hello)), self.now)
        for peer in (3, 2):  # whatever they say, they welcome it
            self.take(peer, Heartbeat(Ballot(1, peer), 0, 1, quorum_connected=True, read_only=False))

    def accept(self, slot: Slot, mark: Slot, value: bytes) -> None:
        """Replica 2, which leads, proposes this."""
        self.take(2, Accept(Ballot(2, 2), slot, mark, 1, value))

    def elect(self, held: Entry) -> Micros:
        """It begins to lead, with the promise of a replica that holds this; returns the cell time that it begins with."""
        self.take(2, TakeOver(self.replica.paxos.ballot))
        self.take(3, Promise(self.prepared[-1], 1, 0, 0, (held,), ()))
        while not self.replica.paxos.serving:
            for accept in tuple(self.proposed.values()):
                self.take(3, Accepted(accept.ballot, accept.slot, 0, accept.seq))
        return self.replica._clock.read(self.now)

    def take(self, peer: int, message: PaxosMessage) -> None:
        self.replica.step(peer, encode_paxos(message), self.now)
        while True:
            ready = self.replica.ready()
            for _, data, _ in ready.messages:
                sent = None if data[0] >= KIND_FIRST else decode(data)
                if isinstance(sent, Accept):
                    self.proposed[sent.slot] = sent
                elif isinstance(sent, Prepare):
                    self.prepared.append(sent.ballot)
            for write in ready.writes:
                self.replica.persisted(write.id, self.now)
            if not ready.more and not ready.writes:
                return


def heir() -> Heir:
    """It has accepted two batches, and nothing was heard of them for a while."""
    heir = Heir()
    heir.accept(FIRST, CELL.begins_at, batch(5_000))
    heir.accept(FIRST + 1, CELL.begins_at, batch(5_001))
    heir.now += STEP
    return heir


def test_a_batch_that_it_accepted_is_as_old_as_its_acceptance() -> None:
    """It was proposed before: what has passed since is part of a silence."""
    it = heir()
    began = it.elect(Entry(FIRST + 1, Ballot(2, 2), batch(5_001)))
    assert began == 5_001 * MILLISECOND + STEP


def test_another_batch_in_the_slot_of_one_that_it_accepted_is_not_as_old() -> None:
    """A leader that came later proposed it, in a slot whose first batch nobody else held durably: nobody here knows when."""
    it = heir()
    began = it.elect(Entry(FIRST + 1, Ballot(2, 3), batch(5_300)))
    assert it.replica.tree.cell_time_ms == 5_300
    assert began == 5_300 * MILLISECOND


def test_a_wall_clock_that_jumps_moves_no_cell_time() -> None:
    """Sessions are measured by cell time, so that a day more or less on the wall ends none of them."""
    began = now = SECOND
    _, replica = new_replica(Configuration(CELL.cell_id, CELL.members[:1]), now)
    for conn, wall_ms in enumerate((0, 86_400_000, 3_600_000), 1):
        replica.client_opened(conn, now)
        replica.client_data(conn, struct.pack(">iiqiqi", 44, 0, 0, 30_000, 0, 16) + bytes(16), now)
        for _ in range(40):
            now += 50 * MILLISECOND
            replica.tick(now, wall_ms)
            while (ready := replica.ready()).more or ready.writes:
                for write in ready.writes:
                    replica.persisted(write.id, now)
        assert len(replica.tree.sessions) == conn, "each session is a write, and all of them live"
        assert replica.tree.cell_time_ms * MILLISECOND <= now - began
