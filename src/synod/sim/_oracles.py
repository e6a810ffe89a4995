"""What must hold at every step, looked at from outside the replicas.

Each method is told one thing that a replica or a client did, and speaks through `violated` when it contradicts
anything that was told before. The judges of whole histories are in `_checkers` and `_linear`. Nothing here asks a
replica what it believes: what two of them say is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from synod.base import Ballot, Slot
from synod.tree import Tree

DIGEST_EVERY: Final = 8
"""The whole state is hashed anew at every eighth slot: a twelfth of the simulator's time."""


class Oracles:
    """The memory of one world's judges.

    Args:
        violated: is called with a sentence; it raises.
    """

    def __init__(self, violated: Callable[[str], None]) -> None:
        self._violated = violated
        self.values: dict[Slot, bytes] = {}
        self._applied: dict[int, Slot] = {}
        self._leaders: dict[Ballot, int] = {}
        self._states: dict[Slot, tuple[int, int]] = {}
        self._sessions: dict[int, int] = {}
        self._ended: dict[int, None] = {}

    def begins(self, machine: int, slot: Slot) -> None:
        """A replica holds the state at a slot: it has started, or taken over a snapshot."""
        self._applied[machine] = slot

    def applies(self, machine: int, slot: Slot, batch: bytes, before: Tree) -> None:
        """A replica is about to apply a value.

        One value per slot, on whatever replica, in whatever life; none left out; and the same state below it.
        """
        if slot != self._applied[machine] + 1:
            self._violated(f"replica {machine} applies slot {slot} after slot {self._applied[machine]}")
        self._applied[machine] = slot
        known = self.values.setdefault(slot, batch)
        if known != batch:
            self._violated(f"slot {slot} has one value on replica {machine} and another elsewhere")
        if slot % DIGEST_EVERY == 0:
            self.holds(machine, slot - 1, before)

    def holds(self, machine: int, slot: Slot, tree: Tree) -> None:
        """A replica's state at a slot: equal at equal slots."""
        state = tree.digest_anew()
        other, known = self._states.setdefault(slot, (machine, state))
        if known != state:
            self._violated(f"after slot {slot} the states of replicas {machine} and {other} differ")

    def leads(self, machine: int, ballot: Ballot) -> None:
        """One leader per ballot."""
        if self._leaders.setdefault(ballot, machine) != machine:
            self._violated(f"replicas {self._leaders[ballot]} and {machine} both lead with ballot {ballot}")

    def session_served(self, client: int, session: int) -> None:
        """A replica serves a session: it belongs to one client, and an ended one is never served again."""
        if self._sessions.setdefault(session, client) != client:
            self._violated(f"session {session:x} was given to clients {self._sessions[session]} and {client}")
        if session in self._ended:
            self._violated(f"session {session:x} of client {client} is served after its end")

    def session_ended(self, client: int, session: int, *, early: int) -> None:
        """A client was told that its session is over, `early` microseconds before its lease was."""
        self._ended[session] = None
        if early > 0:
            self._violated(f"session {session:x} of client {client} ended {early} microseconds before its lease")
