"""Simulated clients that speak the protocol's bytes, move between replicas, and keep a history for the judges.

A client does one thing at a time: read or write a register, take a lock and write under it, watch a znode; and, in
`_loads`, what concerns several registers, who may see a znode, and watches that stay.
Values are unique, so that a write can be told from every other one.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from synod.base import MILLISECOND, Micros
from synod.wire import (
    CREATE_EPHEMERAL_SEQUENTIAL,
    ERR_NO_NODE,
    ERR_NOT_READ_ONLY,
    EVENT_CHILDREN_CHANGED,
    EVENT_CREATED,
    EVENT_DATA_CHANGED,
    EVENT_DELETED,
    EVENT_NONE,
    OP_PING,
    XID_NOTIFICATION,
    XID_PING,
    XID_SET_WATCHES,
    ConnectRequest,
    Create,
    Delete,
    FrameSplitter,
    GetChildren,
    GetData,
    Reader,
    ReplyHeader,
    Request,
    SetData,
    SetWatches,
    Stat,
    WatcherEvent,
    decode_connect_response,
    decode_reply,
    encode_connect_request,
    frame,
    framed,
    take_children_stat,
    take_data,
    take_event,
    take_path_stat,
    take_stat,
)

from ._checkers import Event, Holding, Seen
from ._linear import NEVER, Attempt
from ._loads import HIDDEN, LastingWatches, Secrets, Transactions
from ._transactions import Transaction

if TYPE_CHECKING:
    from ._world import World

LOCK: Final = "/lock"
THINK: Final = 60 * MILLISECOND
ANSWER_PATIENCE: Final = 6_000 * MILLISECOND

Answer = Callable[[ReplyHeader | None, Reader], None]


class Client:
    """One client and its session."""

    def __init__(self, world: World, id_: int) -> None:
        self.world = world
        self.id = id_
        self.rng = random.Random(world.rng.getrandbits(64))
        self.conn = 0
        self.machine = 0
        self.session = 0
        self.password = bytes(16)
        self.timeout_ms = world.plan.session_timeout_ms
        self.last_zxid = 0
        self.paused_until: Micros = 0
        self.lease_until: Micros = 0
        self.finished = 0
        self.histories: dict[str, list[Attempt]] = {}
        self.seen: list[Seen] = []
        self._writes = 0
        self._attempts = 0
        self._splitter = FrameSplitter(1 << 24)
        self._greeted = False
        self._connect_sent: Micros = 0
        self._xid = 0
        self._waiting: list[tuple[int, Answer]] = []
        self._asked_at: Micros = 0
        self._pings: list[Micros] = []
        self._pinged: Micros = 0
        self._watched: dict[str, int] = {}
        self._contender = ""
        self._token = 0
        self._held_since: Micros = 0
        self._holding = False
        # What it does besides: see `_loads`.
        self._roll = world.stream(f"loads {id_}")
        self.transactions = Transactions(self)
        self.secrets = Secrets(self)
        self.lasting = LastingWatches(self)

    # -- connection ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Connect, ping, begin something new, or lose patience."""
        now = self.world.now
        again = self.rng.randrange(5_000, 30_000)
        if self.world.quiet and self._greeted and self.conn and not self._waiting:
            again = max(again, self._pinged + self.timeout_ms * MILLISECOND // 3 - now)  # idle: only a ping is due
        self.world.after(again, "client", self.id)
        if now < self.paused_until:
            return
        self._check_lease()
        if self.conn == 0:
            self._dial()
            return
        if not self._greeted:
            if now - self._connect_sent > self.timeout_ms * MILLISECOND:
                self.hang_up()
            return
        if now - self._pinged >= self.timeout_ms * MILLISECOND // 3:
            self._pinged = now
            self._pings.append(now)
            self._send(frame(XID_PING, OP_PING))
        if self._waiting and now - self._asked_at > ANSWER_PATIENCE:
            self.hang_up()
        elif not self._waiting and now - self._asked_at > THINK and not self.world.quiet:
            self._begin()

    def _dial(self) -> None:
        ids = [
            m.id for m in self.world.machines.values() if m.running and (self.id, m.id) not in self.world.client_cuts
        ]
        if not ids:
            return
        self.machine = self.rng.choice(ids)
        self.conn = self.world.open_client(self, self.machine)
        self._splitter = FrameSplitter(1 << 24)
        self._greeted = False
        self._connect_sent = self.world.now
        self._pings.clear()
        self.secrets.connected()
        request = ConnectRequest(self.last_zxid, self.timeout_ms, self.session, self.password)
        self._send(framed(encode_connect_request(request)))

    def hang_up(self) -> None:
        """Close our end."""
        if self.conn:
            self.world.hang_up(self)
            self.lost()

    def crash(self) -> None:
        """Its process dies and another begins: nobody ends its session, and what it held stays for a while."""
        self.hang_up()
        self._let_go(self.world.now)
        self.lease_until = 0
        self.paused_until = 0
        self._forget_session()

    def lost(self) -> None:
        """The connection is gone: what was under way has an unknown outcome."""
        self.conn = 0
        self.lasting.lost()
        waiting, self._waiting = self._waiting, []
        for _, answer in waiting:
            answer(None, Reader(b""))

    def _send(self, data: bytes) -> None:
        self.world.from_client(self, data)

    def receive(self, data: bytes) -> None:
        """Bytes of the replica."""
        for reply in self._splitter.feed(data):
            if not self._greeted:
                self._greet(reply)
            else:
                self._reply(reply)

    def _greet(self, reply: bytes) -> None:
        response = decode_connect_response(reply)
        self._greeted = True
        if response.session_id == 0:
            # Clocks that drift may judge a lease this much longer than the cell's.
            drift = self.timeout_ms * self.world.plan.drift // 1_000 + 1
            self.world.oracles.session_ended(self.id, self.session, early=self.lease_until - drift - self.world.now)
            self._session_over()
            self.hang_up()
            return
        if self.session == 0:
            self.world.count("session")
        self.session, self.password = response.session_id, response.password
        self.world.oracles.session_served(self.id, self.session)
        self.lease_until = max(self.lease_until, self._connect_sent + self.timeout_ms * MILLISECOND)
        self._pinged = self._connect_sent
        if self._watched or self.lasting:
            persistent, recursive = self.lasting.set_anew if self.lasting else (None, None)
            request = SetWatches(self.last_zxid, tuple(self._watched), (), (), persistent, recursive)
            self._send(frame(XID_SET_WATCHES, request.op, request.encode()))

    def _session_over(self) -> None:
        self.world.count("session lost")
        self._let_go(self.world.now)
        self._forget_session()

    def _forget_session(self) -> None:
        self.session = 0
        self.password = bytes(16)
        self.last_zxid = 0
        self._contender = ""
        self._watched.clear()
        self.lasting.forget()
        self.seen.append(Seen("reply", "", 0))
        self.world.watch_break(self)

    def _reply(self, data: bytes) -> None:
        header, reader = decode_reply(data)
        if header.xid == XID_NOTIFICATION:
            event = take_event(reader)
            if event.type != EVENT_NONE:
                self._hear(event, header.zxid)
            return
        if header.zxid < self.last_zxid:
            self.world.violated(f"client {self.id} has seen zxid {self.last_zxid}, and then {header.zxid}")
        self.last_zxid = header.zxid
        if header.xid == XID_PING:
            if self._pings:
                self.lease_until = max(self.lease_until, self._pings.pop(0) + self.timeout_ms * MILLISECOND)
            return
        if header.xid == XID_SET_WATCHES:
            if header.err == 0:
                self.lasting.stands(header.zxid)
            return
        if not self._waiting or self._waiting[0][0] != header.xid:
            self.world.violated(f"client {self.id} got an answer to request {header.xid} out of order")
            return
        _, answer = self._waiting.pop(0)
        answer(header, reader)

    def _hear(self, event: WatcherEvent, zxid: int) -> None:
        """An event; -1 is the zxid of one that this connection has missed."""
        if 0 <= zxid <= self.last_zxid:
            self.world.violated(
                f"client {self.id} was told of {event.path} at zxid {zxid} after an answer of zxid {self.last_zxid}"
            )
        lasting = self.lasting.hear(event, zxid)
        if event.path == HIDDEN:
            self.secrets.heard(zxid)
        if event.path in self._watched and event.type != EVENT_CHILDREN_CHANGED:
            del self._watched[event.path]
            self.seen.append(Seen("event", event.path, zxid))
            self.world.count("watch event")
        elif not lasting:
            self.world.violated(f"client {self.id} got an event for {event.path}, which it does not watch")

    def ask(self, request: Request, answer: Answer) -> None:
        """Send a request; `answer` is called with what comes back, or with None when the connection is gone."""
        self._xid += 1
        self.ask_raw(self._xid, request.op, request.encode(), answer)

    def ask_raw(self, xid: int, op: int, record: bytes, answer: Answer) -> None:
        """The same with another xid than the next."""
        self._asked_at = self.world.now
        self._waiting.append((xid, answer))
        self._send(frame(xid, op, record))

    def make(self, path: str) -> None:
        """Create a znode that is not there yet; whether that works counts as nothing, its value is empty."""
        self.ask(Create(path, b"", with_stat=True), lambda _h, _r: None)

    # -- work ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        special = self._roll.random()
        if special < 0.18:
            load = self.transactions if special < 0.1 else self.secrets if special < 0.16 else self.lasting
            load.begin()
            return
        roll = self.rng.random()
        path = f"/r{self.rng.randrange(self.world.plan.keys)}"
        if self._holding:
            if roll < 0.15:
                self._release()
            else:
                self._write(path)
        elif self._contender and roll < 0.4:
            self._look_at_queue()
        elif roll < 0.6:
            self._write(path)
            if self.rng.random() < 0.3:  # in the pipe behind the write: answered in order, from after it
                self._read(f"/r{self.rng.randrange(self.world.plan.keys)}")
        elif roll < 0.9 or self._contender:
            self._read(path)
        else:
            self._contend()

    def some_path(self, rng: random.Random) -> str:
        """The path of some register."""
        return f"/r{rng.randrange(self.world.plan.keys)}"

    def new_value(self) -> str:
        """A value that nobody has written before."""
        self._writes += 1
        return f"{self.id}.{self._writes}"

    def version(self, path: str) -> int:
        """The last version of a register that this client has seen."""
        return max((a.version for a in self.histories.get(path, ())[-5:] if not a.open), default=0)

    @property
    def digest(self) -> str:
        """Who it is, as a list names it."""
        name = f"c{self.id}"
        return f"{name}:{base64.b64encode(hashlib.sha1(f'{name}:secret'.encode(), usedforsecurity=False).digest()).decode()}"

    def transacted(self, transaction: Transaction) -> None:
        """Something has a place in the order, or may have."""
        self.world.transactions.append(transaction)

    def record(self, path: str, kind: Literal["read", "write"], value: str, called: Micros, stat: Stat | None) -> None:
        """Keep what became of a read or a write of a register for its judges."""
        version, zxid, returned = (-1, 0, NEVER) if stat is None else (stat.version, stat.mzxid, self.world.now)
        self._attempts += 1
        self.histories.setdefault(path, []).append(
            Attempt(self.id << 32 | self._attempts, self.id, kind, value, version, zxid, 0, called, returned)
        )
        if stat is not None and stat.version:
            self.world.changes.add(Event(stat.mzxid, EVENT_DATA_CHANGED, path))

    def _write(self, path: str) -> None:
        value = self.new_value()
        called = self.world.now

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None:
                self.record(path, "write", value, called, None)
                self.transacted(Transaction(self.id, 0, called, NEVER, writes=((path, -1, value),)))
            elif header.err == 0:
                stat = take_stat(reader)
                self.record(path, "write", value, called, stat)
                self.saw(path, stat.mzxid)
                writes = ((path, stat.version, value),)
                self.transacted(Transaction(self.id, header.zxid, called, self.world.now, writes=writes))
                self.finished += 1
            elif header.err == ERR_NO_NODE:
                self.make(path)
            elif header.err == ERR_NOT_READ_ONLY:
                self.world.count("write refused")  # definite: it must never show
            else:
                self.world.refused(self, header.err)

        self.ask(SetData(path, value.encode()), answer)

    def _read(self, path: str) -> None:
        called = self.world.now
        arm = path not in self._watched and not self.world.plan.sequential and self.rng.random() < 0.5

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None or header.err not in (0, ERR_NO_NODE):
                return
            self.finished += 1
            if header.err == ERR_NO_NODE:
                return
            data, stat = take_data(reader)
            value = data.decode()
            self.record(path, "read", value, called, stat)
            self.saw(path, stat.mzxid)
            reads = ((path, stat.version, stat.mzxid),)
            self.transacted(Transaction(self.id, header.zxid, called, self.world.now, reads=reads, values=(value,)))
            if arm:
                self._watched[path] = stat.mzxid
                self.seen.append(Seen("armed", path, stat.mzxid))

        self.ask(GetData(path, arm), answer)

    def saw(self, path: str, zxid: int) -> None:
        """A reply has shown a znode as of its last change."""
        self.seen.append(Seen("reply", path, zxid))

    def armed(self) -> dict[str, int]:
        """The watches that wait for an event, each with the zxid it was set at; none without a connection."""
        heard = self.conn and self._greeted and self.world.now > self.paused_until
        return dict(self._watched) if heard else {}

    # -- the lock ------------------------------------------------------------------------------------------

    def _contend(self) -> None:
        session = self.session

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None:
                self.world.count("contender unknown")  # it may be there; it goes with the session
                return
            if header.err == ERR_NO_NODE:
                self.make(LOCK)
            elif header.err == 0:
                contender, stat = take_path_stat(reader)
                self._came_or_went(contender, EVENT_CREATED, stat.czxid)
                if session == self.session:
                    self._contender, self._token = contender, stat.czxid
                    self.finished += 1

        self.ask(Create(f"{LOCK}/c-", b"", flags=CREATE_EPHEMERAL_SEQUENTIAL, with_stat=True), answer)

    def _look_at_queue(self) -> None:
        session, me = self.session, self._contender

        def answer(header: ReplyHeader | None, reader: Reader) -> None:
            if header is None or header.err or session != self.session or me != self._contender:
                return
            names, _ = take_children_stat(reader)
            mine = me.rpartition("/")[2]
            if mine in names and min(names, key=lambda name: name[-10:]) == mine and not self.world.plan.sequential:
                self._holding = True
                self._held_since = self.world.now
                self.world.count("lock held")
                self._check_lease()
            self.finished += 1

        self.ask(GetChildren(LOCK, with_stat=True), answer)

    def _release(self) -> None:
        contender, self._contender = self._contender, ""
        self._let_go(self.world.now)

        def answer(header: ReplyHeader | None, _reader: Reader) -> None:
            if header is not None and header.err == 0:
                self._came_or_went(contender, EVENT_DELETED, header.zxid)

        self.ask(Delete(contender), answer)

    def _came_or_went(self, contender: str, event: int, zxid: int) -> None:
        self.world.changes.update((Event(zxid, event, contender), Event(zxid, EVENT_CHILDREN_CHANGED, LOCK)))

    def _check_lease(self) -> None:
        """A client believes in its lock no longer than its lease."""
        if self._holding and self.world.now >= self.lease_until:
            self._let_go(self.lease_until)

    def _let_go(self, until: Micros) -> None:
        if self._holding:
            self._holding = False
            until = min(until, self.lease_until)
            if until > self._held_since:
                self.world.holdings.append(Holding(LOCK, self.id, self._token, self._held_since, until))
            self._contender = self._contender if self.conn else ""

    def finish(self) -> None:
        """The run is over: close what is still open."""
        self.lasting.lost()
        self._let_go(self.world.now)
        for _, answer in self._waiting:
            answer(None, Reader(b""))
        self._waiting.clear()
