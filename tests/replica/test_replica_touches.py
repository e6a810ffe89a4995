"""How an origin goes on with touches that the leader refuses: docs/decisions/silence-is-logged.md."""

from __future__ import annotations

from itertools import pairwise

from replica_alone import new_replica

from synod.base import MILLISECOND, SECOND, Ballot, Configuration, Member, Micros, ReplicaId
from synod.paxos import Heartbeat
from synod.paxos import encode as encode_paxos
from synod.replica import Hello, ReplicaOptions, Touch, TouchAck, decode_message, encode_message
from synod.replica._messages import KIND_FIRST
from synod.tree._session import Session

CELL = Configuration("c" * 32, tuple(Member(i, f"127.0.0.1:{i}") for i in (1, 2, 3)))
OPTIONS = ReplicaOptions()
SESSION = 7


class Origin:
    """Replica 1, at which a client of one session is connected; whoever leads refuses its touches."""

    def __init__(self) -> None:
        self.now: Micros = SECOND
        self.store, self.replica = new_replica(CELL, self.now, OPTIONS)
        self.replica.tree.sessions[SESSION] = Session(SESSION, 30_000, bytes(16), 0, 0)
        self.leader: ReplicaId = 2
        self.touches: list[tuple[Micros, Touch]] = []
        for peer in (2, 3):
            hello = Hello(
                1, 1, bytes.fromhex(CELL.cell_id), CELL.digest(), peer, 1, 1, 1, 1, Ballot(1, 2), CELL.begins_at
            )
            self.replica.peer_connected(self.replica.check_hello(encode_message(hello)), self.now)
        self.replica.front.touched[SESSION] = None

    def advance(self, micros: Micros) -> int:
        """Go on, with a leader that is heard; returns how many touches it was sent."""
        before, until = len(self.touches), self.now + micros
        while self.now < until:
            ballot = Ballot(self.leader, self.leader)
            self.replica.step(
                self.leader,
                encode_paxos(Heartbeat(ballot, 0, 1, quorum_connected=True, read_only=False)),
                self.now,
            )
            self.drain()
            self.now = min(until, max(self.now + 1, self.replica.next_deadline()), self.now + 50 * MILLISECOND)
            self.replica.tick(self.now, 0)
            self.drain()
        return len(self.touches) - before

    def drain(self) -> None:
        while True:
            ready = self.replica.ready()
            for peer, data, _ in ready.messages:
                message = decode_message(data) if data[0] >= KIND_FIRST else None
                if isinstance(message, Touch):
                    assert message.sessions == (SESSION,)
                    self.touches.append((self.now, message))
                    self.replica.step(peer, encode_message(TouchAck(message.round, message.sessions)), self.now)
            for write in ready.writes:
                self.replica.persisted(write.id, self.now)
            if not ready.more and not ready.writes:
                return


def refused() -> Origin:
    """One whose touch has been refused for long."""
    origin = Origin()
    assert origin.advance(5 * SECOND) < 20
    return origin


def test_a_refused_touch_is_repeated_more_and_more_seldom_and_never_given_up() -> None:
    """While nothing can be chosen, ten thousand of them would else be repeated forty times a second."""
    origin = refused()
    times = [at for at, _ in origin.touches]
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[0] <= 2 * OPTIONS.touch_interval
    assert gaps == sorted(gaps)
    assert max(gaps) == OPTIONS.paxos.election_timeout


def test_a_refused_touch_is_repeated_at_once_when_its_session_is_marked_silent_no_more() -> None:
    """Its client waits for the answer to its ping."""
    origin = refused()
    origin.replica.front.session_awake(SESSION)
    assert origin.advance(OPTIONS.touch_interval) == 1


def test_a_refused_touch_is_repeated_at_once_to_another_leader() -> None:
    """The new one has heard of nobody yet, and begins to listen."""
    origin = refused()
    origin.leader = 3
    assert origin.advance(4 * OPTIONS.touch_interval) >= 2
