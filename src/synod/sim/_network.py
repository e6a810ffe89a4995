"""Links between machines as TCP gives them: in order until the connection breaks, and then not at all.

A connection is one life of a pair: what was sent in an earlier life never arrives. A cut link first swallows
what is sent, silently, as a real one does; whether the connection is also seen to close is another matter.

A packet that gets lost is sent again after a while that doubles, and what was sent behind it waits; after some
times the connection breaks, with everything on it. So a share of lost packets is delays and broken connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synod.base import MILLISECOND, Micros, RemoteProtocolError
from synod.replica import Forgetful, Hello

if TYPE_CHECKING:
    from ._machine import Machine
    from ._world import World


RESEND_AFTER: Final = 200 * MILLISECOND
"""The least time after which Linux sends a lost packet again."""

RESENDS_MAX: Final = 4
"""Linux tries for a quarter of an hour; a replica and its peer give up within seconds."""

REPLAY_WITHIN: Final = 2_000 * MILLISECOND

LATE_WITHIN: Final = 500 * MILLISECOND
"""The two connections of a pair are made together, and one may be slow: so long after the first messages, its hello
comes, which says what held when it was sent."""


class Network:
    """All links of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.stream("network")
        self._late = world.stream("late hellos")
        self._delay_min = world.plan.delay // 2
        self._span = 2 * world.plan.delay - self._delay_min
        self._span_bits = self._span.bit_length()
        self._life: dict[tuple[int, int], int] = {}
        self._free: dict[tuple[int, int], int] = {}
        self.open: dict[tuple[int, int], None] = {}
        self.cut: dict[tuple[int, int], None] = {}
        self._swallowed: dict[tuple[int, int], None] = {}
        self.loss_until: Micros = 0
        self.slow_ways: dict[tuple[int, int], int] = {}
        self._untold: dict[tuple[int, int], None] = {}  # ends that have not learnt yet that it closed

    def _pair(self, a: int, b: int) -> tuple[int, int]:
        return (a, b) if a < b else (b, a)

    def delay(self) -> int:
        """A one-way delay with a tail."""
        # As `randrange(delay // 2, 2 * delay)` and `randrange(50)` would draw, which check their arguments each time.
        bits = self._rng.getrandbits
        wait = bits(self._span_bits)
        while wait >= self._span:
            wait = bits(self._span_bits)
        wait += self._delay_min
        tail = bits(6)
        while tail >= 50:
            tail = bits(6)
        if tail == 0:
            wait *= self._rng.randrange(2, 20)
        return wait

    def connect(self, a: int, b: int) -> bool:
        """Open the connection of a pair where both ends run and nothing is cut; True when one refuses the other."""
        pair = self._pair(a, b)
        one, two = self._world.machines[a], self._world.machines[b]
        if pair in self.open or one.replica is None or two.replica is None or not (one.running and two.running):
            return False
        if (a, b) in self.cut or (b, a) in self.cut:
            return False
        first = self._greets(two, one)
        second = self._greets(one, two) if one.replica is not None else None
        if first is None or second is None:
            return True
        hellos = (first, second)
        self.open[pair] = None
        self._life[pair] = self._life.get(pair, 0) + 1
        self._free[a, b] = self._free[b, a] = self._world.now
        for machine, hello in ((one, hellos[1]), (two, hellos[0])):
            self.tell_closed(machine.id, hello.id)
            if machine.replica is not None:
                machine.replica.peer_connected(hello, machine.now())
                machine.drain()
        for host, guest in ((one, two), (two, one)):
            if guest.replica is not None and not guest.forgetful:
                late = self._late.randrange(LATE_WITHIN)
                self._world.after(late, "late_hello", host.id, guest.id, guest.replica.hello())
        return False

    def hear_late(self, host: int, guest: int, hello: bytes) -> None:
        """The hello of a pair's second connection arrives: it is not taken for what the guest's disk holds now.

        A proxy between them may have kept it while the host was started again.
        """
        at = self._world.machines[host]
        if at.replica is None or not at.running:
            return
        self._world.count("late hello")
        try:
            at.replica.check_hello(hello, False)
        except RemoteProtocolError as refusal:
            if isinstance(refusal, Forgetful):
                self._world.violated(f"replica {host} says that replica {guest} has forgotten something: {refusal}")
            self._world.count("late hello refused")

    def _greets(self, host: Machine, guest: Machine) -> Hello | None:
        """The hello of a replica, if another one talks to it: it must, unless its disk lost something or it left."""
        assert host.replica is not None
        assert guest.replica is not None
        try:
            return host.replica.check_hello(guest.replica.hello())
        except RemoteProtocolError as refusal:
            if "feature level" in str(refusal) and min(host.level, guest.level) < max(host.level, guest.level):
                self._world.count("older version refused")
                return None
            if (
                "is no member" in str(refusal)
                or "was removed" in str(refusal)
                or "comes as incarnation" in str(refusal)
            ):
                self._world.count("stranger refused")
                return None
            if not guest.forgetful:
                self._world.violated(f"replica {host.id} refuses replica {guest.id}: {refusal}")
            if "forgotten" not in str(refusal) and "another disk" not in str(refusal):
                self._world.violated(f"replica {host.id} refuses replica {guest.id} without the reason: {refusal}")
            guest.refused = True
            self._world.count("forgetful peer refused")
            if isinstance(refusal, Forgetful):
                guest.replica.forgotten(host.id, str(refusal), guest.now())
                guest.drain()
            return None

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

    def close_gently(self, a: int, b: int) -> None:
        """One end closes the connection: the other learns it after what was sent before."""
        pair = self._pair(a, b)
        if pair in self.open:
            self._world.at(max(self._free[a, b], self._world.now) + 1, "left", a, b, self._life[pair])

    def leave(self, a: int, b: int, life: int) -> None:
        """What was sent before the end has arrived."""
        pair = self._pair(a, b)
        if pair in self.open and self._life[pair] == life:
            self.disconnect(a, b)

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
        wait = self.delay() * self.slow_ways.get((a, b), 1)
        if self._world.now < self.loss_until:
            losses = 0
            while losses <= RESENDS_MAX and self._rng.random() < self._world.plan.loss:
                wait += RESEND_AFTER << losses
                losses += 1
                self._world.count("packet lost")
            if losses > RESENDS_MAX:
                self._world.count("connection lost")
                self.disconnect(a, b)
                return
        arrive = max(self._free[a, b], self._world.now + wait)
        self._free[a, b] = arrive
        self._world.at(arrive, "message", a, b, self._life[pair], message)

    def heal(self) -> None:
        """Let everything through again; connections that have lost something break now."""
        self.cut.clear()
        self.slow_ways.clear()
        self.loss_until = 0
        swallowed, self._swallowed = self._swallowed, {}
        for a, b in swallowed:
            self.disconnect(a, b)

    def deliver(self, a: int, b: int, life: int, message: bytes, *, again: bool = False) -> None:
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
            self._world.at(machine.paused_until + 1, "again" if again else "message", a, b, life, message)
            return
        if self._world.plan.replay and not again and self._rng.random() < self._world.plan.replay:
            self._world.count("message replayed")
            self._world.after(self._rng.randrange(REPLAY_WITHIN), "again", a, b, life, message)
        machine.replica.step(a, message, machine.now())
        machine.drain()
