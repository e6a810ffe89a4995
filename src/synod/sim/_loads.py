"""What simulated clients do besides single registers, locks and watches that fire once.

Transactions over several registers, a znode whose access control list they change, and watches that stay. Each keeps
what its judge needs: `_transactions.serializable`, `_access.admitted`, `_checkers.watches_complete`.

Chance is each load's own, so that one more draw here changes nothing elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synod.base import Micros
from synod.wire import (
    ACL,
    CREATOR_ACL,
    ERR_BAD_VERSION,
    ERR_INVALID_ACL,
    ERR_NO_AUTH,
    ERR_NO_NODE,
    ERR_NOT_READ_ONLY,
    OP_AUTH,
    OP_ERROR,
    OPEN_ACL,
    PERM_ALL,
    PERM_READ,
    WATCH_PERSISTENT,
    WATCH_PERSISTENT_RECURSIVE,
    WATCHER_PERSISTENT,
    WATCHER_PERSISTENT_RECURSIVE,
    XID_AUTH,
    AddWatch,
    AuthRequest,
    Check,
    GetACL,
    GetData,
    Multi,
    MultiRead,
    Reader,
    RemoveWatches,
    ReplyHeader,
    SetACL,
    SetData,
    Stat,
    WatcherEvent,
    take_acl,
    take_data,
    take_multi,
    take_stat,
)

from ._access import OPEN, Access, AccessOutcome, Kind, Rule
from ._checkers import Event, Span
from ._linear import NEVER
from ._transactions import Transaction

if TYPE_CHECKING:
    from ._clients import Client

HIDDEN: Final = "/hidden"
NO_SUCH_VERSION: Final = 1_000_000


class Transactions:
    """Several registers at once: written together, written if another has a version, read together."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rng = client.world.stream(f"transactions {client.id}")
        self._paths = [f"/r{k}" for k in range(max(2, client.world.plan.keys))]

    def begin(self) -> None:
        """Ask for one."""
        one, other = self._rng.sample(self._paths, 2)
        roll = self._rng.random()
        if roll < 0.35:
            self._write({one: self._client.new_value(), other: self._client.new_value()}, None)
            if self._rng.random() < 0.5:
                self._read(other, one)  # in the pipe behind it
        elif roll < 0.6:
            self._write({one: self._client.new_value()}, (other, self._client.version(other)))
        elif roll < 0.7:
            # Never granted, and tried behind a write that would be: it must leave no trace.
            self._write({one: self._client.new_value()}, (other, NO_SUCH_VERSION))
        else:
            self._read(one, other)

    def _write(self, values: dict[str, str], demand: tuple[str, int] | None) -> None:
        client = self._client
        called = client.world.now
        writes = [SetData(path, value.encode()) for path, value in values.items()]
        check = [] if demand is None else [Check(*demand)]
        hopeless = demand is not None and demand[1] == NO_SUCH_VERSION
        demands = () if demand is None else (demand,)

        def unknown() -> None:
            wrote = tuple((path, -1, value) for path, value in values.items())
            client.transacted(Transaction(client.id, 0, called, NEVER, writes=wrote, demands=demands))
            for path, value in values.items():
                client.record(path, "write", value, called, None)

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None:
                if not hopeless:
                    unknown()
                return
            if header.err == ERR_NOT_READ_ONLY:
                client.world.count("write refused")
                return
            if header.err:
                client.world.refused(client, header.err)
                return
            results = take_multi(reader)
            errors = {result.err for result in results if result.op == OP_ERROR}
            client.finished += 1
            if errors:
                self._failed(errors, header.zxid, called, demands, tuple(values))
                return
            if hopeless:
                client.world.violated(f"client {client.id}'s multi was granted at zxid {header.zxid}: {demand}")
            client.world.count("multi")
            stats = [result.value for result in results if isinstance(result.value, Stat)]
            wrote = []
            for (path, value), stat in zip(values.items(), stats, strict=True):
                client.record(path, "write", value, called, stat)
                client.saw(path, stat.mzxid)
                wrote.append((path, stat.version, value))
            zxids = {stat.mzxid for stat in stats}
            if zxids != {header.zxid}:
                client.world.violated(
                    f"client {client.id}'s multi has zxid {header.zxid}, and its parts {sorted(zxids)}"
                )
            client.transacted(
                Transaction(client.id, header.zxid, called, client.world.now, writes=tuple(wrote), demands=demands)
            )

        client.ask(Multi((*writes, *check) if hopeless else (*check, *writes)), answer)

    def _failed(
        self, errors: set[int], zxid: int, called: int, demands: tuple[tuple[str, int], ...], paths: tuple[str, ...]
    ) -> None:
        client = self._client
        if ERR_NO_NODE in errors:
            for path in paths + tuple(path for path, _ in demands):
                client.make(path)
        elif ERR_BAD_VERSION in errors and demands:
            client.world.count("multi refused")
            client.transacted(Transaction(client.id, zxid, called, client.world.now, demands=demands, refused=True))
        else:
            client.world.violated(f"client {client.id}'s multi failed with {sorted(errors)}")

    def _read(self, *paths: str) -> None:
        client = self._client
        called = client.world.now

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None:
                return
            if header.err:
                client.world.refused(client, header.err)
                return
            reads, values = [], []
            for path, result in zip(paths, take_multi(reader), strict=True):
                if isinstance(result.value, tuple):
                    data, stat = result.value
                    assert isinstance(data, bytes)
                    assert isinstance(stat, Stat)
                    client.record(path, "read", data.decode(), called, stat)
                    client.saw(path, stat.mzxid)
                    reads.append((path, stat.version, stat.mzxid))
                    values.append(data.decode())
            client.world.count("multi read")
            client.transacted(
                Transaction(client.id, header.zxid, called, client.world.now, reads=tuple(reads), values=tuple(values))
            )
            client.finished += 1

        client.ask(MultiRead(tuple(GetData(path) for path in paths)), answer)


