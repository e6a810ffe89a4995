"""What a leader knows of its peers: how far behind each is, and how long it has not answered."""

from __future__ import annotations

from paxos_cell import Cell

from synod.base import SECOND
from synod.paxos import PaxosOptions


def test_a_peer_that_hangs_is_silent_for_as_long_as_it_hangs() -> None:
    """Its connection stands and it lags no slot, as none is chosen: only its silence tells."""
    heartbeat = PaxosOptions().heartbeat
    cell = Cell()
    leader = cell.elect(1)
    cell.advance(SECOND)
    for peer in (2, 3):
        assert leader.silence(peer) in range(heartbeat + 1)
    cell.silence(3)
    cell.advance(8 * SECOND)
    silent = leader.silence(3)
    assert silent is not None
    assert abs(silent - 8 * SECOND) <= heartbeat
    assert leader.silence(2) in range(heartbeat + 1)
    assert leader.lag(3) == 0
    cell.wake(3)
    cell.advance(heartbeat)
    assert leader.role == "leader"
    assert leader.silence(3) in range(heartbeat + 1)


def test_only_a_leader_knows_silence_and_only_of_who_is_connected() -> None:
    """A follower hears its leader and nobody else; of who is away nothing can be heard."""
    cell = Cell()
    leader = cell.elect(1)
    cell.advance(SECOND)
    assert [cell.up[2].silence(peer) for peer in (1, 3)] == [None, None]
    cell.disconnect(1, 3)
    assert leader.silence(3) is None
    cell.connect(1, 3)
    assert leader.silence(3) == cell.options.election_timeout + 1, "it has yet to answer"
    cell.settle()
    assert leader.silence(3) == 0
