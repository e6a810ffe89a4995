"""Every state that a small cell can reach, with the very `Paxos` class that a replica runs.

Three replicas, a few ballots, a few slots. A message may be delivered at any later moment or never, and in an
unordered scope before those that were sent earlier; writes become durable at any later moment; a replica may crash
and come back with what its disk holds; a connection may break. No clock: somebody stands for leader whenever the
explorer says so, which is more than timeouts can do.

What makes it fast: a replica's next state depends on its own state and one event only, so each pair is run once
with the real class and remembered; the states of the cell are then tuples of small numbers. Two replica states are
the same when everything in them is, down to the last field (`canonical`).
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple, TypeAlias

from paxos_cell import Disk, configuration_of

from synod.base import Ballot, Change, Configuration
from synod.paxos import (
    Accepted,
    HeartbeatAck,
    Paxos,
    PaxosMessage,
    PaxosOptions,
    Prepare,
    Promise,
    TakeOver,
    Write,
    decode,
    encode,
)

VOTERS = (1, 2, 3)
LINKS = tuple((a, b) for a in VOTERS for b in VOTERS if a != b)
QUORUM = 2
OPENING = b"open"
ALL_VOTE = configuration_of(VOTERS)


class NoChance:
    """An Rng that always draws the same: without a clock, chance only picks deadlines."""

    def randrange(self, start: int, stop: int, /) -> int:
        return start

    def getrandbits(self, k: int, /) -> int:
        return 1


@dataclass
class Local:
    """One replica and its disk."""

    paxos: Paxos
    disk: Disk
    unsynced: list[Write] = field(default_factory=list)
    given: list[tuple[int, bytes]] = field(default_factory=list)  # handed out since the start, of any life
    life: int = 0


Wire: TypeAlias = tuple[tuple[int, ...], ...]
"""The messages on their way, by number, one tuple for each of `LINKS`."""


class Step(NamedTuple):
    """What an event makes of a replica: its next state, and what came out."""

    state: int
    sent: tuple[int, ...]  # messages, by number
    given: tuple[tuple[int, bytes], ...]
    granted: tuple[tuple[int, int], ...]


class Global(NamedTuple):
    """A state of the cell."""

    locals: tuple[int, int, int]
    wire: Wire
    decided: tuple[tuple[int, bytes], ...]  # whatever any replica ever handed out
    asked: tuple[tuple[int, int, int], ...]  # (replica, ask, what had been handed out when it was made)
    stands: int
    proposals: int
    crashes: int
    resets: int
    asks: int
    changes: int


COUNTED = Global._fields[4:]
"""What happens so often at most."""


@dataclass(frozen=True)
class Scope:
    """How small the world is: how often each thing may happen.

    Args:
        ordered: a connection delivers in order, as TCP does; else each message comes when it likes.
        late: replicas whose writes may become durable later; those of the others are durable at once.
        ignored: kinds of messages that are always lost.
        members: the first configuration, of all three replicas.
        after: what a leader may change it to.
        changes: how often that may be proposed.
    """

    ordered: bool = True
    late: tuple[int, ...] = ()
    stands: int = 2
    standing: tuple[int, ...] = (1, 3)
    proposals: int = 0
    crashes: int = 0
    crashing: tuple[int, ...] = VOTERS
    resets: int = 0
    asks: int = 0
    asking: tuple[int, ...] = VOTERS
    states_max: int = 5_000_000
    ignored: tuple[type, ...] = ()
    members: Configuration = ALL_VOTE
    after: Configuration = ALL_VOTE
    changes: int = 0


class Explorer:
    """Breadth first over every state in a scope; raises AssertionError with the shortest way to a bad one."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.options = PaxosOptions(in_flight_slots_max=2)
        self.frozen: list[bytes] = []
        self.facts: list[dict[str, Any]] = []
        self.ids: dict[Hashable, int] = {}
        self.memo: dict[tuple[int, Hashable], Step] = {}
        self.messages: list[tuple[int, int, bytes]] = []
        self.numbers: dict[tuple[int, int, bytes], int] = {}
        self.answers_to: list[Ballot | None] = []  # the ballot of whoever counts this message, if it is an answer
        self.pruned: dict[tuple[int, tuple[int, ...], int], tuple[int, ...]] = {}
        self.parents: dict[Global, tuple[Global, str] | None] = {}

    # -- replicas

    def intern(self, local: Local) -> int:
        key = canonical(local)
        found = self.ids.get(key)
        if found is None:
            found = self.ids[key] = len(self.frozen)
            self.frozen.append(pickle.dumps(local, pickle.HIGHEST_PROTOCOL))
            paxos = local.paxos
            self.facts.append(
                {
                    "unsynced": bool(local.unsynced),
                    "counting": next((part.ballot for part in (paxos._candidacy, paxos._reign) if part), None),
                    "may_stand": paxos.role != "leader" and paxos._candidacy is None,
                    "may_propose": paxos.can_propose,
                    "last_ask": paxos._asks._last,
                    "may_change": paxos.can_change and paxos.configuration == self.scope.members,
                    "held": {slot: entry.value for slot, entry in local.disk.entries.items()},
                }
            )
        return found

    def birth(self, me: int, disk: Disk, life: int) -> Local:
        paxos = Paxos(
            me=me,
            configuration=self.scope.members,
            options=self.options,
            durable=disk.durable(),
            applied=0,
            rng=NoChance(),
            now=0,
        )
        for peer in VOTERS:
            if peer != me:
                paxos.connected(peer, 0)
        return Local(paxos, disk, life=life)

    def run(self, state: int, event: tuple[Any, ...]) -> Step:
        """One event at one replica, with the real class; remembered."""
        known = self.memo.get((state, event))
        if known is None:
            known = self.memo[state, event] = self.happen(pickle.loads(self.frozen[state]), event)
        return known

    def happen(self, local: Local, event: tuple[Any, ...]) -> Step:
        paxos = local.paxos
        match event:
            case ("deliver", int(sender), bytes(data)):
                paxos.step(sender, decode(data), 0)
            case ("sync",):
                write = local.unsynced.pop(0)
                local.disk.sync(write)
                paxos.persisted(write.id, 0)
            case ("stand",):
                peer = next(peer for peer in VOTERS if peer != paxos.me)
                paxos.step(peer, TakeOver(paxos.ballot), 0)
            case ("propose", bytes(value)):
                paxos.propose(value, 0)
            case ("reset", int(peer)):
                paxos.disconnected(peer, 0)
                paxos.connected(peer, 0)
            case ("ask",):
                paxos.ask(0)
            case ("crash",):
                local = self.birth(paxos.me, local.disk, local.life + 1)
        return self.drain(local)

    def drain(self, local: Local) -> Step:
        paxos = local.paxos
        sent, given, granted = [], [], []
        while True:
            if paxos.needs_opening:
                paxos.propose_opening(OPENING + str(paxos.ballot).encode(), 0)
            ready = paxos.ready()
            if paxos.me in self.scope.late:
                local.unsynced.extend(ready.writes)
            else:
                for write in ready.writes:
                    local.disk.sync(write)
                    paxos.persisted(write.id, 0)
            for peer, message in ready.messages:
                self.judge_message(local, message)
                if not isinstance(message, self.scope.ignored):
                    sent.append(self.number(paxos.me, peer, message))
            given.extend((entry.slot, entry.value) for entry in ready.chosen)
            granted.extend(ready.grants)
            if not (ready.writes or ready.messages or ready.chosen or ready.grants or paxos.needs_opening):
                break
        return Step(self.intern(local), tuple(sent), tuple(given), tuple(granted))

    def number(self, sender: int, receiver: int, message: PaxosMessage) -> int:
        key = (sender, receiver, encode(message))
        found = self.numbers.get(key)
        if found is None:
            found = self.numbers[key] = len(self.messages)
            self.messages.append(key)
            answer = isinstance(message, Promise | Accepted | HeartbeatAck)
            self.answers_to.append(message.ballot if answer else None)
        return found

    def send(self, wire: Wire, numbers: tuple[int, ...]) -> Wire:
        if not numbers:
            return wire
        links = [list(link) for link in wire]
        for number in numbers:
            sender, receiver, _ = self.messages[number]
            link = links[LINKS.index((sender, receiver))]
            if self.scope.ordered:
                link.append(number)
            elif number not in link:
                link.append(number)
                link.sort()
        return tuple(map(tuple, links))

    def prune(self, wire: Wire, states: tuple[int, int, int]) -> Wire:
        """Without the answers that nobody will ever count: their ballot is past for whoever had raised it.

        That they are ignored is seen by handing them in, not taken for granted.
        """
        pruned = []
        for at, link in enumerate(wire):
            if link:
                known = (at, link, states[LINKS[at][1] - 1])
                link = self.pruned.get(known)
                if link is None:
                    link = self.pruned[known] = self.prune_link(*known)
            pruned.append(link)
        return tuple(pruned)

    def prune_link(self, at: int, link: tuple[int, ...], state: int) -> tuple[int, ...]:
        sender, _ = LINKS[at]
        counting = self.facts[state]["counting"]
        return tuple(
            number
            for number in link
            if self.answers_to[number] in (None, counting) or not self.ignored(state, sender, number)
        )

    def ignored(self, state: int, sender: int, number: int) -> bool:
        return self.run(state, ("deliver", sender, self.messages[number][2])) == Step(state, (), (), ())

    # -- what must hold

    def judge_message(self, local: Local, message: PaxosMessage) -> None:
        """Nothing that counts as a promise leaves before it is on the disk."""
        disk = local.disk
        match message:
            case Promise(ballot) | Prepare(ballot):
                assert disk.promised >= ballot, f"told before it is durable: {message}"
            case Accepted(ballot, slot):
                held = disk.entries.get(slot)
                assert disk.promised >= ballot, f"told before it is durable: {message}"
                assert held is not None, f"told before it is durable: {message}"
                assert held.ballot >= ballot or slot <= local.paxos.chosen_mark, f"told without holding it: {message}"

    def judge(self, after: Global) -> None:
        """Agreement and durability: what was ever handed out is one value per slot, on a quorum of disks."""
        if not after.decided:
            return
        holding = [self.facts[state]["held"] for state in after.locals]
        slots = [slot for slot, _ in after.decided]
        assert len(set(slots)) == len(slots), f"two values in one slot: {after.decided}"
        for slot, value in after.decided:
            copies = sum(held.get(slot) == value for held in holding)
            assert copies >= QUORUM, f"{value!r} in slot {slot} lies on {copies} disks"

    # -- the exploration

    def start(self) -> Global:
        wire: Wire = ((),) * len(LINKS)
        states = []
        for me in VOTERS:
            step = self.drain(self.birth(me, Disk(), 0))
            wire = self.send(wire, step.sent)
            states.append(step.state)
        scope = self.scope
        return Global(
            (states[0], states[1], states[2]),
            wire,
            (),
            (),
            scope.stands,
            scope.proposals,
            scope.crashes,
            scope.resets,
            scope.asks,
            scope.changes,
        )

    def after(
        self,
        state: Global,
        i: int,
        event: tuple[Any, ...],
        *,
        wire: Wire | None = None,
        asked: tuple[tuple[int, int, int], ...] | None = None,
        less: str = "",
    ) -> Global:
        """The state after an event at replica i, of which `less` names the kind that may happen once less now."""
        locals_, old_wire, decided, old_asked, *left = state
        step = self.run(locals_[i - 1], event)
        if step.given:
            decided = tuple(sorted({*decided, *step.given}))
        if asked is None:
            asked = old_asked
        for ask, mark in step.granted:
            for who, made, had in asked:
                if (who, made) == (i, ask):
                    assert mark >= had, f"replica {i} may read at {mark} though {had} slots were visible when it asked"
            asked = tuple(one for one in asked if one[:2] != (i, ask))
        states = (*locals_[: i - 1], step.state, *locals_[i:])
        if less:
            left[COUNTED.index(less)] -= 1
        sent = self.send(old_wire if wire is None else wire, step.sent)
        return Global(states, self.prune(sent, states), decided, asked, *left)

    def successors(self, state: Global) -> Iterator[tuple[str, Global]]:
        scope = self.scope
        for at, link in enumerate(state.wire):
            if not link:
                continue
            sender, receiver = LINKS[at]
            before, behind = state.wire[:at], state.wire[at + 1 :]
            for number in link[:1] if scope.ordered else link:
                rest = link[1:] if scope.ordered else tuple([other for other in link if other != number])
                event = ("deliver", sender, self.messages[number][2])
                yield f"#{number}", self.after(state, receiver, event, wire=(*before, rest, *behind))
        for i, local in zip(VOTERS, state.locals, strict=True):
            facts = self.facts[local]
            if facts["unsynced"]:
                yield f"{i} syncs", self.after(state, i, ("sync",))
            if state.stands and facts["may_stand"] and i in scope.standing:
                yield f"{i} stands", self.after(state, i, ("stand",), less="stands")
            if state.proposals and facts["may_propose"]:
                value = b"%d by %d" % (state.proposals, i)
                yield f"{i} proposes {value!r}", self.after(state, i, ("propose", value), less="proposals")
            if state.changes and facts["may_change"]:
                change = Change(scope.after, scope.members.digest(), bytes((i,)) * 16)
                after = self.after(state, i, ("propose", change.encode()), less="changes")
                yield f"{i} proposes other members", after
            if state.crashes and i in scope.crashing:
                yield f"{i} crashes", self.crash(state, i)
            if state.asks and i in scope.asking:
                yield f"{i} asks", self.ask(state, i)
        if state.resets:
            for i, j in ((1, 2), (1, 3), (2, 3)):
                half = self.after(state, i, ("reset", j), wire=without(state.wire, {(i, j), (j, i)}), less="resets")
                yield f"{i} - {j} breaks", self.after(half, j, ("reset", i))

    def crash(self, state: Global, i: int) -> Global:
        """What was not durable is gone, and every message from or to it; the peers see their connections break."""
        asked = tuple(one for one in state.asked if one[0] != i)
        wire = without(state.wire, [link for link in LINKS if i in link])
        after = self.after(state, i, ("crash",), wire=wire, asked=asked, less="crashes")
        for peer in VOTERS:
            if peer != i:
                after = self.after(after, peer, ("reset", i))
        return after

    def ask(self, state: Global, i: int) -> Global:
        """A read arrives: whatever anybody has handed out by now must be seen by it."""
        ask = 1 + self.facts[state.locals[i - 1]]["last_ask"]
        had = max((slot for slot, _ in state.decided), default=0)
        return self.after(state, i, ("ask",), asked=(*state.asked, (i, ask, had)), less="asks")

    def explore(self) -> int:
        """Visit every state; returns how many distinct ones there are."""
        first = self.start()
        self.parents[first] = None
        todo = deque([first])
        while todo:
            state = todo.popleft()
            how = "begins"
            try:
                for how, after in self.successors(state):
                    if after not in self.parents:
                        self.judge(after)
                        self.parents[after] = (state, how)
                        todo.append(after)
            except Exception as broken:
                raise AssertionError(
                    f"{broken}\n{self.story(state)}\n(after: {how}, then the step that broke)"
                ) from broken
            assert len(self.parents) <= self.scope.states_max, "the scope is not as small as it was meant to be"
        return len(self.parents)

    def story(self, state: Global) -> str:
        """The shortest way to a state, in words."""
        steps: list[str] = []
        at: Global = state
        while (before := self.parents[at]) is not None:
            at, how = before
            if how.startswith("#"):
                sender, receiver, data = self.messages[int(how[1:])]
                how = f"{sender} -> {receiver} {decode(data)}"
            steps.append(how)
        return "\n".join(reversed(steps))


def without(wire: Wire, lost: Collection[tuple[int, int]]) -> Wire:
    """The wire after these links have lost what was on them."""
    return tuple(() if link in lost else held for link, held in zip(LINKS, wire, strict=True))


def canonical(thing: Any) -> Hashable:
    """Everything in an object as one hashable value: equal exactly when the objects behave the same."""
    if thing is None or isinstance(thing, int | str | bytes | bool):
        return thing
    if isinstance(thing, PaxosOptions | NoChance):
        return None  # the same everywhere
    if isinstance(thing, tuple | list | deque):
        return tuple(canonical(item) for item in thing)
    if isinstance(thing, dict):
        # In order: what iterates over a dict depends on it.
        return tuple((canonical(key), canonical(value)) for key, value in thing.items())
    if isinstance(thing, set | frozenset):
        return frozenset(thing)
    if is_dataclass(thing):
        return (type(thing).__name__, *(canonical(getattr(thing, f.name)) for f in fields(thing)))
    slots = getattr(type(thing), "__slots__", None)
    values = vars(thing) if slots is None else {name: getattr(thing, name) for name in slots}
    return (type(thing).__name__, *(canonical(values[name]) for name in sorted(values)))