class Secrets:
    """A znode that clients close to each other and open again, and at which all of them knock."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rng = client.world.stream(f"secrets {client.id}")
        self._aversion = 0
        self._asked = False
        self.identified = False

    def connected(self) -> None:
        """A connection begins as nobody: who proved something on another one has to do so again."""
        self._asked = self.identified = False

    def begin(self) -> None:
        """Knock."""
        if not self._asked:
            self._asked = True
            if self._rng.random() < 0.7:
                self._prove()
        roll = self._rng.random()
        if roll < 0.35:
            self._change()
        elif roll < 0.6:
            self._write()
        elif roll < 0.9:
            self._read()
        else:
            self._read_list()

    def _prove(self) -> None:
        def answer(header: ReplyHeader | None, _reader: Reader) -> None:
            self.identified = header is not None and header.err == 0

        record = AuthRequest("digest", f"c{self._client.id}:secret".encode()).encode()
        self._client.ask_raw(XID_AUTH, OP_AUTH, record, answer)

    def heard(self, zxid: int) -> None:
        """A watch told of a change."""
        self._note("event", "done", zxid, None)

    def _note(
        self,
        kind: Kind,
        outcome: AccessOutcome,
        zxid: int,
        called: Micros | None,
        *,
        aversion: int = -1,
        expected: int = -1,
        rule: Rule | None = None,
    ) -> None:
        client = self._client
        client.world.accesses.append(Access(client.id, self.identified, kind, outcome, zxid, aversion, expected, rule))
        if called is not None:
            client.transacted(Transaction(client.id, zxid, called, client.world.now))

    def _refused(self, header: ReplyHeader, kind: Kind, called: Micros, expected: int = -1) -> bool:
        """Whether it was, as it may be."""
        client = self._client
        if header.err == 0:
            return False
        if header.err == ERR_NO_NODE:
            client.make(HIDDEN)
        elif header.err == ERR_NO_AUTH:
            client.world.count("acl refused")
            self._note(kind, "no auth", header.zxid, called, expected=expected)
            client.finished += 1
        elif header.err == ERR_BAD_VERSION and expected >= 0:
            self._note(kind, "bad version", header.zxid, called, expected=expected)
            client.finished += 1
        elif header.err == ERR_NOT_READ_ONLY:
            client.world.count("write refused")
        else:
            client.world.refused(client, header.err)
        return True

    def _change(self) -> None:
        client = self._client
        expected = self._aversion
        rule: Rule
        acl: tuple[ACL, ...]
        called = client.world.now
        roll = self._rng.random()
        if roll < 0.4:
            rule, acl = OPEN, OPEN_ACL
        elif roll < 0.6:
            rule, acl = Rule(client.id, 0), CREATOR_ACL
        else:
            rule = Rule(client.id, PERM_READ if roll < 0.8 else 0)
            acl = (
                ACL(PERM_ALL, "digest", client.digest),
                *([ACL(PERM_READ, "world", "anyone")] if rule.others else []),
            )

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None:
                self._note("change", "unknown", 0, None, expected=expected, rule=rule)
            elif header.err == ERR_INVALID_ACL and acl is CREATOR_ACL and not self.identified:
                client.world.count("acl of nobody refused")
                client.finished += 1
            elif not self._refused(header, "change", called, expected):
                self._aversion = take_stat(reader).aversion
                client.world.count("acl changed")
                self._note("change", "done", header.zxid, called, aversion=self._aversion, expected=expected, rule=rule)
                client.finished += 1

        client.ask(SetACL(HIDDEN, acl, expected), answer)

    def _write(self) -> None:
        client = self._client
        value = client.new_value()
        called = client.world.now

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None:
                client.record(HIDDEN, "write", value, called, None)
            elif not self._refused(header, "write", called):
                stat = take_stat(reader)
                client.record(HIDDEN, "write", value, called, stat)
                self._let_in("write", header.zxid, called, stat)

        client.ask(SetData(HIDDEN, value.encode()), answer)

    def _read(self) -> None:
        client = self._client
        called = client.world.now

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is not None and not self._refused(header, "read", called):
                data, stat = take_data(reader)
                client.record(HIDDEN, "read", data.decode(), called, stat)
                self._let_in("read", header.zxid, called, stat)

        client.ask(GetData(HIDDEN), answer)

    def _read_list(self) -> None:
        called = self._client.world.now

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is not None and not self._refused(header, "read", called):
                entries, stat = take_acl(reader)
                self._let_in("read", header.zxid, called, stat, _rule(entries))

        self._client.ask(GetACL(HIDDEN), answer)

    def _let_in(self, kind: Kind, zxid: int, called: Micros, stat: Stat, rule: Rule | None = None) -> None:
        self._aversion = stat.aversion
        self._note(kind, "done", zxid, called, aversion=stat.aversion, rule=rule)
        self._client.finished += 1


def _rule(entries: tuple[ACL, ...]) -> Rule:
    """What a list says, as this load writes lists."""
    others = sum(entry.perms for entry in entries if entry.scheme == "world")
    owners = [int(entry.id.partition(":")[0][1:]) for entry in entries if entry.scheme == "digest"]
    return Rule(owners[0] if owners else 0, others)


class LastingWatches:
    """Watches that stay: on a register, on the lock, or on everything."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rng = client.world.stream(f"lasting watches {client.id}")
        self._wanted: dict[tuple[str, bool], Span | None] = {}
        self._heard = 0

    def begin(self) -> None:
        """Set one, or take one away."""
        if self._wanted and self._rng.random() < 0.6:
            self._remove(*self._rng.choice(list(self._wanted)))
            return
        roll = self._rng.random()
        path = (
            "/"
            if roll < 0.2
            else "/lock"
            if roll < 0.35
            else HIDDEN
            if roll < 0.5
            else self._client.some_path(self._rng)
        )
        recursive = path == "/" or self._rng.random() < 0.3
        self._add(path, recursive)

    @property
    def set_anew(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a new connection must ask for, as setWatches2 does: persistent ones, recursive ones."""
        here = list(self._wanted)
        return tuple(path for path, below in here if not below), tuple(path for path, below in here if below)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._wanted)

    def forget(self) -> None:
        """The session is over."""
        self.lost()
        self._wanted.clear()

    def lost(self) -> None:
        """The connection is gone: what happens now is not told."""
        until = max(self._client.last_zxid, self._heard - 1)
        for key, span in self._wanted.items():
            if span is not None:
                span.until = max(until, span.since)
                self._wanted[key] = None
        self._heard = 0

    def stands(self, zxid: int) -> None:
        """A new connection has them all again, from here on."""
        for path, recursive in self._wanted:
            self._wanted[path, recursive] = self._span(path, zxid, recursive=recursive)

    def _span(self, path: str, since: int, *, recursive: bool) -> Span:
        span = Span(self._client.id, path, recursive, since, since, [])
        self._client.world.spans.append(span)
        return span

    def hear(self, event: WatcherEvent, zxid: int) -> bool:
        """Whether one of them is for this event."""
        change = Event(zxid, event.type, event.path)
        mine = False
        for span in self._wanted.values():
            if span is not None and span.covers(change):
                span.told.append(change)
                mine = True
        if mine:
            self._heard = zxid
            self._client.world.count("lasting watch event")
        return mine

    def _add(self, path: str, recursive: bool) -> None:
        client = self._client

        def answer(header: ReplyHeader | None, _reader: Reader) -> None:
            if header is None:
                return
            if header.err:
                client.world.refused(client, header.err)
                return
            client.finished += 1
            if self._wanted.get((path, recursive)) is None:
                self._wanted[path, recursive] = self._span(path, header.zxid, recursive=recursive)

        client.ask(AddWatch(path, WATCH_PERSISTENT_RECURSIVE if recursive else WATCH_PERSISTENT), answer)

    def _remove(self, path: str, recursive: bool) -> None:
        client = self._client

        def answer(header: ReplyHeader | None, _reader: Reader) -> None:
            if header is None or (path, recursive) not in self._wanted:
                return
            span = self._wanted[path, recursive]
            if span is None:
                return  # not set anew yet: the answer may be either
            if header.err:
                client.world.violated(f"client {client.id} has no watch of {path}, says {header.err}; it has")
            del self._wanted[path, recursive]
            span.until = header.zxid
            client.world.count("lasting watch removed")
            client.finished += 1

        client.ask(RemoveWatches(path, WATCHER_PERSISTENT_RECURSIVE if recursive else WATCHER_PERSISTENT), answer)
