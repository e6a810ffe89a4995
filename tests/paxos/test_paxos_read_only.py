"""When a leader calls its cell read-only: a quorum answers, and for a while no quorum has had room to accept."""

from __future__ import annotations

from paxos_cell import Cell

from synod.base import MILLISECOND, SECOND
from synod.paxos import Heartbeat, HeartbeatAck


def test_a_majority_without_room_makes_it_so_after_a_while_and_one_with_room_ends_it() -> None:
    """Everybody hears of it. One more replica with room is a majority."""
    cell = Cell()
    cell.elect(1)
    for i in (2, 3):
        cell.up[i].abstain(True, cell.now)
    cell.advance(cell.options.election_timeout // 2)
    assert not any(paxos.read_only for paxos in cell.up.values())
    cell.advance(cell.options.election_timeout)
    assert all(paxos.read_only for paxos in cell.up.values())
    cell.up[2].abstain(False, cell.now)
    cell.advance(2 * cell.options.heartbeat)
    assert not any(paxos.read_only for paxos in cell.up.values())


def test_a_leader_that_was_held_up_takes_no_quorum_for_full() -> None:
    """Nobody had answered for an election timeout, as it did not listen; the answers that wait say that there is room."""
    cell = Cell()
    leader = cell.elect(1)
    cell.advance(SECOND)
    cell.now += cell.options.heartbeat
    leader.tick(cell.now)
    cell.drain(1)
    while cell.deliver(where=lambda a, b, message: isinstance(message, Heartbeat)):
        pass
    for i in (2, 3):
        cell.drain(i)
    cell.now += cell.options.election_timeout + MILLISECOND
    cell.forget()
    answers = 0
    while cell.deliver(where=lambda a, b, message: isinstance(message, HeartbeatAck)):
        answers += 1
        assert not leader.read_only
    assert answers == 2
    leader.tick(cell.now)
    cell.drain(1)
    told = cell.messages(Heartbeat, 1)
    assert [message.read_only for message in told if isinstance(message, Heartbeat)] == [False, False]
