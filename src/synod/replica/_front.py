"""The door of a replica: what clients send becomes groups for the log, and what is applied becomes replies.

Sans-IO: bytes of a connection come in through `data`, bytes for it leave through `drain`. The state machine
calls back through the `Sink` methods while it applies, so that replies, watch events and the reads between
them are appended to each connection's output in the one order in which they happened.

Read `data`, then `output` (where a read is served just before the next write), then `confirm`.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from synod.base import Micros, RemoteProtocolError, ReplicaId, invariant
from synod.tree import Tree, encode_attach, encode_auth, encode_create_session, encode_slice_of, int32_at, slice_owner
from synod.wire import (
    ERR_AUTH_FAILED,
    ERR_NOT_READ_ONLY,
    OP_AUTH,
    OP_PING,
    OP_SYNC,
    WRITE_OPS,
    XID_AUTH,
    XID_PING,
    decode_auth_request,
    decode_connect_request,
    encode_connect_response,
)

from ._connection import AHEAD, ATTACHING, CLOSED, NEW, OPEN, REFUSED, Connection, Reads
from ._options import FRAME_BYTES_MAX, GROUP_BYTES_MAX, ReplicaOptions
from ._ready import Ready

if TYPE_CHECKING:
    from mypy_extensions import i64

_WRITES: Final = WRITE_OPS
_NOTHING: Final[frozenset[int]] = frozenset()

_HEAD: Final = struct.Struct(">iii")
_LENGTH: Final = struct.Struct(">i")
_REPLY: Final = struct.Struct(">iiqi")
_REPLY_BYTES: Final = 16  # xid, zxid, err: a reply that is only a header
_NO_PASSWORD: Final = bytes(16)
_CONFIRMED_ALWAYS: Final = 0

READ_ONLY: Final = "a majority of the cell's replicas has no room to write, so that it can only read"

BUFFER_BYTES_MAX: Final = 2 * FRAME_BYTES_MAX
"""Unparsed bytes of one connection; beyond it the socket is not read: one frame under way, and one to come."""


class Front:
    """All client connections of one replica, and the `Sink` of its state machine.

    Args:
        origin: this replica's id.
        boot: its boot count, which makes its stream of groups its own.
        tree: the state machine; reads are served from it.
        draw_secret: returns so many unpredictable bytes; for session passwords.
    """

    def __init__(
        self,
        *,
        origin: ReplicaId,
        boot: int,
        tree: Tree,
        options: ReplicaOptions,
        draw_secret: Callable[[int], bytes],
    ) -> None:
        self.origin = origin
        self.boot = boot
        self.tree = tree
        self._options = options
        self._draw_secret = draw_secret
        self._sequential = options.reads == "sequential"
        self.connections: dict[int, Connection] = {}
        self._by_session: dict[int, Connection] = {}
        self._dirty: list[Connection] = []  # those that say so themselves: to look a number up costs as much as a reply
        self._closing: list[tuple[int, str]] = []
        self._pauses: list[tuple[int, bool]] = []
        self._ahead: dict[int, Connection] = {}
        self.items: list[bytes] = []
        self.touched: dict[int, None] = {}
        # Pings wait for the next round of touches, then for the answer to the one that they went with.
        self.pings: dict[int, list[Connection]] = {}
        self._pings_sent: dict[int, list[Connection]] = {}
        # Sessions whose touch the leader has refused, and their pings: not every round asks for them again.
        self.refused: dict[int, list[Connection]] = {}
        # Rounds of reads: `reading` gathers now; everything up to `confirmed` may be served.
        self.reading = 1
        self.reads_gathered = False
        self._confirmed = 0
        self._round_waits: deque[tuple[int, Connection]] = deque()
        self.overloaded = False
        self.read_only = False
        self._left = ""
        self.refused_frames = 0
        self.received = 0
        self.events = 0
        # What the replica wants to know of the state machine's callbacks.
        self.on_group_applied: Callable[[int], None] = _ignore_applied
        self.on_group_skipped: Callable[[ReplicaId, int, int], None] = _ignore_group
        self.on_session_opened: Callable[[int, int], None] = _ignore_opened
        self.on_sessions_touched: Callable[[list[int]], None] | None = None  # for each group: not called for nothing
        self.on_session_ended: Callable[[int], None] = _ignore_session

    # -- connections come, speak and go ---------------------------------------------------------------

    def opened_connection(self, conn: int, address: str, now: Micros) -> None:
        """A client has connected; it is to speak first."""
        invariant(conn not in self.connections, "a connection's number is used once")
        self.connections[conn] = Connection(conn, address, now)

    def closed_connection(self, conn: int) -> None:
        """The connection is gone: its watches go with it; its session goes on."""
        c = self.connections.pop(conn, None)
        if c is None:
            return
        c.state = CLOSED
        self._ahead.pop(conn, None)
        if c.dirty:
            self._dirty.remove(c)
        if self._by_session.get(c.session) is c:
            del self._by_session[c.session]
        self.tree.forget(conn)

    def data(self, conn: int, data: bytes, now: Micros) -> None:
        """Bytes of a client, in the pieces in which the network delivered them."""
        c = self.connections.get(conn)
        if c is None or c.state == CLOSED:
            return
        c.buffer = c.buffer + data if c.buffer else data
        self._parse(c, now)
        if len(c.buffer) > BUFFER_BYTES_MAX:
            self._pause(c)

    def _parse(self, c: Connection, now: Micros) -> None:
        """Cut the buffer into frames: runs of writes become slices, everything else is queued or answered."""
        if c.state == NEW and not self._connect(c, now):
            return
        if c.state != OPEN or self.overloaded:
            return
        data = c.buffer
        size: i64 = len(data)
        at: i64 = 0
        run: i64 = 0
        requests = 0
        writes = _NOTHING if self.read_only else _WRITES
        room = room_before = self._options.outstanding_requests_max - c.outstanding
        while size - at >= 12 and room > 0:
            length, xid, op = int32_at(data, at), int32_at(data, at + 4), int32_at(data, at + 8)
            if length < 8 or length > FRAME_BYTES_MAX:
                self._refuse(c, f"a frame of {length} bytes")
                return
            end = at + 4 + length
            if end > size:
                break
            room -= 1
            if op in writes:
                if requests and end - run > GROUP_BYTES_MAX:
                    self._slice(c, data[run:at], requests)
                    run, requests = at, 0
                requests += 1
            else:
                if requests:
                    self._slice(c, data[run:at], requests)
                    requests = 0
                self._other(c, xid, op, data[at:end])
                if c.state != OPEN:
                    return
                run = end
            at = end
        if requests:
            self._slice(c, data[run:at], requests)
        c.buffer = data[at:] if at else data
        if at:
            c.received += room_before - room
            self.received += room_before - room
            self.touched[c.session] = None
        elif size >= 4 and not 8 <= _LENGTH.unpack_from(data)[0] <= FRAME_BYTES_MAX:
            self._refuse(c, f"a frame of {_LENGTH.unpack_from(data)[0]} bytes")
            return
        if room <= 0:
            self._pause(c)

    def _pause(self, c: Connection) -> None:
        if not c.paused and c.state != CLOSED:
            c.paused = True
            self._pauses.append((c.id, True))

    def _resume(self, c: Connection, now: Micros) -> None:
        """Parse what waits in the buffer, and read on from the socket when enough of it is gone."""
        if c.state != OPEN or self.overloaded or c.outstanding > self._options.outstanding_requests_max // 2:
            return
        if c.buffer:
            self._parse(c, now)
        if c.paused and len(c.buffer) <= BUFFER_BYTES_MAX and c.outstanding < self._options.outstanding_requests_max:
            c.paused = False
            self._pauses.append((c.id, False))

    def _slice(self, c: Connection, frames: bytes, requests: int) -> None:
        self.items.append(encode_slice_of(c.slice_owner, requests, frames))
        c.add_slice(requests)

    def _other(self, c: Connection, xid: int, op: int, frame: bytes) -> None:
        if self.read_only and (op in _WRITES or op == OP_AUTH):
            c.add_read(frame, REFUSED)
            self._serve(c)
        elif op == OP_PING:
            self.pings.setdefault(c.session, []).append(c)
            self.touched[c.session] = None
        elif op == OP_AUTH:
            self._auth(c, xid, frame)
        elif self._sequential and not c.queue and op != OP_SYNC:
            c.out.append(self.tree.read(frame, c.session, c.id, self))
            self._mark(c)
        else:
            self._queue_read(c, frame, op)

    def _queue_read(self, c: Connection, frame: bytes, op: int) -> None:
        if self._sequential and op != OP_SYNC:
            c.add_read(frame, _CONFIRMED_ALWAYS)
            return
        self.reads_gathered = True
        c.add_read(frame, self.reading)
        self._await_round(c)

    def _await_round(self, c: Connection) -> None:
        """Note that the reads at the head of the queue wait for their round, once per connection."""
        head = c.queue[0] if c.queue else None
        if isinstance(head, Reads) and not c.awaits_round:
            c.awaits_round = True
            self._round_waits.append((head.round, c))

    # -- connect ---------------------------------------------------------------------------------------

    def _connect(self, c: Connection, now: Micros) -> bool:
        """Take the connect request when it is whole. True when frames behind it may be parsed already."""
        data = c.buffer
        if len(data) < 4:
            return False
        (length,) = _LENGTH.unpack_from(data)
        if not 0 < length <= FRAME_BYTES_MAX:
            self._refuse(c, f"a connect request of {length} bytes")
            return False
        if len(data) < 4 + length:
            return False
        c.connect_frame, c.buffer = data[4 : 4 + length], data[4 + length :]
        try:
            request = decode_connect_request(c.connect_frame)
        except RemoteProtocolError as broken:
            self._refuse(c, str(broken))
            return False
        c.read_only_asked = request.read_only
        low, high = self._options.session_timeout_ms_min, self._options.session_timeout_ms_max
        c.timeout_ms = min(max(request.timeout_ms, low), high)
        if request.last_zxid_seen > self.tree.zxid:
            c.state = AHEAD
            c.opened_at = now
            self._ahead[c.id] = c
            return False
        self._attach(c)
        return False

    def _attach(self, c: Connection) -> None:
        if self.read_only or self._left:
            self.close(c, self._left or READ_ONLY)
            return
        request = decode_connect_request(c.connect_frame)
        c.connect_frame = b""
        c.state = ATTACHING
        if request.session_id == 0:
            c.password = self._draw_secret(16)
            self.items.append(encode_create_session(c.id, c.timeout_ms, hash_password(c.password)))
        else:
            c.password = request.password
            self.items.append(encode_attach(c.id, request.session_id, hash_password(c.password), c.timeout_ms))

    def admit_ahead(self, now: Micros) -> None:
        """Let clients in that this replica has caught up with; close those who waited long enough."""
        for c in list(self._ahead.values()):
            request = decode_connect_request(c.connect_frame)
            if request.last_zxid_seen <= self.tree.zxid:
                del self._ahead[c.id]
                self._attach(c)
            elif now - c.opened_at >= self._options.client_ahead_wait:
                del self._ahead[c.id]
                self.close(c, "the client has seen a later state than this replica")

    @property
    def ahead(self) -> bool:
        """Whether a client waits for this replica to catch up."""
        return bool(self._ahead)

    # -- auth ------------------------------------------------------------------------------------------

    def _auth(self, c: Connection, xid: int, frame: bytes) -> None:
        """Resolve credentials to an identity; only the identity goes into the log."""
        try:
            request = decode_auth_request(frame[12:])
        except RemoteProtocolError as broken:
            self._refuse(c, str(broken))
            return
        identity = _identity(request.scheme, request.auth)
        if identity is None:
            self._reply(c, XID_AUTH, ERR_AUTH_FAILED)
            self.close(c, f"authentication by the scheme {request.scheme!r} failed")
            return
        self.items.append(encode_auth(c.session, c.attach_epoch, xid, request.scheme.encode(), identity))
        c.add_slice(1)

    # -- leaving ---------------------------------------------------------------------------------------

    def _refuse(self, c: Connection, what: str) -> None:
        self.refused_frames += 1
        self.close(c, f"the client sent {what}")

    def close(self, c: Connection, reason: str) -> None:
        """Close a connection after what it was already answered has been flushed."""
        if c.state == CLOSED:
            return
        c.state = CLOSED
        c.buffer = b""
        self._ahead.pop(c.id, None)
        if self._by_session.get(c.session) is c:
            del self._by_session[c.session]
        self._closing.append((c.id, reason))

    def close_all(self, reason: str) -> None:
        """Close every connection: their outstanding requests have an unknown outcome."""
        for c in list(self.connections.values()):
            self.close(c, reason)

    def leave(self, reason: str) -> None:
        """Close every connection, and each that comes: nothing that a client sends here would ever be answered."""
        self._left = reason
        self.close_all(reason)

    def _reply(self, c: Connection, xid: int, err: int) -> None:
        c.out.append(_REPLY.pack(_REPLY_BYTES, xid, self.tree.zxid, err))
        self._mark(c)

    # -- reads -----------------------------------------------------------------------------------------

    def confirm(self, round_: int) -> None:
        """A quorum has shown, after these reads arrived, what is chosen, and it is applied here: serve them."""
        if round_ <= self._confirmed:
            return
        self._confirmed = round_
        waits = self._round_waits
        while waits and waits[0][0] <= round_:
            _, c = waits.popleft()
            c.awaits_round = False
            if c.state == OPEN:
                self._serve(c)
                self._await_round(c)

    def _serve(self, c: Connection) -> None:
        """Answer the reads at the head of the queue that are confirmed."""
        queue = c.queue
        confirmed = self._confirmed
        while queue:
            head = queue[0]
            if not isinstance(head, Reads) or head.round > confirmed:
                return
            queue.popleft()
            self._answer(c, head)

    def _answer(self, c: Connection, reads: Reads) -> None:
        out, tree, session, conn = c.out, self.tree, c.session, c.id
        if reads.round == REFUSED:
            for frame in reads.frames:
                self._reply(c, _HEAD.unpack_from(frame)[1], ERR_NOT_READ_ONLY)
            self._answered(c, len(reads.frames))
            return
        for frame in reads.frames:
            out.append(tree.read(frame, session, conn, self))
        self._answered(c, len(reads.frames))
        self._mark(c)

    def _answered(self, c: Connection, requests: int) -> None:
        c.outstanding -= requests

    # -- pings -----------------------------------------------------------------------------------------

    def begin_round(self) -> list[int]:
        """A round of touches starts: it speaks for every ping that came before it, and for none after."""
        for session, waiting in self.pings.items():
            self._pings_sent.setdefault(session, []).extend(waiting)
        sessions = list(dict.fromkeys((*self.touched, *self.pings)))
        self.pings.clear()
        self.touched.clear()
        return sessions

    def pong(self, session: int) -> None:
        """The leader has acknowledged the touch of a session: the pings that went with it may be answered."""
        refused = self.refused.pop(session, None)
        sent = self._pings_sent.pop(session, [])
        for c in sent if refused is None else refused + sent:
            if c.state == OPEN:
                self._reply(c, XID_PING, 0)

    def no_pong(self, session: int) -> None:
        """The leader refused the touch of a session for now: it waits for `touch_again`."""
        self.refused.setdefault(session, []).extend(self._pings_sent.pop(session, ()))

    def touch_again(self, session: int | None = None) -> None:
        """Refused touches, all or of this session, go along with the next round."""
        for id_ in tuple(self.refused) if session is None else (session,):
            waiting = self.refused.pop(id_)
            if waiting:
                self.pings[id_] = waiting + self.pings.get(id_, [])
            self.touched[id_] = None

    def _mark(self, c: Connection) -> None:
        """It has output, or may have some."""
        if not c.dirty:
            c.dirty = True
            self._dirty.append(c)

    # -- Sink: called by the state machine while it applies ----------------------------------------------

    def output(self, session: int, attach_epoch: int) -> list[bytes] | None:
        """The output of the local connection whose slice is about to be applied.

        Reads that it sent before this slice are served first: the slice was first sent after they arrived,
        so that its being chosen confirms them.
        """
        c = self._by_session.get(session)
        if c is None or c.attach_epoch != attach_epoch:
            return None
        queue = c.queue
        while queue:
            head = queue.popleft()
            if not isinstance(head, Reads):
                c.slices -= 1
                self._answered(c, head)
                break
            self._answer(c, head)
        self._mark(c)
        return c.out

    def watcher(self, conn: int) -> list[bytes] | None:
        """The output of a connection that a watch event is for."""
        c = self.connections.get(conn)
        if c is None or c.state != OPEN:
            return None
        self.events += 1
        self._mark(c)
        return c.out

    def opened(self, conn: int, session: int, attach_epoch: int, timeout_ms: int) -> None:
        """A session was created or attached here; session 0 means: it is over, or the password is wrong."""
        c = self.connections.get(conn)
        if c is None or c.state != ATTACHING:
            return
        if session == 0:
            c.out.append(_framed(encode_connect_response(0, 0, _NO_PASSWORD, self._read_only_field(c))))
            self._mark(c)
            self.close(c, "the session is over, or its password is wrong")
            return
        c.state = OPEN
        c.session, c.attach_epoch, c.timeout_ms = session, attach_epoch, timeout_ms
        c.slice_owner = slice_owner(session, attach_epoch)
        self._by_session[session] = c
        c.out.append(_framed(encode_connect_response(timeout_ms, session, c.password, self._read_only_field(c))))
        c.password = b""
        self._mark(c)

    @staticmethod
    def _read_only_field(c: Connection) -> bool | None:
        return None if c.read_only_asked is None else False

    def group_applied(self, origin: ReplicaId, boot: int, seq: int) -> None:
        """A group of some origin took effect."""
        if origin == self.origin and boot == self.boot:
            self.on_group_applied(seq)

    def group_skipped(self, origin: ReplicaId, boot: int, seq: int) -> None:
        """A group was a repeat, or came after a gap."""
        self.on_group_skipped(origin, boot, seq)

    def session_opened(self, session: int, timeout_ms: int) -> None:
        """Some replica opened a session."""
        self.on_session_opened(session, timeout_ms)

    def sessions_touched(self, sessions: list[int]) -> None:
        """Logged frames showed that the sessions' clients live."""
        if self.refused:
            for session in sessions:
                if session in self.refused:
                    self.touch_again(session)
        if self.on_sessions_touched is not None:
            self.on_sessions_touched(sessions)

    def session_awake(self, session: int) -> None:
        """What the leader refused it acknowledges now."""
        if session in self.refused:
            self.touch_again(session)

    def session_moved(self, session: int, attach_epoch: int) -> None:
        """The session is attached anew: an older connection of it here is to go."""
        c = self._by_session.get(session)
        if c is not None and c.attach_epoch != attach_epoch:
            self.close(c, "the session was attached elsewhere")
        self.sessions_touched([session])

    def session_ended(self, session: int) -> None:
        """The session was closed or has expired."""
        c = self._by_session.get(session)
        if c is not None:
            self.close(c, "the session is over")
        self.touched.pop(session, None)
        self.pings.pop(session, None)
        self._pings_sent.pop(session, None)
        self.refused.pop(session, None)
        self.on_session_ended(session)

    # -- what the replica takes away ---------------------------------------------------------------------

    def after_apply(self, now: Micros) -> None:
        """Serve what became servable by applying, and parse on where a bound had stopped it."""
        if self._ahead:
            self.admit_ahead(now)
        if not self._dirty:
            return
        for c in list(self._dirty):
            if c.queue and c.state == OPEN:
                self._serve(c)
                self._await_round(c)
            if c.buffer or c.paused:
                self._resume(c, now)

    def resume_parsing(self, now: Micros) -> None:
        """Parse what was left in the buffers while too much was under way."""
        for c in list(self.connections.values()):
            if c.buffer or c.paused:
                self._resume(c, now)

    def drain(self, ready: Ready) -> None:
        """Hand over output bytes per connection, connections to close after that, and those to pause or resume."""
        if self._dirty:
            for c in self._dirty:
                c.dirty = False
                if c.out:
                    ready.client_output.append((c.id, c.out[0] if len(c.out) == 1 else b"".join(c.out)))
                    c.out.clear()
            self._dirty.clear()
        if self._closing:
            ready.client_closes = tuple(self._closing)
            self._closing.clear()
        if self._pauses:
            ready.client_pauses = tuple(self._pauses)
            self._pauses.clear()

    def smallest_timeout_ms(self) -> int:
        """The shortest session timeout served here, in milliseconds; the configured minimum when there is none."""
        return min((c.timeout_ms for c in self._by_session.values()), default=self._options.session_timeout_ms_min)


def hash_password(password: bytes) -> bytes:
    """What the log and the state hold of a session's password."""
    return hashlib.blake2b(password, digest_size=16, person=b"synod session").digest()


def _identity(scheme: str, credentials: bytes) -> bytes | None:
    """The identity that credentials prove, or None when they prove none."""
    if scheme == "digest":
        user, colon, _ = credentials.partition(b":")
        if not colon:
            return None
        # SHA-1 is the ZooKeeper protocol's own: `user:base64(sha1(user:password))` is what ACLs hold.
        return user + b":" + base64.b64encode(hashlib.sha1(credentials, usedforsecurity=False).digest())
    return None


def _framed(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def _ignore_applied(_seq: int) -> None:
    return None


def _ignore_group(_origin: ReplicaId, _boot: int, _seq: int) -> None:
    return None


def _ignore_opened(_session: int, _timeout_ms: int) -> None:
    return None


def _ignore_session(_session: int) -> None:
    return None
