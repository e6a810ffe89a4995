"""When a leader waits a moment with the next slot, so that slots are full and a slower follower keeps up."""

from __future__ import annotations

from replica_alone import new_replica

from synod.base import SECOND, Ballot, Configuration, Member, Micros
from synod.paxos import Accept, Accepted, Heartbeat, PaxosMessage, Prepare, Promise, TakeOver, decode
from synod.paxos import encode as encode_paxos
from synod.replica import Forward, Hello, encode_message
from synod.replica._messages import KIND_FIRST
from synod.replica._replica import GATHER_MAX
from synod.tree import encode_group, encode_slice

CELL = Configuration("c" * 32, tuple(Member(i, f"127.0.0.1:{i}") for i in (1, 2, 3)))


class Leader:
    """Replica 1, which leads; its disk is always at once durable, and what replica 2 and 3 do is told."""

    def __init__(self) -> None:
        self.now: Micros = SECOND
        self.store, self.replica = new_replica(CELL, self.now)
        self.accepts: list[Accept] = []
        self.prepared: list[Ballot] = []
        self.forwarded = 0
        for peer in (2, 3):
            hello = Hello(
                1, 1, bytes.fromhex(CELL.cell_id), CELL.digest(), peer, 1, 1, 1, 1, Ballot(1, 2), CELL.begins_at
            )
            self.replica.peer_connected(self.replica.check_hello(encode_message(hello)), self.now)
        for peer in (3, 2):  # whatever they say, they welcome it
            self.take(peer, Heartbeat(Ballot(1, peer), 0, 1, quorum_connected=True, read_only=False))
        self.take(2, TakeOver(self.replica.paxos.ballot))
        self.take(2, Promise(self.prepared[-1], 1, 0, 0, (), ()))
        for peer in (2, 3):  # the opening batch
            self.answer(peer)
        assert self.replica.paxos.serving
        self.accepts.clear()

    def take(self, peer: int, message: PaxosMessage) -> None:
        self.replica.step(peer, encode_paxos(message), self.now)
        self.drain()

    def answer(self, peer: int, slot: int | None = None) -> None:
        """A voter has accepted what it was sent last, or that slot."""
        last = self.accepts[-1]
        self.take(peer, Accepted(last.ballot, last.slot if slot is None else slot, 0, last.seq))

    def forward(self, items: int, size: int = 0) -> None:
        """Replica 2 forwards so many items of its clients, each of so many bytes."""
        self.forwarded += 1
        group = encode_group(2, 1, self.forwarded, [encode_slice(7, 1, 0, bytes(size))] * items)
        self.replica.step(2, encode_message(Forward((group,))), self.now)
        self.drain()

    def wait(self, micros: Micros) -> None:
        self.now += micros
        if self.replica.next_deadline() <= self.now:
            self.replica.tick(self.now, 0)
        self.drain()

    def drain(self) -> None:
        while True:
            ready = self.replica.ready()
            for peer, data, _ in ready.messages:
                message = None if data[0] >= KIND_FIRST else decode(data)
                if isinstance(message, Accept) and peer == 2:
                    self.accepts.append(message)
                elif isinstance(message, Prepare):
                    self.prepared.append(message.ballot)
            for write in ready.writes:
                self.replica.persisted(write.id, self.now)
            if not ready.more and not ready.writes:
                return


def test_fewer_requests_than_before_wait_for_the_voter_that_has_not_answered() -> None:
    """The others of the steady load are on their way: at that voter perhaps."""
    leader = Leader()
    leader.forward(2)
    leader.answer(2)
    leader.forward(1)
    assert len(leader.accepts) == 1
    leader.answer(3, leader.accepts[0].slot)
    assert len(leader.accepts) == 2


def test_as_many_requests_as_before_wait_for_nobody() -> None:
    """So a lone client never does."""
    leader = Leader()
    leader.forward(2)
    leader.answer(2)
    leader.forward(1)
    leader.forward(1)
    assert len(leader.accepts) == 2
    leader.answer(2)
    leader.forward(2)
    assert len(leader.accepts) == 3


def test_nobody_waits_long() -> None:
    """The replica asks to be woken when the wait is over, and proposes then."""
    leader = Leader()
    leader.forward(2)
    leader.answer(2)
    leader.forward(1)
    assert leader.replica.next_deadline() == leader.now + GATHER_MAX
    leader.wait(GATHER_MAX - 1)
    assert len(leader.accepts) == 1
    leader.wait(1)
    assert len(leader.accepts) == 2


def test_nobody_waits_for_a_voter_that_is_slow_or_gone() -> None:
    """It has not answered for the slot before either."""
    leader = Leader()
    leader.forward(3)
    leader.answer(2)
    leader.forward(3)
    leader.answer(2)
    leader.forward(1)
    assert len(leader.accepts) == 3


def test_while_waiting_pays_all_who_were_under_way_are_waited_for() -> None:
    """Those of the last slot, who are answered now, and those who waited meanwhile; or until the time is up."""
    leader = Leader()
    leader.replica._gathering.active = True
    leader.forward(2)
    leader.forward(1)
    leader.now += 500
    leader.answer(2)
    leader.answer(3)
    assert len(leader.accepts) == 1
    assert leader.replica.next_deadline() == leader.now + 1_500
    leader.forward(1)
    assert len(leader.accepts) == 1
    leader.forward(1)
    assert len(leader.accepts) == 2
    leader.now += 500
    leader.answer(2)
    leader.answer(3)
    leader.forward(1)
    leader.wait(1_499)
    assert len(leader.accepts) == 2
    leader.wait(1)
    assert len(leader.accepts) == 3


def test_a_full_batch_waits_for_nobody() -> None:
    """What is left over counts as waiting, and could never be met."""
    leader = Leader()
    leader.replica._gathering.active = True
    leader.forward(1)
    for _ in range(3):
        leader.forward(1, size=600_000)
    leader.now += 500
    leader.answer(2)
    assert len(leader.accepts) == 2
