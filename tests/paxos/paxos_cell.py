"""A cell of bare Paxos objects that is driven by hand, one decision at a time.

Nothing happens by chance: messages wait in order until `deliver` or `settle`, disks sync at once unless held,
time passes only in `advance`. Every message goes through the codec. What happens is written to `log`, in words
that the golden traces compare.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

from synod.base import (
    BALLOT_ZERO,
    MILLISECOND,
    SECOND,
    Ballot,
    Change,
    ConfigError,
    Configuration,
    Entry,
    Member,
    is_change,
)
from synod.paxos import Durable, Paxos, PaxosMessage, PaxosOptions, TakeOver, Write, decode, encode


def configuration_of(voters: Iterable[int], learners: Iterable[int] = ()) -> Configuration:
    """Members by their ids alone."""
    roles = {**dict.fromkeys(voters, "voter"), **dict.fromkeys(learners, "learner")}
    members = tuple(Member(i, f"127.0.0.1:{7000 + i}", role=roles[i]) for i in sorted(roles))
    return Configuration("5e" * 16, members)


@dataclass
class Disk:
    """What is durable of one replica."""

    promised: Ballot = BALLOT_ZERO
    mark: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    log_start: int = 0
    unknown: set[int] = field(default_factory=set)

    def sync(self, write: Write) -> None:
        self.promised = max(self.promised, write.promised)
        self.mark = max(self.mark, write.chosen_mark)
        for entry in write.entries:
            held = self.entries.get(entry.slot)
            if held is None or entry.ballot >= held.ballot:
                self.entries[entry.slot] = entry
                self.unknown.discard(entry.slot)

    def durable(self) -> Durable:
        entries = tuple(self.entries[slot] for slot in sorted(self.entries))
        return Durable(self.promised, entries, self.mark, self.log_start, frozenset(self.unknown))


class Cell:
    """Replicas 1 to `size`, and learners after them, all connected unless `connect` is False."""

    def __init__(
        self, size: int = 3, *, learners: int = 0, connect: bool = True, options: PaxosOptions | None = None
    ) -> None:
        self.options = options or PaxosOptions()
        self.now = SECOND
        self.voters = tuple(range(1, size + 1))
        self.learners = tuple(range(size + 1, size + learners + 1))
        self.ids = (*self.voters, *self.learners)
        self.disks = {i: Disk() for i in self.ids}
        self.up: dict[int, Paxos] = {}
        self.links: set[frozenset[int]] = set()
        self.cut: set[tuple[int, int]] = set()  # directed links on which messages vanish
        self.lose: Callable[[int, int, PaxosMessage], bool] = lambda a, b, message: False  # which messages vanish
        self.held: set[int] = set()  # replicas whose disk does not sync
        self.unsynced: dict[int, list[Write]] = {i: [] for i in self.ids}
        self.wire: deque[tuple[int, int, bytes]] = deque()
        self.applied: dict[int, list[Entry]] = {i: [] for i in self.ids}
        self.grants: dict[int, dict[int, int]] = {i: {} for i in self.ids}
        self.snapshots_wanted: dict[int, int] = {}
        self.log: list[str] = []
        self.sent: list[tuple[int, int, PaxosMessage]] = []
        self.seed = 0
        self.opening = True
        for i in self.ids:
            self.start(i, connect=connect)

    # -- lives

    def start(self, i: int, *, applied: int = 0, connect: bool = True) -> Paxos:
        self.seed += 1
        self.applied[i] = []
        self.grants[i] = {}
        self.up[i] = Paxos(
            me=i,
            configuration=configuration_of(self.voters, self.learners),
            options=self.options,
            durable=self.disks[i].durable(),
            applied=applied,
            rng=random.Random(self.seed),
            now=self.now,
        )
        if connect:
            for j in self.ids:
                if j != i and j in self.up:
                    self.connect(i, j)
        return self.up[i]

    def crash(self, i: int, *, notice: bool = True) -> None:
        """Gone, with what was not synced; the peers see their connections close unless `notice` is False."""
        del self.up[i]
        self.unsynced[i].clear()
        self.held.discard(i)
        self.wire = deque((a, b, data) for a, b, data in self.wire if i not in (a, b))
        for j in self.ids:
            if notice and j != i:
                self.disconnect(i, j)

    def connect(self, i: int, j: int) -> None:
        self.links.add(frozenset((i, j)))
        for a, b in ((i, j), (j, i)):
            if a in self.up:
                self.up[a].connected(b, self.now)

    def disconnect(self, i: int, j: int) -> None:
        if frozenset((i, j)) not in self.links:
            return
        self.links.discard(frozenset((i, j)))
        self.wire = deque((a, b, data) for a, b, data in self.wire if {a, b} != {i, j})
        for a, b in ((i, j), (j, i)):
            if a in self.up:
                self.up[a].disconnected(b, self.now)

    def isolate(self, i: int) -> None:
        for j in self.ids:
            if j != i:
                self.disconnect(i, j)

    def only(self, *links: tuple[int, int]) -> None:
        """Connect exactly these pairs."""
        wanted = {frozenset(link) for link in links}
        for i in self.ids:
            for j in self.ids:
                if i < j and frozenset((i, j)) not in wanted:
                    self.disconnect(i, j)
        for link in sorted(tuple(sorted(link)) for link in wanted - self.links):
            self.connect(*link)

    def silence(self, i: int) -> None:
        """The process hangs: its connections stand, and nothing passes."""
        for j in self.ids:
            self.cut |= {(i, j), (j, i)}

    def wake(self, i: int) -> None:
        self.cut = {(a, b) for a, b in self.cut if i not in (a, b)}

    # -- the cycle

    def drain(self, i: int) -> bool:
        """One cycle of one replica: what it asks for is queued. True when anything happened."""
        paxos = self.up[i]
        if paxos.needs_opening and self.opening:
            slot = paxos.propose_opening(b"open", self.now)
            self.log.append(f"{i} leads with {paxos.ballot} and opens in slot {slot}")
        ready = paxos.ready()
        for write in ready.writes:
            self.log.append(f"{i} writes {words(write)}")
            self.unsynced[i].append(write)
        for peer, message in ready.messages:
            self.log.append(f"{i} -> {peer} {words(message)}")
            self.sent.append((i, peer, message))
            if (i, peer) not in self.cut and not self.lose(i, peer, message):
                self.wire.append((i, peer, encode(message)))
        for entry in ready.chosen:
            self.log.append(f"{i} applies {entry.slot} {bytes_words(entry.value)}")
            self.applied[i].append(entry)
        for ask, slot in ready.grants:
            self.log.append(f"{i} may read at {slot}")
            self.grants[i][ask] = slot
        for read in ready.log_reads:
            entries = []
            slot = read.from_slot
            while slot in self.disks[i].entries and slot > self.disks[i].log_start:
                entries.append(self.disks[i].entries[slot])
                slot += 1
            paxos.log_read(read.id, entries, self.now)
        if ready.snapshot_wanted is not None:
            self.log.append(f"{i} wants the snapshot of {ready.snapshot_wanted}")
            self.snapshots_wanted[i] = ready.snapshot_wanted
        return bool(
            ready.writes or ready.messages or ready.chosen or ready.grants or ready.log_reads or paxos.needs_opening
        )

    def sync(self, i: int) -> bool:
        if i in self.held or not self.unsynced[i]:
            return False
        writes, self.unsynced[i] = self.unsynced[i], []
        for write in writes:
            self.disks[i].sync(write)
        self.up[i].persisted(writes[-1].id, self.now)
        return True

    def deliver(self, *, where: Callable[[int, int, PaxosMessage], bool] | None = None) -> bool:
        """Deliver the first message on the wire that fits; False when there is none."""
        for at, (a, b, data) in enumerate(self.wire):
            message = decode(data)
            if where is None or where(a, b, message):
                del self.wire[at]
                if b in self.up and (a, b) not in self.cut:
                    self.up[b].step(a, message, self.now)
                return True
        return False

    def settle(self, *, drop: Callable[[int, int, PaxosMessage], bool] | None = None) -> None:
        """Until nothing happens any more without time passing; `drop` says which messages are lost."""
        for _ in range(10_000):
            busy = False
            for i in sorted(self.up):
                while self.drain(i):
                    busy = True
            for i in sorted(self.up):
                busy = self.sync(i) or busy
            if busy:
                continue
            if drop is not None:
                self.wire = deque((a, b, data) for a, b, data in self.wire if not drop(a, b, decode(data)))
            if not self.deliver():
                return
        raise AssertionError("the cell does not come to rest")

    def advance(self, micros: int) -> None:
        """Let time pass, deadline by deadline."""
        until = self.now + micros
        self.settle()
        while True:
            due = min((self.up[i].next_deadline(), i) for i in self.up)[0]
            if due > until:
                break
            self.now = max(self.now, due)
            for i in sorted(self.up):
                if self.up[i].next_deadline() <= self.now:
                    self.up[i].tick(self.now)
            self.settle()
        self.now = until
        self.settle()

    def until(self, holds: Callable[[], bool], within: int) -> int:
        """Let time pass until it holds; how long that took. Fails when it does not."""
        began = self.now
        while not holds():
            assert self.now - began < within, "it did not happen in time"
            self.advance(MILLISECOND)
        return self.now - began

    # -- what one does with a cell

    def elect(self, i: int) -> Paxos:
        """Replica i is told to take over, whoever led; it then serves."""
        peer = next(j for j in self.ids if frozenset((i, j)) in self.links)
        self.up[i].step(peer, TakeOver(self.up[i].ballot), self.now)
        self.settle()
        return self.up[i]

    def leaders(self) -> list[int]:
        return [i for i in self.voters if i in self.up and self.up[i].role == "leader"]

    def serving(self) -> list[int]:
        return [i for i in self.voters if i in self.up and self.up[i].serving and self.up[i].quorum_connected]

    def leads(self, *among: int) -> Callable[[], bool]:
        return lambda: bool(set(self.serving()) & set(among or self.voters))

    def propose(self, i: int, *values: bytes) -> None:
        for value in values:
            assert self.up[i].can_propose, "this replica cannot propose now"
            self.up[i].propose(value, self.now)
            self.settle()

    def change(self, i: int, after: Configuration) -> bytes:
        """Replica i proposes other members; gives the value. Nothing is delivered yet."""
        before = self.up[i].configuration
        value = Change(after, before.digest(), bytes(16)).encode()
        self.up[i].propose(value, self.now)
        return value

    def values(self, i: int) -> list[bytes]:
        """What a replica has applied, without the opening batches and the no-ops."""
        return [entry.value for entry in self.applied[i] if entry.value not in (b"", b"open")]

    def messages(self, kind: type[PaxosMessage], a: int | None = None, b: int | None = None) -> list[PaxosMessage]:
        """What was sent so far, of one kind, from a to b."""
        return [m for s, d, m in self.sent if isinstance(m, kind) and a in (None, s) and b in (None, d)]

    def forget(self) -> None:
        self.sent.clear()
        self.log.clear()


def words(thing: object) -> str:
    """One line for a message or a write, as the traces show it."""
    if isinstance(thing, Write):
        parts = [f"promise {thing.promised}", f"mark {thing.chosen_mark}", *map(entry_words, thing.entries)]
        return ", ".join(parts)
    said = [f"{f.name} {value_words(getattr(thing, f.name))}" for f in fields(thing)]  # type: ignore[arg-type]
    return f"{type(thing).__name__} {', '.join(said)}"


def entry_words(entry: Entry) -> str:
    return f"{entry.slot}={bytes_words(entry.value)}@{entry.ballot}"


def bytes_words(value: bytes) -> str:
    try:
        return f"<change {Change.decode(value).configuration.generation}>" if is_change(value) else repr(value.decode())
    except ConfigError:
        return "<change of a later version>"


def value_words(value: object) -> str:
    if isinstance(value, Ballot):
        return str(value)
    if isinstance(value, bytes):
        return bytes_words(value)
    if isinstance(value, tuple):
        return f"[{' '.join(entry_words(v) if isinstance(v, Entry) else str(v) for v in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def entries(*triples: tuple[int, tuple[int, int], bytes]) -> tuple[Entry, ...]:
    """Entries written shortly: (slot, (round, replica), value)."""
    return tuple(Entry(slot, Ballot(*ballot), value) for slot, ballot, value in triples)


def durable(
    promised: tuple[int, int] = (0, 0),
    held: Iterable[Entry] = (),
    *,
    mark: int = 0,
    log_start: int = 0,
    unknown: Iterable[int] = (),
) -> Durable:
    """What a log gave back, written shortly."""
    return Durable(Ballot(*promised), tuple(held), mark, log_start, frozenset(unknown))
