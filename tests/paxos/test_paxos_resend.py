"""What a peer did not take is sent to it again, whatever else it took meanwhile."""

from __future__ import annotations

from paxos_cell import Cell

from synod.base import SECOND
from synod.paxos import PaxosOptions


def test_an_acceptance_says_nothing_of_the_slots_before_it() -> None:
    """A peer that abstained refuses silently: the slot that it refused is sent again though it took the next.

    Found by the simulator with two slots in flight: a leader took Accepted(71) for an acknowledgement of 70 too,
    never sent 70 again, and the cell stood still for ever.
    """
    cell = Cell(options=PaxosOptions(in_flight_slots_max=2))
    leader = cell.elect(1)
    cell.up[2].abstain(True, cell.now)
    cell.up[3].abstain(True, cell.now)
    leader.propose(b"first", cell.now)
    cell.settle()
    cell.up[2].abstain(False, cell.now)
    cell.up[3].abstain(False, cell.now)
    assert leader.can_propose
    leader.propose(b"second", cell.now)
    cell.settle()
    assert cell.values(1) == [], "the first slot is still open"
    cell.advance(SECOND)
    assert cell.values(1) == cell.values(2) == cell.values(3) == [b"first", b"second"]
