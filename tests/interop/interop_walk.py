"""A random walk over the protocol: the same frames to a system, whichever it is, and what comes back, made comparable.

The frames depend on the seed alone. What a system numbers as it likes (zxids, sessions, the clock) is renamed in
order of appearance, after it was checked that it is consistent in itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from interop_wire import (
    AUTH,
    CHECK,
    CHILDREN,
    CHILDREN2,
    CLOSE,
    COUNT,
    CREATE,
    CREATE2,
    DELETE,
    EPHEMERALS,
    EXISTS,
    GET,
    GET_ACL,
    MULTI,
    MULTI_READ,
    OPEN,
    SET,
    SET_ACL,
    SET_WATCHES,
    SYNC,
    Event,
    Reader,
    Reply,
    Wire,
    auth,
    create,
    multi,
    read,
    set_acl,
    set_data,
    set_watches,
    text,
    versioned,
)

from _peers import Peer

NAMES = {
    CREATE: "create",
    DELETE: "delete",
    EXISTS: "exists",
    GET: "getData",
    SET: "setData",
    GET_ACL: "getACL",
    SET_ACL: "setACL",
    CHILDREN: "getChildren",
    SYNC: "sync",
    CHILDREN2: "getChildren2",
    CHECK: "check",
    MULTI: "multi",
    CREATE2: "create2",
    MULTI_READ: "multiRead",
    SET_WATCHES: "setWatches",
    EPHEMERALS: "getEphemerals",
    COUNT: "getAllChildrenNumber",
    AUTH: "auth",
    CLOSE: "close",
}
WEIGHTS = {
    CREATE: 20,
    CREATE2: 6,
    DELETE: 16,
    SET: 12,
    EXISTS: 12,
    GET: 10,
    CHILDREN: 6,
    CHILDREN2: 4,
    GET_ACL: 2,
    SET_ACL: 3,
    SYNC: 1,
    MULTI: 14,
    MULTI_READ: 2,
    EPHEMERALS: 1,
    COUNT: 1,
}
ACTORS = 4
PROBES_PINGED_S = 2.0
"""So often a probe, which is needed now and then only, says that it lives."""
CREDENTIALS = ("joe:secret", "eve:hidden", "", "")
"""Of each actor; two have none."""

# `exists` asks for no permission before 3.9, and no event is withheld: so everybody may read everything here.
LISTS = (
    OPEN,
    ((31, "auth", ""), (1, "world", "anyone")),
    ((1, "world", "anyone"),),
    ((1, "world", "anyone"), (14, "digest", "joe:z6jHjfRA0pS4mIlZ8ctS5Fz0Wh8=")),
    ((5, "world", "anyone"), (31, "auth", ""), (31, "auth", "")),
    ((31, "world", "anyone"), (31, "world", "anyone")),
    ((9, "world", "anyone"), (16, "auth", "ignored")),
)
WRONG_LISTS = (
    (),
    ((31, "digest", "no-colon"),),
    ((31, "nonsense", "x"),),
    ((31, "world", "somebody"),),
    ((31, "digest", "a:b:c"),),
)
WRONG_PATHS = ("a", "{0}/", "{0}//a", "{0}/./a", "{0}/..", "{0}/a\0", "{0}/\x01", "{0}/\x7f", "{0}/\ufff0", "/{0}")


@dataclass(frozen=True)
class Ask:
    """One request, as bytes and in words."""

    op: int
    body: bytes
    words: str
    watch: tuple[str, str] | None = None
    """The kind of a watch that it sets, and the path."""


@dataclass(frozen=True)
class Burst:
    """An actor sends some requests without waiting in between."""

    actor: int
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Leave:
    """An actor closes its session, and opens another one."""

    actor: int


@dataclass(frozen=True)
class Move:
    """An actor loses its connection, others act, and it resumes its session at another server."""

    actor: int
    replica: int
    missed: tuple[Burst, ...]


Step = Burst | Leave | Move


class Walk:
    """The steps of a seed, below a root."""

    def __init__(self, seed: int, root: str, operations: int) -> None:
        self._random = random.Random(seed)
        self._root = root
        self._left = operations

    def steps(self) -> Iterator[Step]:
        while self._left > 0:
            chance = self._random.random()
            actor = self._random.randrange(ACTORS)
            if chance < 0.04:
                yield Leave(actor)
            elif chance < 0.1:
                others = [other for other in range(ACTORS) if other != actor]
                missed = tuple(self._burst(self._random.choice(others)) for _ in range(self._random.randint(1, 4)))
                yield Move(actor, self._random.randrange(3), missed)
            else:
                yield self._burst(actor)

    def _burst(self, actor: int) -> Burst:
        asks: list[Ask] = []
        for _ in range(self._random.randint(1, 8)):
            asks.append(self._ask())
            if asks[-1].op == SET_ACL:
                break  # ZooKeeper judges what is right behind a setACL by the list before it
        self._left -= len(asks)
        return Burst(actor, tuple(asks))

    def _path(self) -> str:
        if self._random.random() < 0.03:
            return self._random.choice(WRONG_PATHS).format(self._root)
        depth = self._random.choice((0, 1, 1, 1, 1, 2, 2))
        return self._root + "".join(f"/{self._name()}" for _ in range(depth))

    def _name(self) -> str:
        return self._random.choice(("a", "a", "a", "b", "b", "s-0000000000", "0000000001"))

    def _value(self) -> bytes | None:
        return self._random.choice((b"", b"x", b"value", None, bytes(300), "ünïcödé".encode()))

    def _version(self) -> int:
        return self._random.choice((-1, -1, -1, -1, -1, 0, 0, 1, 5, -2))

    def _list(self) -> tuple[tuple[int, str, str], ...]:
        if self._random.random() < 0.03:
            return self._random.choice(WRONG_LISTS)
        return OPEN if self._random.random() < 0.8 else self._random.choice(LISTS)

    def _creating(self) -> tuple[str, bytes | None, int, tuple[tuple[int, str, str], ...]]:
        flags = (
            self._random.choice((0, 0, 0, 1, 2, 3)) if self._random.random() < 0.97 else self._random.choice((7, -1))
        )
        path = self._path()
        if flags in (2, 3) and self._random.random() < 0.7:
            path = path + self._random.choice(("/", "/s-"))
        return path, self._value(), flags, self._list()

    def _change(self, kind: int) -> tuple[bytes, str]:
        """The body of a create, delete, setData or check, and its words."""
        if kind in (CREATE, CREATE2):
            path, value, flags, entries = self._creating()
            return create(path, value, flags, entries), f"{path!r} {value!r:.20} flags {flags} {entries}"
        path, version = self._path(), self._version()
        if kind == SET:
            value = self._value()
            return set_data(path, value, version), f"{path!r} {value!r:.20} version {version}"
        return versioned(path, version), f"{path!r} version {version}"

    def _ask(self) -> Ask:
        op = self._random.choices(
            tuple(WEIGHTS),
            tuple(WEIGHTS.values()),
        )[0]
        name = NAMES[op]
        if op in (CREATE, CREATE2, DELETE, SET):
            body, words = self._change(op)
            return Ask(op, body, f"{name} {words}")
        if op == MULTI:
            kinds = [
                self._random.choice((CREATE, CREATE, DELETE, SET, CHECK)) for _ in range(self._random.randint(0, 4))
            ]
            parts = [(kind, *self._change(kind)) for kind in kinds]
            words = "; ".join(f"{NAMES[kind]} {words}" for kind, _, words in parts)
            return Ask(op, multi(*((kind, body) for kind, body, _ in parts)), f"multi [{words}]")
        path = self._path()
        if op == MULTI_READ:
            kinds = [self._random.choice((GET, CHILDREN)) for _ in range(self._random.randint(0, 3))]
            paths = [self._path() for _ in kinds]
            words = "; ".join(f"{NAMES[kind]} {path!r}" for kind, path in zip(kinds, paths, strict=True))
            parts_read = [(kind, read(path)) for kind, path in zip(kinds, paths, strict=True)]
            return Ask(op, multi(*parts_read), f"multiRead [{words}]")
        if op == SET_ACL:
            entries, version = self._list(), self._version()
            return Ask(op, set_acl(path, entries, version), f"{name} {path!r} {entries} version {version}")
        if op in (GET_ACL, SYNC, EPHEMERALS, COUNT):
            return Ask(op, text(path), f"{name} {path!r}")
        watch = self._random.random() < 0.7
        kind = {EXISTS: "exist", GET: "data", CHILDREN: "child", CHILDREN2: "child"}[op]
        return Ask(op, read(path, watch), f"{name} {path!r} watch {watch}", (kind, path) if watch else None)


@dataclass
class Line:
    """Something that an actor was told, and why."""

    actor: int
    cause: str
    told: tuple[object, ...]


class Names:
    """Numbers of one system, renamed in order of appearance."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], str] = {}
        self._times: dict[int, int] = {}

    def name(self, kind: str, number: int) -> str | int:
        if number <= 0 and kind == "zxid":
            return number
        if number == 0:
            return 0
        return self._names.setdefault((kind, number), f"{kind}-{len(self._names)}")

    def stat(self, stat: dict[str, int]) -> dict[str, str | int]:
        """Zxids and the owner renamed; the times only have to belong to their zxids."""
        renamed: dict[str, str | int] = dict(stat)
        for zxid, clock in (("czxid", "ctime"), ("mzxid", "mtime")):
            assert self._times.setdefault(stat[zxid], stat[clock]) == stat[clock], f"{clock} is not that of {zxid}"
            renamed[zxid] = self.name("zxid", stat[zxid])
            del renamed[clock]
        assert stat["mzxid"] >= stat["czxid"] <= stat["pzxid"]
        renamed["pzxid"] = self.name("zxid", stat["pzxid"])
        renamed["ephemeral_owner"] = self.name("session", stat["ephemeral_owner"])
        return renamed


