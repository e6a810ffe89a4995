"""A client's session with a cell, sans-IO: what to send, what an answer means, and how long the lease holds.

The session outlives its connections. Requests are answered in their order; when a connection is lost, reads
that were under way are asked again, writes end with an unknown outcome. Watches are kept here and set again
on the next connection.

    CONNECTING --response--> CONNECTED --connection lost--> SUSPENDED --response--> CONNECTED
                                 |                              |
                                 `------- session over --------'-----> EXPIRED          (close) --> CLOSED

`lease_deadline` counts from the *send* time of the last ping that was answered: the server answers a ping only
when the leader has acknowledged that touch, so that no leader ends the session before that moment plus the
timeout. In SUSPENDED the lease may still hold: that is jeopardy.
Ref: Burrows 2006 s2.8 (sessions, jeopardy).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from synod.base import (
    MILLISECOND,
    ConnectionLoss,
    LocalProtocolError,
    Micros,
    NotApplied,
    RemoteProtocolError,
    SessionExpired,
    SynodError,
    error_for_code,
)
from synod.wire import (
    ERR_NO_NODE,
    EVENT_NONE,
    OP_AUTH,
    OP_CLOSE_SESSION,
    OP_EXISTS,
    OP_PING,
    OP_SET_WATCHES,
    STATE_EXPIRED,
    WRITE_OPS,
    XID_AUTH,
    XID_NOTIFICATION,
    XID_PING,
    XID_SET_WATCHES,
    AuthRequest,
    ConnectRequest,
    FrameSplitter,
    Reader,
    SetWatches,
    WatcherEvent,
    decode_connect_response,
    decode_reply,
    encode_connect_request,
    frame,
    framed,
    take_event,
)

State = Literal["connecting", "connected", "suspended", "expired", "closed"]
WatchKind = Literal["data", "exist", "child"]

PASSWORD_NONE: Final = bytes(16)
REPLY_BYTES_MAX: Final = 64 << 20
"""A reply may be longer than a request: the names of many children."""

SET_WATCHES_PATHS_MAX: Final = 1_000
"""Paths in one SetWatches frame, so that a client with many watches stays under the frame limit."""


class Call:
    """A request under way: `done` is called once, with the body of the reply or with the error."""

    __slots__ = ("done", "op", "record", "sent", "watch")

    def __init__(
        self,
        op: int,
        record: bytes,
        done: Callable[[Reader | None, SynodError | None], None],
        watch: tuple[WatchKind, str, Callable[[WatcherEvent], None]] | None = None,
    ) -> None:
        self.op = op
        self.record = record
        self.done = done
        self.watch = watch
        self.sent = False


class ClientSession:
    """One session.

    Args:
        timeout_ms: what is asked for; the cell decides.
        session_id: of a session to resume, with its `password`.
    """

    def __init__(self, timeout_ms: int, *, session_id: int = 0, password: bytes = PASSWORD_NONE) -> None:
        self.timeout_ms = timeout_ms
        self.session_id = session_id
        self.password = password
        self.state: State = "connecting"
        self.last_zxid = 0
        self.lease_deadline: Micros = 0
        self.on_state: Callable[[State], None] = _ignore
        self._asked_timeout_ms = timeout_ms
        self._splitter = FrameSplitter(REPLY_BYTES_MAX)
        self._out: list[bytes] = []
        self._xid = 0
        self._waiting: deque[Call] = deque()
        self._under_way: deque[tuple[int, Call]] = deque()
        self._pings: deque[Micros] = deque()
        self._connect_sent_at: Micros = 0
        self._heard_at: Micros = 0
        self._pinged_at: Micros = 0
        self._auths: list[tuple[str, bytes]] = []
        self._auth_calls: deque[Call | None] = deque()
        self._watches: dict[WatchKind, dict[str, list[Callable[[WatcherEvent], None]]]] = {
            "data": {},
            "exist": {},
            "child": {},
        }
        self._greeting = False
        self.hang_up = False

    # -- connections ---------------------------------------------------------------------------------------

    def connection_made(self, now: Micros) -> None:
        """A new connection stands: attach the session, or open it."""
        self._splitter = FrameSplitter(REPLY_BYTES_MAX)
        self._greeting = True
        self.hang_up = False
        self._connect_sent_at = now
        self._heard_at = now
        request = ConnectRequest(self.last_zxid, self._asked_timeout_ms, self.session_id, self.password)
        self._out = [framed(encode_connect_request(request))]

    def connection_lost(self, why: str = "the connection to the cell was lost") -> None:
        """The connection is gone: reads are asked again, everything else has an unknown outcome."""
        self._greeting = False
        self._out = []
        self._pings.clear()
        again: list[Call] = []
        for _, call in self._under_way:
            if call.op in WRITE_OPS:
                self._fail(
                    call, ConnectionLoss(f"{why} while the request was under way: it may or may not have happened")
                )
            else:
                call.sent = False
                again.append(call)
        self._under_way.clear()
        self._waiting.extendleft(reversed(again))
        for auth in self._auth_calls:
            if auth is not None:
                self._fail(auth, ConnectionLoss(why))
        self._auth_calls.clear()
        if self.state == "connected":
            self._become("suspended")

    def receive(self, data: bytes, now: Micros) -> None:
        """Bytes of the server.

        Raises:
            RemoteProtocolError: it broke the protocol; close the connection.
        """
        self._heard_at = now
        for reply in self._splitter.feed(data):
            if self._greeting:
                self._greeted(reply)
            else:
                self._replied(reply)

    def _greeted(self, reply: bytes) -> None:
        self._greeting = False
        response = decode_connect_response(reply)
        if response.timeout_ms <= 0 or response.session_id == 0:
            self.expire()
            return
        self.timeout_ms = response.timeout_ms
        self.session_id = response.session_id
        self.password = response.password
        self.lease_deadline = self._connect_sent_at + self.timeout_ms * MILLISECOND
        self._pinged_at = self._connect_sent_at
        for scheme, credentials in self._auths:
            self._send_auth(scheme, credentials, None)
        self._send_watches()
        self._become("connected")
        self._send_waiting()

    def expire(self) -> None:
        """The session is over: nothing that waits for it will happen any more."""
        if self.state in ("expired", "closed"):
            return
        self.state = "expired"
        error = SessionExpired("the session is over: its ephemerals and locks are gone; the request was not applied")
        self._end(error, ConnectionLoss("the session ended while the request was under way: it may have happened"))
        self.on_state("expired")

    def _end(self, unsent: SynodError, sent: SynodError) -> None:
        under_way, self._under_way = self._under_way, deque()
        waiting, self._waiting = self._waiting, deque()
        for _, call in under_way:
            self._fail(call, sent if call.op in WRITE_OPS else unsent)
        for call in waiting:
            self._fail(call, unsent)
        watches = [fire for table in self._watches.values() for fires in table.values() for fire in fires]
        for table in self._watches.values():
            table.clear()
        for fire in watches:
            fire(WatcherEvent(EVENT_NONE, STATE_EXPIRED, ""))

    def _become(self, state: State) -> None:
        if self.state != state:
            self.state = state
            self.on_state(state)

    # -- requests ------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Send a request, or keep it until there is a connection.

        Raises:
            SessionExpired, LocalProtocolError: there will be none: it was not sent.
        """
        if self.state == "expired":
            raise SessionExpired("the session is over: its ephemerals and locks are gone; the request was not sent")
        if self.state == "closed":
            raise LocalProtocolError("this client is closed; the request was not sent")
        if self.state == "connected" and not self._waiting:
            self._send(call)
        else:
            self._waiting.append(call)

    def withdraw(self, call: Call) -> bool:
        """Give a request up. True when it had not been sent, and so will never happen."""
        if not call.sent and call in self._waiting:
            self._waiting.remove(call)
            return True
        return False

    def _send(self, call: Call) -> None:
        self._xid = self._xid % 0x7FFF_FFFF + 1
        call.sent = True
        self._under_way.append((self._xid, call))
        self._out.append(frame(self._xid, call.op, call.record))

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self._send(call)

    def add_auth(self, scheme: str, credentials: bytes, call: Call | None) -> None:
        """Prove an identity, on this connection and on every later one."""
        self._auths.append((scheme, credentials))
        if self.state == "connected":
            self._send_auth(scheme, credentials, call)
        elif call is not None:
            call.done(None, None)

    def _send_auth(self, scheme: str, credentials: bytes, call: Call | None) -> None:
        self._auth_calls.append(call)
        self._out.append(frame(XID_AUTH, OP_AUTH, AuthRequest(scheme, credentials).encode()))

    def _replied(self, reply: bytes) -> None:
        header, reader = decode_reply(reply)
        if header.xid == XID_NOTIFICATION:
            self._notified(take_event(reader))
            return
        if header.zxid > self.last_zxid:
            self.last_zxid = header.zxid
        if header.xid == XID_PING:
            if self._pings:
                sent_at = self._pings.popleft()
                self.lease_deadline = max(self.lease_deadline, sent_at + self.timeout_ms * MILLISECOND)
        elif header.xid == XID_AUTH:
            call = self._auth_calls.popleft() if self._auth_calls else None
            if call is not None:
                call.done(None, error_for_code(header.err) if header.err else None)
        elif header.xid != XID_SET_WATCHES:
            self._answered(header.xid, header.err, reader)

    def _answered(self, xid: int, err: int, reader: Reader) -> None:
        if not self._under_way or self._under_way[0][0] != xid:
            raise RemoteProtocolError(f"the server answered request {xid} out of order")
        _, call = self._under_way.popleft()
        if call.watch is not None and (err == 0 or (err == ERR_NO_NODE and call.op == OP_EXISTS)):
            kind, path, fire = call.watch
            if err == ERR_NO_NODE:
                kind = "exist"
            self._watches[kind].setdefault(path, []).append(fire)
        if err:
            call.done(None, error_for_code(err))
        else:
            call.done(reader, None)
        if call.op == OP_CLOSE_SESSION:
            self.hang_up = True
            self.close()

    @staticmethod
    def _fail(call: Call, error: SynodError) -> None:
        call.done(None, error)

    def close(self) -> None:
        """The session is given up; what waits fails."""
        if self.state == "closed":
            return
        self.state = "closed"
        error = NotApplied("the client was closed before the request was sent")
        self._end(error, ConnectionLoss("the client was closed while the request was under way"))
        self.on_state("closed")

    # -- watches -------------------------------------------------------------------------------------------

    def _notified(self, event: WatcherEvent) -> None:
        kinds: tuple[WatchKind, ...]
        match event.type:
            case 1 | 3:
                kinds = ("data", "exist")
            case 2:
                kinds = ("data", "exist", "child")
            case 4:
                kinds = ("child",)
            case _:
                return
        for kind in kinds:
            for fire in self._watches[kind].pop(event.path, ()):
                fire(event)

    def forget_watch(self, kind: WatchKind, path: str, fire: Callable[[WatcherEvent], None]) -> None:
        """Stop listening; the server may still send the event, to nobody."""
        for table in (self._watches[kind], self._watches["exist"]):
            fires = table.get(path)
            if fires is not None and fire in fires:
                fires.remove(fire)
                if not fires:
                    del table[path]

    def _send_watches(self) -> None:
        """Set every watch again: the server compares with the last zxid that this client has seen."""
        marked = [(kind, path) for kind, table in self._watches.items() for path in table]
        for start in range(0, len(marked), SET_WATCHES_PATHS_MAX):
            part = marked[start : start + SET_WATCHES_PATHS_MAX]
            paths = {wanted: tuple(path for kind, path in part if kind == wanted) for wanted in self._watches}
            record = SetWatches(self.last_zxid, paths["data"], paths["exist"], paths["child"]).encode()
            self._out.append(frame(XID_SET_WATCHES, OP_SET_WATCHES, record))

    # -- time ----------------------------------------------------------------------------------------------

    def tick(self, now: Micros) -> None:
        """Ping when it is due, and notice a silent server."""
        timeout = self.timeout_ms * MILLISECOND
        if self.state == "connected":
            if now - self._pinged_at >= timeout // 3:
                self._pinged_at = now
                self._pings.append(now)
                self._out.append(frame(XID_PING, OP_PING))
            if now - self._heard_at >= timeout * 2 // 3:
                self.hang_up = True
        elif self._greeting and now - self._heard_at >= timeout * 2 // 3:
            self.hang_up = True

    def next_deadline(self) -> Micros:
        """When `tick` is due."""
        timeout = self.timeout_ms * MILLISECOND
        return min(self._pinged_at + timeout // 3, self._heard_at + timeout * 2 // 3)

    def take_output(self) -> bytes:
        """What is to be sent now."""
        if not self._out:
            return b""
        out = b"".join(self._out)
        self._out.clear()
        return out


def _ignore(_state: State) -> None:
    return None
