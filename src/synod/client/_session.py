"""A client's session with a cell, sans-IO: what to send, what came back, and how long the lease lasts.

The host (`_cell` here, a test, the simulator) dials when `dial()` names an address, feeds bytes in, sends what
`data_to_send()` hands out, calls `tick()` at `next_deadline()`, and carries out what `events()` says. No I/O, no
clock, no chance inside. Read `Session.submit`, then `received`, then `_drop` (what a lost connection does to
the requests under way) and `_answered_ping` (what a lease is).

    CONNECTING --greeted--> CONNECTED --lost--> SUSPENDED --greeted--> CONNECTED
                                |                   |
                                +----- refused -----+--> EXPIRED --> CONNECTING (a new session)
    any --close--> CLOSED

SUSPENDED is Chubby's jeopardy: the session lives on at the cell, but this client no longer hears so. Its
*lease* counts from the send time of the last answered ping: the cell cannot have begun to count later than
that, so what the session holds is safe until the lease ends, whatever the network does.
Ref: Burrows 2006 s2.8 (KeepAlives, jeopardy, grace period); Hunt 2010 s2.2 (FIFO client order).
Differs: Chubby's lease is told by the master; here it is the negotiated timeout less a margin for clock drift.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from synod.base import (
    MILLISECOND,
    SECOND,
    AuthFailed,
    BadArguments,
    ConnectionLoss,
    Micros,
    NotApplied,
    OperationTimeout,
    QuotaExceeded,
    RemoteProtocolError,
    Rng,
    SessionExpired,
    SynodError,
    UserError,
)
from synod.wire import (
    ERR_NO_NODE,
    ERR_SESSION_EXPIRED,
    EVENT_NONE,
    FRAME_BYTES_MAX,
    OK,
    OP_AUTH,
    OP_CLOSE_SESSION,
    OP_EXISTS,
    OP_PING,
    STATE_CLOSED,
    STATE_EXPIRED,
    XID_AUTH,
    XID_MAX,
    XID_MIN,
    XID_NOTIFICATION,
    XID_PING,
    XID_SET_WATCHES,
    AuthRequest,
    ConnectRequest,
    FrameSplitter,
    Reader,
    Request,
    WatcherEvent,
    decode_connect_response,
    decode_reply,
    encode_connect_request,
    encode_request,
    frame,
    framed,
    take_event,
)

from ._errors import Unavailable
from ._explain import describe, refused
from ._hosts import Address, Hosts
from ._watches import DATA, EXIST, Watcher, Watches

State = Literal["connecting", "connected", "suspended", "expired", "closed"]

RECORD_BYTES_MAX: Final = FRAME_BYTES_MAX - 8
"""What is left of a frame behind its header."""

REPLY_BYTES_MAX: Final = 16 * 1024 * 1024
"""A list of children has no limit of its own on the server; a client takes up to this much at once."""

LEASE_MARGIN_SHARE: Final = 16
"""A sixteenth of the timeout is kept back: clocks that drift by less than 6 % of each other, and the time that
it takes to stop what the lease protects."""

PING_SHARE: Final = 4
"""Four pings in one timeout, whether busy or not: only an answered ping prolongs the lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What a session may be told.

    Args:
        session_timeout_ms: asked for; the cell may answer with another one.
        in_flight_requests_max: sent and not answered; what is more waits its turn here.
        waiting_requests_max: not sent yet; what is more is refused.
        last_zxid_seen: no replica that is behind this may serve the session.
    """

    session_timeout_ms: int = 10_000
    in_flight_requests_max: int = 1_000
    waiting_requests_max: int = 100_000
    last_zxid_seen: int = 0


class Pending:
    """A request that has no answer yet.

    `sink` is the host's own; `done` once an answer was given or the caller has gone away.
    """

    __slots__ = ("deadline", "done", "kind", "op", "path", "record", "repeatable", "sink", "take", "watcher", "xid")

    def __init__(
        self,
        op: int,
        path: str,
        record: bytes,
        take: Callable[[Reader], Any] | None,
        sink: object,
        deadline: Micros | None,
        watcher: Watcher | None,
        kind: int,
        *,
        repeatable: bool,
    ) -> None:
        self.op = op
        self.path = path
        self.record = record
        self.take = take
        self.sink = sink
        self.deadline = deadline
        self.watcher = watcher
        self.kind = kind
        self.repeatable = repeatable
        self.xid = 0
        self.done = False


class Answer(NamedTuple):
    """A request is over: `error` is None or says what came of it."""

    sink: Any
    value: Any
    error: SynodError | None


class Fired(NamedTuple):
    """An event for these watchers. Comes before every answer that shows the change."""

    watchers: list[Watcher]
    event: WatcherEvent


class Changed(NamedTuple):
    """The session is in another state; the sentence says why."""

    state: State
    reason: str


class Lapsed(NamedTuple):
    """The lease is over: from now on somebody else may hold what this session held."""

    session_id: int


Event = Answer | Fired | Changed | Lapsed

_IDLE: Final = 0
_DIALLING: Final = 1
_GREETING: Final = 2
_OPEN: Final = 3


class Session:
    """One client's session, over any number of connections after each other.

    Args:
        addresses: of the cell's replicas.
        options: see there.
        rng: chance, for the order of the addresses and the back-off.
        now: the host's monotonic clock, which goes on during suspend.
        session_id: with `password`: resume this session instead of opening one.

    Invariant: `in_flight` holds what was sent on this connection, in order; answers come in that order.
    Invariant: nothing in `waiting` was sent on a connection whose outcome is open, except reads.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        options: SessionOptions,
        rng: Rng,
        now: Micros,
        session_id: int = 0,
        password: bytes = b"",
    ) -> None:
        self.options = options
        self.hosts = Hosts(addresses, rng)
        self.state: State = "connecting"
        self.session_id = session_id
        self.password = password
        self.timeout: Micros = options.session_timeout_ms * MILLISECOND
        self.lease_deadline: Micros = now
        self.last_zxid = options.last_zxid_seen
        self.address: Address | None = None
        self.in_flight: deque[Pending] = deque()
        self.waiting: deque[Pending] = deque()
        self.watches = Watches()
        self.hang_up = False
        self.can_write = True
        self.is_gone: Callable[[Any], bool] = _never_gone  # whether a sink's owner waits no more; the host's own
        self.failure = ""  # why the last attempt to connect failed
        self._phase = _IDLE
        self._dial: tuple[Address, Micros] | None = None
        self._attempt_deadline: Micros = 0
        self._splitter = FrameSplitter(REPLY_BYTES_MAX)
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._xid = 0
        self._pings: deque[Micros] = deque()
        self._ping_due: Micros = 0
        self._greeted_at: Micros = 0
        self._received_at: Micros = 0
        self._lapse_pending = False
        self._credentials: list[tuple[AuthRequest, Pending]] = []
        self._auths: deque[Pending] = deque()
        self._closing: Pending | None = None
        self._overdue_at: Micros | None = None

    # -- what the host asks ---------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """Bytes for the connection."""
        if not self._out:
            return b""
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    def dial(self, now: Micros) -> Address | None:
        """The address to connect to now; None when there is a connection, or the back-off is not over."""
        if self._phase != _IDLE or self.state == "closed":
            return None
        if self._dial is None:
            address, pause = self.hosts.next()
            self._dial = (address, now + pause)
        address, due = self._dial
        if now < due:
            return None
        self._dial = None
        self._phase = _DIALLING
        self.address = address
        self.hang_up = False
        # A replica that hangs must not cost the session: half of the timeout is left for another one.
        self._attempt_deadline = now + max(self.timeout // max(2, len(self.hosts.addresses)), SECOND // 5)
        return address

    def next_deadline(self) -> Micros | None:
        """When `tick` or `dial` has something to do; None if nothing is due."""
        due: list[Micros] = []
        if self._phase == _IDLE:
            if self.state != "closed":
                due.append(self._dial[1] if self._dial else 0)
        elif self._phase == _OPEN:
            due.append(self._silent_at if self._pings else self._ping_due)
        else:
            due.append(self._attempt_deadline)
        if self._lapse_pending:
            due.append(self.lease_deadline)
        if self._overdue_at is not None:
            due.append(self._overdue_at)
        return min(due, default=None)

    @property
    def _silent_at(self) -> Micros:
        """When the connection is given up if nothing more is heard; a third of the timeout is left for a better one."""
        return min(self._received_at, self._pings[0]) + self.timeout * 2 // 3

    # -- what the caller asks -------------------------------------------------------------------------

    def submit(
        self,
        request: Request,
        *,
        path: str,
        take: Callable[[Reader], Any] | None,
        sink: object,
        deadline: Micros | None = None,
        watcher: Watcher | None = None,
        kind: int = DATA,
        repeatable: bool = False,
    ) -> Pending:
        """Send a request as soon as possible, after all earlier ones.

        Args:
            request: its record.
            path: for error messages, and for the watch.
            take: reads the reply's body; None when it has none.
            sink: comes back with the `Answer`.
            deadline: after it the answer is an error.
            watcher: set by the reply, if the server set it.
            kind: DATA or CHILD: what the watcher watches.
            repeatable: a read: sent again by itself after a lost connection.

        Raises:
            UserError: the session is closed; nothing was sent.
            BadArguments: the request is too large; nothing was sent.
            QuotaExceeded: too many requests wait already; nothing was sent.
        """
        if self.state == "closed" or self._closing is not None:
            raise UserError(f"{describe(request.op, path)}: this cell was closed; nothing was sent: connect again")
        if len(self.waiting) >= self.options.waiting_requests_max:
            raise QuotaExceeded(
                f"{describe(request.op, path)}: {len(self.waiting)} requests wait already; nothing was sent: ask less at once"
            )
        record = request.encode()
        if len(record) > RECORD_BYTES_MAX:
            raise BadArguments(
                f"{describe(request.op, path)}: {len(record)} bytes, the limit is {RECORD_BYTES_MAX}; nothing was sent: keep "
                "large things elsewhere and their address here"
            )
        pending = Pending(request.op, path, record, take, sink, deadline, watcher, kind, repeatable=repeatable)
        self.waiting.append(pending)
        self._send_waiting()
        self._watch_deadline(deadline)
        return pending

    def cancel(self, pending: Pending) -> None:
        """The caller has gone away: an unsent request is never sent, an answer is dropped."""
        pending.done = True
        pending.sink = None
        pending.watcher = None

    def add_auth(self, scheme: str, credentials: bytes, *, sink: object, deadline: Micros | None = None) -> Pending:
        """Authenticate on this connection and on every later one."""
        request = AuthRequest(scheme, credentials)
        pending = Pending(OP_AUTH, scheme, request.encode(), None, sink, deadline, None, DATA, repeatable=True)
        self._credentials.append((request, pending))
        if self._phase == _OPEN:
            self._send_auth(pending)
        self._watch_deadline(deadline)
        return pending

    def _watch_deadline(self, deadline: Micros | None) -> None:
        if deadline is not None and (self._overdue_at is None or deadline < self._overdue_at):
            self._overdue_at = deadline

    def set_writable(self, writable: bool) -> None:
        """Whether the connection takes more bytes at the moment."""
        self.can_write = writable
        self._send_waiting()

    def close(self, sink: object, now: Micros) -> None:
        """End the session at the cell, after everything that was sent; what was not sent yet is refused."""
        if self.state == "closed" or self._closing is not None:
            self._events.append(Answer(sink, None, None))
            return
        for pending in self._take_waiting():
            self._fail(pending, NotApplied(f"{_name(pending)}: the cell was closed; nothing was sent"))
        closing = Pending(OP_CLOSE_SESSION, "", b"", None, sink, now + SECOND, None, DATA, repeatable=False)
        self._closing = closing
        if self._phase == _OPEN:
            self._send(closing)
            self._watch_deadline(now + SECOND)
        else:
            self._finish("the session was closed without a connection: it ends at the cell by its timeout")

    def abandon(self) -> None:
        """Forget everything without a word to the cell: the session may be resumed elsewhere."""
        self._phase = _IDLE
        self.state = "closed"
        self.hang_up = True
        self._lapse_pending = False
        self._overdue_at = None
        for pending in (*self.in_flight, *self._take_waiting()):
            self._fail(pending, ConnectionLoss(f"{_name(pending)}: the cell was left; it may or may not have happened"))
        self.in_flight.clear()
        self._end_watches(STATE_CLOSED)
        self._events.append(Changed("closed", "the session was left for another client to resume"))

    # -- what the network does ------------------------------------------------------------------------

    def dialled(self, now: Micros) -> None:
        """The connection that `dial` asked for stands."""
        if self._phase != _DIALLING:
            return
        self._phase = _GREETING
        self._greeted_at = now
        self._splitter = FrameSplitter(REPLY_BYTES_MAX)
        asked = ConnectRequest(
            self.last_zxid, self.options.session_timeout_ms, self.session_id, self.password or bytes(16)
        )
        self._out = [framed(encode_connect_request(asked))]

    def lost(self, reason: str) -> None:
        """The connection is gone, or could not be made."""
        if self._phase != _IDLE:
            self._drop(reason)

    def received(self, data: bytes, now: Micros) -> None:
        """Bytes of the connection, in the pieces in which the network delivered them."""
        if self._phase not in (_GREETING, _OPEN):
            return
        self._received_at = now
        try:
            for body in self._splitter.feed(data):
                if self._phase == _OPEN:
                    self._frame(body, now)
                elif self._phase == _GREETING:
                    self._greeted(body, now)
        except RemoteProtocolError as broken:
            self._drop(f"{self.address} broke the protocol: {broken}")
        if self._phase == _OPEN:
            self._send_waiting()
        # After the bytes: an answered ping among them may have prolonged the lease of a process that was paused.
        self._check_lease(now)

    def tick(self, now: Micros) -> None:
        """Time has passed."""
        self._check_lease(now)
        if self._phase == _OPEN:
            if self._pings and now >= self._silent_at:
                self._drop(f"{self.address} answers no more")
            elif not self._pings and now >= self._ping_due:
                self._send_ping(now)
        elif self._phase != _IDLE and now >= self._attempt_deadline:
            self._drop(f"{self.address} did not answer in time")
        if self._overdue_at is not None and now >= self._overdue_at:
            self._give_up_overdue(now)

    # -- sending --------------------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        room = self.options.in_flight_requests_max - len(self.in_flight)
        while self.waiting and room > 0 and self._phase == _OPEN and self.can_write:
            pending = self.waiting.popleft()
            if not pending.done and not self.is_gone(pending.sink):
                self._send(pending)
                room -= 1

    def _send(self, pending: Pending) -> None:
        self._xid = self._xid + 1 if self._xid < XID_MAX else XID_MIN
        pending.xid = self._xid
        self.in_flight.append(pending)
        self._out.append(frame(pending.xid, pending.op, pending.record))

    def _send_ping(self, now: Micros) -> None:
        self._pings.append(now)
        self._ping_due = now + self.timeout // PING_SHARE
        self._out.append(frame(XID_PING, OP_PING))

    def _send_auth(self, pending: Pending) -> None:
        self._auths.append(pending)
        self._out.append(frame(XID_AUTH, OP_AUTH, pending.record))

    # -- receiving ------------------------------------------------------------------------------------

    def _greeted(self, body: bytes, now: Micros) -> None:
        response = decode_connect_response(body)
        if response.timeout_ms <= 0 or response.session_id == 0:
            if self.session_id:
                self._expire("the cell says that the session is over")
            else:
                self._drop(f"{self.address} refused to open a session")
            return
        if self.session_id and response.session_id != self.session_id:
            raise RemoteProtocolError(f"asked for session {self.session_id:#x}, got {response.session_id:#x}")
        assert self.address is not None
        self.hosts.succeeded(self.address)
        self.session_id, self.password = response.session_id, response.password
        self.timeout = response.timeout_ms * MILLISECOND
        self._phase = _OPEN
        self.failure = ""
        self._prolong(self._greeted_at, now)
        self._ping_due = self._greeted_at + self.timeout // PING_SHARE
        for _, pending in self._credentials:
            self._send_auth(pending)
        for watches in self.watches.set_again(self.last_zxid):
            self._out.append(encode_request(XID_SET_WATCHES, watches))
        self._become("connected", f"{self.address} serves session {self.session_id:#x}")

    def _frame(self, body: bytes, now: Micros) -> None:
        header, reader = decode_reply(body)
        if header.zxid > self.last_zxid:
            self.last_zxid = header.zxid
        if header.xid > 0:
            self._answered(header.xid, header.err, reader)
        elif header.xid == XID_NOTIFICATION:
            event = take_event(reader)
            watchers = self.watches.fire(event)
            if watchers:
                self._events.append(Fired(watchers, event))
        elif header.xid == XID_PING:
            self._answered_ping(now)
        elif header.xid == XID_AUTH:
            self._answered_auth(header.err)
        elif header.xid != XID_SET_WATCHES:
            raise RemoteProtocolError(f"a reply to {header.xid}, which was never asked")

    def _answered(self, xid: int, err: int, reader: Reader) -> None:
        if not self.in_flight or self.in_flight[0].xid != xid:
            raise RemoteProtocolError(f"a reply to request {xid}, which is not the next one")
        pending = self.in_flight.popleft()
        if pending is self._closing:
            self._finish("the session was closed")
            return
        watcher = pending.watcher
        if err == OK:
            value = None if pending.take is None else pending.take(reader)
            if watcher is not None:
                self.watches.add(pending.kind, pending.path, watcher)
            if not pending.done:
                pending.done = True
                self._events.append(Answer(pending.sink, value, None))
            return
        if watcher is not None and err == ERR_NO_NODE and pending.op == OP_EXISTS:
            self.watches.add(EXIST, pending.path, watcher)
        self._fail(pending, refused(pending.op, pending.path, err))
        if err == ERR_SESSION_EXPIRED:
            self._expire("the cell says that the session is over")

    def _answered_ping(self, now: Micros) -> None:
        """The cell has heard from the session not before the ping was sent: the lease counts from there."""
        if not self._pings:
            raise RemoteProtocolError("an answer to a ping that was never sent")
        self._prolong(self._pings.popleft(), now)

    def _prolong(self, since: Micros, now: Micros) -> None:
        self.lease_deadline = since + self.timeout - self.timeout // LEASE_MARGIN_SHARE
        self._lapse_pending = True
        self._check_lease(now)

    def _answered_auth(self, err: int) -> None:
        if not self._auths:
            raise RemoteProtocolError("an answer to an authentication that was never sent")
        pending = self._auths.popleft()
        if err == OK:
            if not pending.done:
                pending.done = True
                self._events.append(Answer(pending.sink, None, None))
            return
        self._credentials = [c for c in self._credentials if c[1] is not pending]
        error = refused(OP_AUTH, pending.path, err)
        if not pending.done:
            self._fail(pending, error if isinstance(error, AuthFailed) else AuthFailed(str(error)))
            return
        # It was good once: to go on without it would refuse, or permit, the wrong things.
        self._drop("credentials that were good are refused now")
        self._finish(f"the cell refuses the {pending.path} credentials now: connect again with good ones")

    # -- endings --------------------------------------------------------------------------------------

    def _drop(self, reason: str) -> None:
        """Give the connection up. Reads are sent again; of everything else under way the outcome is unknown."""
        self._phase = _IDLE
        self.hang_up = True
        self.failure = reason
        self._out.clear()
        self._pings.clear()
        self._auths.clear()
        under_way, self.in_flight = self.in_flight, deque()
        again = [p for p in under_way if p.repeatable and not p.done]
        self.can_write = True
        self.waiting.extendleft(reversed(again))
        for pending in under_way:
            if pending is self._closing:
                self._finish("the connection went while the session was being closed")
            elif not pending.repeatable:
                self._fail(
                    pending,
                    ConnectionLoss(
                        f"{_name(pending)}: the connection went while it was under way ({reason}); it may or may not "
                        "have happened: read before doing it again"
                    ),
                )
        if self._closing is not None:
            self._finish(reason)
        elif self.state == "connected":
            self._become("suspended", reason)

    def _expire(self, reason: str) -> None:
        """The session is over; everything that hung on it is told, and a new one is opened."""
        ended = self.session_id
        self._lapse_now()
        self.session_id, self.password = 0, b""
        self.timeout = self.options.session_timeout_ms * MILLISECOND
        self._drop(reason)
        if self.state == "closed":
            return
        kept: list[Pending] = []
        for pending in self._take_waiting():
            if pending.repeatable and pending.watcher is None:
                kept.append(pending)
            else:
                self._fail(
                    pending,
                    SessionExpired(
                        f"{_name(pending)}: session {ended:#x} is over and its ephemerals are gone; it was not sent: begin "
                        "again in the new session"
                    ),
                )
        self.waiting.extend(kept)
        self._become("expired", reason)
        self._end_watches(STATE_EXPIRED)
        self._become("connecting", "a new session is opened")

    def _finish(self, reason: str) -> None:
        """No session any more, and no new one."""
        if self.state == "closed":
            return
        self._phase = _IDLE
        self.hang_up = True
        self._lapse_now()
        self._overdue_at = None
        self._become("closed", reason)
        for pending in self.in_flight:
            if pending is not self._closing:
                self._fail(pending, ConnectionLoss(f"{_name(pending)}: {reason}; it may or may not have happened"))
        self.in_flight.clear()
        for pending in self._take_waiting():
            self._fail(pending, Unavailable(f"{_name(pending)}: {reason}; nothing was sent: connect again"))
        self._end_watches(STATE_CLOSED)
        if self._closing is not None:
            self._events.append(Answer(self._closing.sink, None, None))

    def _end_watches(self, state: int) -> None:
        for path, watcher in self.watches.clear():
            self._events.append(Fired([watcher], WatcherEvent(EVENT_NONE, state, path)))

    def _lapse_now(self) -> None:
        if self._lapse_pending:
            self._lapse_pending = False
            self._events.append(Lapsed(self.session_id))

    def _check_lease(self, now: Micros) -> None:
        if self._lapse_pending and now >= self.lease_deadline:
            self._lapse_now()

    def _give_up_overdue(self, now: Micros) -> None:
        soonest: Micros | None = None
        if self._closing is not None and self._closing.deadline is not None and now >= self._closing.deadline:
            self._finish("the cell did not confirm the end of the session in time: it ends by its timeout")
            return
        auths = [pending for _, pending in self._credentials]
        given_up: list[Pending] = []
        for pending in (*self.in_flight, *self.waiting, *auths):
            if pending.done or pending.deadline is None:
                continue
            if now < pending.deadline:
                soonest = pending.deadline if soonest is None else min(soonest, pending.deadline)
            elif pending.xid and not pending.repeatable:
                self._fail(
                    pending,
                    OperationTimeout(
                        f"{_name(pending)}: no answer in time; it may or may not have happened, or still happen: read before "
                        "doing it again"
                    ),
                )
            else:
                given_up.append(pending)
                why = f"; the last attempt: {self.failure}" if self.failure else ""
                self._fail(
                    pending,
                    Unavailable(
                        f"{_name(pending)}: no replica answered in time, nothing was changed{why}: look at the cell, try later"
                    ),
                )
        self._credentials = [c for c in self._credentials if c[1] not in given_up]
        self._overdue_at = soonest

    def _fail(self, pending: Pending, error: SynodError) -> None:
        if not pending.done:
            pending.done = True
            pending.watcher = None
            self._events.append(Answer(pending.sink, None, error))

    def _take_waiting(self) -> list[Pending]:
        waiting = [p for p in self.waiting if not p.done]
        self.waiting.clear()
        return waiting

    def _become(self, state: State, reason: str) -> None:
        if state != self.state:
            self.state = state
            self._events.append(Changed(state, reason))


def _never_gone(_sink: object) -> bool:
    return False


def _name(pending: Pending) -> str:
    return describe(pending.op, pending.path)