WRITES = (CREATE, CREATE2, DELETE, SET, SET_ACL)


@dataclass
class Actor:
    wire: Wire
    seen: int = 0
    watches: set[tuple[str, str]] = field(default_factory=set)


class Player:
    """Plays a walk on one system, and keeps what every actor was told."""

    def __init__(self, system: Peer) -> None:
        self._system = system
        self._names = Names()
        self.lines: list[Line] = []
        self._probes = [Wire(port) for port in system.ports]
        self._pinged = time.monotonic()
        self._actors = [Actor(Wire(system.ports[number % 3])) for number in range(ACTORS)]
        for number in range(ACTORS):
            self._log_in(number)

    def end(self) -> None:
        for wire in (*self._probes, *(actor.wire for actor in self._actors)):
            wire.drop()

    def play(self, step: Step) -> None:
        if time.monotonic() > self._pinged + PROBES_PINGED_S:
            self._pinged = time.monotonic()
            for probe in self._probes:
                probe.ping()
        if isinstance(step, Burst):
            self._burst(step)
        elif isinstance(step, Leave):
            self._leave(step.actor)
        else:
            self._move(step)

    def _log_in(self, number: int) -> None:
        if CREDENTIALS[number]:
            reply = self._actors[number].wire.ask(AUTH, auth("digest", CREDENTIALS[number]), -4)
            self._note(number, "auth", ("reply", reply.err, reply.body))

    def _note(self, number: int, cause: str, told: tuple[object, ...]) -> None:
        self.lines.append(Line(number, cause, told))

    def _take(self, number: int, cause: str) -> Reply:
        """Read up to the next reply; note the events before it."""
        actor = self._actors[number]
        while not isinstance(frame := actor.wire.receive_any(), Reply):
            self._event(number, cause, frame)
        assert frame.zxid >= actor.seen, f"after {actor.seen:#x} comes {frame.zxid:#x}"
        actor.seen = frame.zxid
        return frame

    def _event(self, number: int, cause: str, event: Event) -> None:
        kind, state, path = event
        name = (path or b"").decode()
        gone = {1: ("exist", "data"), 2: ("exist", "data", "child"), 3: ("exist", "data"), 4: ("child",)}[kind]
        self._actors[number].watches.difference_update((table, name) for table in gone)
        self._note(number, f"{cause}, event", (kind, state, name))

    def _burst(self, burst: Burst) -> None:
        actor = self._actors[burst.actor]
        xids = [actor.wire.send(ask.op, ask.body) for ask in burst.asks]
        for ask, xid in zip(burst.asks, xids, strict=True):
            reply = self._take(burst.actor, ask.words)
            assert reply.xid == xid
            if ask.watch is not None and (reply.err == 0 or (reply.err == -101 and ask.op == EXISTS)):
                kind, path = ask.watch
                actor.watches.add(("data" if kind == "exist" and reply.err == 0 else kind, path))
            self._note(burst.actor, ask.words, ("reply", reply.err, *self._decode(ask.op, reply)))
        self._settle(burst.asks[-1].words if len(burst.asks) == 1 else f"{len(burst.asks)} requests")

    def _decode(self, op: int, reply: Reply) -> tuple[object, ...]:
        reader = Reader(reply.body)
        if reply.err != 0:
            return (reader.rest,)
        told: tuple[object, ...]
        if op in (CREATE, SYNC):
            told = (reader.text(),)
        elif op == CREATE2:
            told = (reader.text(), self._stat(reader))
        elif op in (EXISTS, SET, SET_ACL):
            told = (self._stat(reader),)
        elif op == GET:
            told = (reader.text(), self._stat(reader))
        elif op in (CHILDREN, EPHEMERALS):
            told = (sorted(reader.texts(), key=repr),)
        elif op == CHILDREN2:
            told = (sorted(reader.texts(), key=repr), self._stat(reader))
        elif op == GET_ACL:
            told = (reader.acl(), self._stat(reader))
        elif op == COUNT:
            told = (reader.int(),)
        elif op in (MULTI, MULTI_READ):
            told = tuple(self._results(reader))
        else:
            told = ()
        assert reader.rest == b"", reader.rest
        if op in WRITES:
            told = (self._names.name("zxid", reply.zxid), *told)
        return told

    def _stat(self, reader: Reader) -> dict[str, str | int]:
        return self._names.stat(reader.stat())

    def _results(self, reader: Reader) -> Iterator[object]:
        while True:
            kind, done, err = reader.int(), reader.bool(), reader.int()
            if done:
                yield kind, err
                return
            if kind == -1:
                yield "error", err, reader.int()
            elif kind == CREATE:
                yield "create", err, reader.text()
            elif kind == SET:
                yield "setData", err, self._stat(reader)
            elif kind == GET:
                yield "getData", err, reader.text(), self._stat(reader)
            elif kind == CHILDREN:
                yield "getChildren", err, sorted(reader.texts(), key=repr)
            else:
                yield NAMES[kind], err

    def _settle(self, cause: str) -> None:
        """Everybody hears of what has happened so far: its events come before the reply to a sync.

        Before that to a second one, at the latest: ZooKeeper's workers may let the first reply overtake an event of
        another session's write.
        """
        connected = [number for number, actor in enumerate(self._actors) if actor.wire.socket.fileno() >= 0]
        at = len(self.lines)
        for _ in range(2):
            for number in connected:
                self._actors[number].wire.send(SYNC, text("/"))
            for number in connected:
                self._take(number, cause)
        self.lines[at:] = sorted(self.lines[at:], key=lambda line: line.actor)

    def _leave(self, number: int) -> None:
        self._close(number)
        self._actors[number] = Actor(Wire(self._system.ports[number % 3]))
        self._log_in(number)

    def _close(self, number: int) -> None:
        wire = self._actors[number].wire
        at = len(self.lines)
        wire.send(CLOSE)
        reply = self._take(number, "close")
        self._note(number, "close", ("reply", reply.err, reply.body))
        wire.wait_closed()
        wire.drop()
        self._settle(f"actor {number} closed its session")
        # In which order the ephemerals of a session go is left open.
        self.lines[at:] = sorted(self.lines[at:], key=lambda line: (line.actor, repr(line.told)))

    def _move(self, step: Move) -> None:
        actor = self._actors[step.actor]
        actor.wire.drop()
        for burst in step.missed:
            self._burst(burst)
        for probe in self._probes:
            probe.ask(SYNC, text("/"))
        old = actor.wire
        actor.wire = Wire(
            self._system.ports[step.replica], session=old.session, password=old.password or b"", seen=actor.seen
        )
        assert actor.wire.session == old.session
        self._log_in(step.actor)
        tables = {
            kind: sorted(path for table, path in actor.watches if table == kind) for kind in ("data", "exist", "child")
        }
        body = set_watches(actor.seen, **tables)
        cause = f"setWatches {tables} after {len(step.missed)} bursts"
        at = len(self.lines)
        actor.wire.send(SET_WATCHES, body, -8)
        reply = self._take(step.actor, cause)
        # What was deleted is told once here, and once for each of two watches there, which no client can tell apart.
        told = self.lines[at:]
        self.lines[at:] = [line for number, line in enumerate(told) if line.told[0] != 2 or line not in told[:number]]
        self._note(step.actor, cause, ("reply", reply.xid, reply.err, reply.body))
        self._settle(cause)
