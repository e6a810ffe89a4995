"""What a replica finishes by itself when nobody asks anything of it any more."""

from __future__ import annotations

import struct

from replica_alone import new_replica

from synod.base import MILLISECOND, SECOND, Ballot, Configuration, Member
from synod.paxos import Heartbeat
from synod.paxos import encode as encode_paxos
from synod.replica import Hello
from synod.tree import FEATURE_LEVEL, encode_batch, encode_digest_now


class Alone:
    """A replica, of a cell of one unless told, whose disk is always at once durable."""

    def __init__(self, members: int = 1) -> None:
        configuration = Configuration("c" * 32, tuple(Member(i, f"127.0.0.1:{i}") for i in range(1, members + 1)))
        self.now = SECOND
        self.store, self.replica = new_replica(configuration, self.now)

    def drain(self) -> None:
        while True:
            ready = self.replica.ready()
            for write in ready.writes:
                self.store.append(
                    promised=write.promised, chosen_mark=write.chosen_mark, entries=write.entries, peers=write.peers
                )
                self.store.sync()
                self.replica.persisted(write.id, self.now)
            if not ready.more and not ready.writes:
                return

    def advance(self, micros: int) -> None:
        """Only when the replica itself asks to be woken."""
        until = self.now + micros
        while self.replica.next_deadline() <= until:
            self.now = max(self.now + 1, self.replica.next_deadline())
            self.replica.tick(self.now, 0)
            self.drain()
        self.now = until

    def client(self, *bodies: bytes) -> None:
        """One connection with a session that sends all of this and is answered."""
        replica = self.replica
        replica.client_opened(1, self.now)
        replica.client_data(1, struct.pack(">iiqiqi", 44, 0, 0, 30_000, 0, 16) + bytes(16), self.now)
        self.advance(SECOND)
        for xid, body in enumerate(bodies, 1):
            replica.client_data(1, struct.pack(">ii", len(body) + 4, xid) + body, self.now)
            if xid % 100 == 0:
                self.drain()
        self.advance(SECOND)


def create(path: str) -> bytes:
    name = path.encode()
    acl = struct.pack(">ii", 1, 31) + b"\0\0\0\5world\0\0\0\6anyone"
    return struct.pack(">ii", 1, len(name)) + name + struct.pack(">i", 0) + acl + struct.pack(">i", 0)


def test_a_digest_is_finished_without_further_writes() -> None:
    """A large state takes many turns to hash: the last write is not the last turn."""
    alone = Alone()
    alone.advance(3 * SECOND)
    alone.client(*(create(f"/n{number}") for number in range(4_000)))
    replica, tree = alone.replica, alone.replica.tree
    assert tree.znodes > 4_000
    command = encode_batch(
        feature_level=FEATURE_LEVEL, cell_time_ms=tree.cell_time_ms, wall_ms=0, commands=[encode_digest_now()]
    )
    slot = replica.paxos.propose(command, alone.now)
    alone.drain()
    assert tree.slot == slot
    assert tree.digest_pending, "one turn is not enough"
    alone.advance(SECOND)
    assert not tree.digest_pending
    assert tree.digest_slot == slot


def test_a_follower_looks_after_what_waits() -> None:
    """Whoever hears its leader all the time never has to suspect it, and is woken all the same.

    A client that has seen more than this replica is turned away in time, though nothing else ever happens.
    """
    alone = Alone(members=3)
    replica = alone.replica
    replica.peer_connected(Hello(1, 1, bytes(16), bytes(16), 2, 1, 1, 1, 1, Ballot(0, 0), 0), alone.now)
    replica.client_opened(1, alone.now)
    replica.client_data(1, struct.pack(">iiqiqi", 44, 0, 1 << 40, 30_000, 0, 16) + bytes(16), alone.now)
    closed_at = 0
    for beat in range(1, 60):
        replica.step(2, encode_paxos(Heartbeat(Ballot(9, 2), 0, beat, True, False)), alone.now)
        ready = replica.ready()
        if replica.next_deadline() <= alone.now + 50 * MILLISECOND:
            replica.tick(max(alone.now, replica.next_deadline()), 0)
            ready.client_closes += replica.ready().client_closes
        if ready.client_closes:
            closed_at = alone.now
            break
        alone.now += 50 * MILLISECOND
    assert SECOND < closed_at < 4 * SECOND


def test_without_a_leader_a_ping_wakes_nobody_again_and_again() -> None:
    """What waits for a leader waits for a message: a clock that is always due would burn the processor."""
    alone = Alone(members=3)
    alone.advance(3 * SECOND)
    replica = alone.replica
    replica.front.touched[7] = None  # as the ping of a session leaves it behind
    woken = 0
    until = alone.now + 2 * SECOND
    while replica.next_deadline() <= until:
        alone.now = max(alone.now + 1, replica.next_deadline())
        replica.tick(alone.now, 0)
        alone.drain()
        woken += 1
    assert woken < 100


def test_a_replica_that_cannot_read_a_change_of_the_members_stops_and_says_why() -> None:
    """A later version wrote it: nothing is applied from there on, and no leader of the old members goes on."""
    alone = Alone()
    alone.advance(SECOND)
    before = alone.replica.tree.slot
    alone.replica.paxos.propose(b"\xfe\x63", alone.now)
    alone.drain()
    assert alone.replica.stopped is not None
    assert f"slot {before + 1} of the log" in alone.replica.stopped
    assert alone.replica.tree.slot == before
