"""Links between machines as TCP gives them: in order until the connection breaks, and then not at all.

A connection is one life of a pair: what was sent in an earlier life never arrives. A cut link first swallows
what is sent, silently, as a real one does; whether the connection is also seen to close is another matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synod.base import RemoteProtocolError

if TYPE_CHECKING:
    from ._world import World


class Network:
    """All links of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.stream("network")
        self._life: dict[tuple[int, int], int] = {}
        self._free: dict[tuple[int, int], int] = {}
        self.open: dict[tuple[int, int], None] = {}
        self.cut: dict[tuple[int, int], None] = {}
        self._swallowed: dict[tuple[int, int], None] = {}
        self._untold: dict[tuple[int, int], None] = {}  # ends that have not learnt yet that it closed

    def _pair(self, a: int, b: int) -> tuple[int, int]:
        return (a, b) if a < b else (b, a)

    def delay(self) -> int:
        """A one-way delay with a tail."""
        base = self._world.plan.delay
        wait = self._rng.randrange(base // 2, base * 2)
        if self._rng.randrange(50) == 0:
            wait *= self._rng.randrange(2, 20)
        return wait

    def connect(self, a: int, b: int) -> None:
        """Open the connection of a pair where both ends run and nothing is cut."""
        pair = self._pair(a, b)
        one, two = self._world.machines[a], self._world.machines[b]
        if pair in self.open or one.replica is None or two.replica is None or not (one.running and two.running):
            return
        if (a, b) in self.cut or (b, a) in self.cut:
            return
        hello_one, hello_two = one.replica.hello(), two.replica.hello()
        try:
            one.replica.check_hello(hello_two)
            two.replica.check_hello(hello_one)
        except RemoteProtocolError as refusal:
            self._world.violated(f"replicas {a} and {b} refuse each other: {refusal}")
            return
        self.open[pair] = None
        self._life[pair] = self._life.get(pair, 0) + 1
        self._free[a, b] = self._free[b, a] = self._world.now
        for machine, peer in ((one, b), (two, a)):
            self.tell_closed(machine.id, peer)
            if machine.replica is not None:
                machine.replica.peer_connected(peer, machine.now())
                machine.drain()

    def disconnect(self, a: int, b: int) -> None:
        """Close the connection of a pair; both ends learn it, a paused one when it wakes."""
        pair = self._pair(a, b)
        if pair not in self.open:
            return
        del self.open[pair]
        self._life[pair] += 1
        for at, peer in ((a, b), (b, a)):
            machine = self._world.machines[at]
            self._untold[at, peer] = None
            self._world.at(max(self._world.now, machine.paused_until + 1), "closed", at, machine.life, peer)

    def tell_closed(self, at: int, peer: int) -> None:
        """One end learns that its connection to a peer is gone, once."""
        machine = self._world.machines[at]
        if self._untold.pop((at, peer), "told") is None and machine.replica is not None:
            machine.replica.peer_closed(peer, machine.now())
            machine.drain()

    def forget(self, at: int) -> None:
        """A process is gone: it has nothing to learn any more."""
        for pair in [pair for pair in self._untold if pair[0] == at]:
            del self._untold[pair]

    def send(self, a: int, b: int, message: bytes) -> None:
        """Put a message on the wire."""
        pair = self._pair(a, b)
        if pair not in self.open:
            return
        if (a, b) in self.cut:
            self._world.count("message cut")
            self._swallowed[pair] = None
            return
        arrive = max(self._free[a, b], self._world.now + self.delay())
        self._free[a, b] = arrive
        self._world.at(arrive, "message", a, b, self._life[pair], message)

    def heal(self) -> None:
        """Let everything through again; connections that have lost something break now."""
        self.cut.clear()
        swallowed, self._swallowed = self._swallowed, {}
        for a, b in swallowed:
            self.disconnect(a, b)

    def deliver(self, a: int, b: int, life: int, message: bytes) -> None:
        """A message arrives, if its connection still stands."""
        pair = self._pair(a, b)
        if pair not in self.open or self._life[pair] != life:
            return
        if (a, b) in self.cut:
            # TCP would send it again until it gives up: the connection is as good as gone.
            self._world.count("message cut")
            self.disconnect(a, b)
            return
        machine = self._world.machines[b]
        if machine.replica is None:
            return
        if not machine.running:
            self._world.at(machine.paused_until + 1, "message", a, b, life, message)
            return
        machine.replica.step(a, message, machine.now())
        machine.drain()
