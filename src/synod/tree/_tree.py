"""The state machine: one batch in, the next state and the local clients' replies and events out.

`Tree.apply` walks a batch; `_apply_slice` is the flat fast path for the requests that make up nearly all load;
whatever it finds unusual goes to `_apply_frame`, which does everything, slowly and obviously (`_writes`,
`_multi`). `Tree.read` is the same for reads (`_read`). The two ways must never differ: a property test runs
both.

Nothing here raises because of what a client sent. `UnknownCommand` and `InvariantViolation` mean that this
replica must stop.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from synod.base import BALLOT_ZERO, ConfigError, Configuration, InvariantViolation, is_change
from synod.wire import (
    ERR_AUTH_FAILED,
    ERR_MARSHALLING,
    ERR_RECONFIG_DISABLED,
    ERR_SESSION_EXPIRED,
    ERR_SESSION_MOVED,
    ERR_UNIMPLEMENTED,
    OK,
    OP_CLOSE_SESSION,
    OP_CREATE,
    OP_CREATE2,
    OP_CREATE_CONTAINER,
    OP_CREATE_TTL,
    OP_DELETE,
    OP_EXISTS,
    OP_GET_CHILDREN,
    OP_GET_CHILDREN2,
    OP_GET_DATA,
    OP_MULTI,
    OP_RECONFIG,
    OP_SET_ACL,
    OP_SET_DATA,
    PERM_CREATE,
    PERM_DELETE,
    PERM_READ,
    PERM_WRITE,
)

from ._acl import IP, OPEN_ACL, OPEN_WIRE, Identity, scan_entries
from ._batch import (
    BATCH_VERSION,
    COMMAND_EXPIRE,
    COMMAND_SILENT,
    FEATURE_LEVEL,
    Attach,
    Auth,
    Batch,
    CreateSession,
    DigestNow,
    Group,
    Liveness,
    Opening,
    Raise,
    Slice,
    UnknownCommand,
    parse_batch,
)
from ._limits import (
    CONTAINER_REAP_MS,
    CONTAINERS_REAPED_MAX,
    DIGEST_SLOTS,
    IDENTITIES_MAX,
    SEQUENCE_MAX,
    SESSION_TIMEOUT_MS_MAX,
    SESSIONS_MAX,
    VALUE_BYTES_MAX,
    ZXIDS_PER_MILLISECOND,
)
from ._multi import parse as parse_multi
from ._multi import run as run_multi
from ._multi import set_all
from ._paths import ROOT, parent_path
from ._read import Reader, reply
from ._scan import Scanner, int32_at, int32_bytes
from ._session import Session
from ._state import FEATURES, SPECIAL, ZXID_MAX, State
from ._watches import CHILD, DATA, Watches
from ._writes import Writer
from ._znode import PLAIN_STAT, STAT_BYTES, Znode, names_bytes, next_version, stat_bytes

if TYPE_CHECKING:
    from mypy_extensions import i64


class Sink(Protocol):
    """What the state machine tells its host while it applies and reads."""

    origin: int
    boot: int

    def output(self, session: int, attach_epoch: int) -> list[bytes] | None:
        """The out-list of the local connection attached so, or None. Asked once per local slice and auth item."""
        ...

    def watcher(self, conn: int) -> list[bytes] | None:
        """The out-list of a connection, for watch events."""
        ...

    def opened(self, conn: int, session: int, attach_epoch: int, timeout_ms: int) -> None:
        """The result of a local connection's create_session or attach; session 0 means refused."""
        ...

    def group_applied(self, origin: int, boot: int, seq: int) -> None:
        """A group took effect."""
        ...

    def group_skipped(self, origin: int, boot: int, seq: int) -> None:
        """A group was a repeat, came after a gap, or is of an earlier boot: it had no effect."""
        ...

    def session_opened(self, session: int, timeout_ms: int) -> None:
        """A session began, at whatever replica."""
        ...

    def sessions_touched(self, sessions: list[int]) -> None:
        """The log shows that the clients of these sessions live: once a group, for a call across rooms costs."""
        ...

    def session_awake(self, session: int) -> None:
        """The session is marked silent no more; its client was heard before."""
        ...

    def session_moved(self, session: int, attach_epoch: int) -> None:
        """The session is attached anew; connections of earlier epochs are to go."""
        ...

    def session_ended(self, session: int) -> None:
        """The session was closed or has expired."""
        ...


_PACK_PLAIN_SET_REPLY: Final = struct.Struct(">iiq4x" + PLAIN_STAT).pack
_PACK_PATH_REPLY: Final = struct.Struct(">iiq4xi").pack
_PACK_REPLY: Final = struct.Struct(">iiq4x").pack
_SET_REPLY_BYTES: Final = 16 + STAT_BYTES
_OK_BYTES: Final = OK.to_bytes(4, "big")

_OPEN_WIRE_BYTES: Final = len(OPEN_WIRE)
_PLAIN: Final = bytes(c for c in range(0x20, 0x7F) if c != 0x2F)
"""The characters of a name that needs no closer look, unless it is `.` or `..`."""
_CREATES: Final = (OP_CREATE, OP_CREATE2)
_GET_CHILDREN: Final = (OP_GET_CHILDREN, OP_GET_CHILDREN2)
_DOTS: Final = (b"", b".", b"..")

_WRITES: Final = frozenset(
    {
        OP_CREATE,
        OP_CREATE2,
        OP_CREATE_CONTAINER,
        OP_CREATE_TTL,
        OP_DELETE,
        OP_MULTI,
        OP_RECONFIG,
        OP_SET_ACL,
        OP_SET_DATA,
    }
)


class Tree(State):
    """The replicated state machine of one replica.

    Args:
        zxid: where the counter of a new cell starts; see `State`.
        configuration: the cell's configuration as its canonical bytes; readable at `/zookeeper/config`.
        supported_level: see `State`.
        fast: False leaves the fast paths out: the slow twin that they are compared with.
    """

    __slots__ = ("_fast", "_reader", "_told", "_told_zxid", "_writer", "watches")

    def __init__(
        self,
        *,
        zxid: int = 0,
        configuration: bytes = b"",
        supported_level: int = FEATURE_LEVEL,
        fast: bool = True,
    ) -> None:
        super().__init__(zxid=zxid, configuration=configuration, supported_level=supported_level)
        self._fast = fast
        self._told_zxid = -1
        self._told = b""
        self.watches = Watches(self)
        self._writer = Writer(self, self.watches)
        self._reader = Reader(self, self.watches)

    @classmethod
    def restore(cls, chunks: Iterable[bytes], supported_level: int = FEATURE_LEVEL) -> Tree:
        """The state that a snapshot describes.

        Raises:
            Corruption: the bytes are no whole and sound snapshot.
            UnknownCommand: it was written by a version that knows more: this replica is too old for it.
        """
        loading = cls.loading(chunks, supported_level)
        while (tree := next(loading)) is None:
            pass
        return tree

    @classmethod
    def loading(cls, chunks: Iterable[bytes], supported_level: int = FEATURE_LEVEL) -> Iterator[Tree | None]:
        """The same in steps of a third of a millisecond or so: None while there is more to do, and at last the state.

        Raises:
            Corruption: as `restore`.
            UnknownCommand: as `restore`.
        """
        tree = cls(supported_level=supported_level)
        for _ in tree._load(chunks):
            yield None
        yield tree

    @property
    def znodes(self) -> int:
        """How many znodes there are, without the one that tells the feature level."""
        return len(self.nodes) - 1

    @property
    def approximate_bytes(self) -> int:
        """Bytes of paths and values, as ZooKeeper counts its data size."""
        return self.data_bytes

    def check(self) -> None:
        """Assert every invariant, of the state and of the watches; slow, for tests and the simulator."""
        super().check()
        self.watches.check()

    # -- applying --------------------------------------------------------------------------------------

    def apply(self, slot: int, batch: bytes, sink: Sink) -> None:
        """Apply the value of one slot.

        Raises:
            UnknownCommand: the batch holds what this version does not know; nothing was applied.
            InvariantViolation: the slot is not the next one, or the state contradicts itself.
        """
        if slot != self.slot + 1:
            raise InvariantViolation(f"slot {slot} is applied right after slot {slot - 1}, not {self.slot}")
        digest_now = slot % DIGEST_SLOTS == 0
        zxid_before, ballot_before = self.zxid, self.opening_ballot
        if batch and batch[0] != BATCH_VERSION and is_change(batch):
            self._apply_change(slot, batch, sink)
        elif batch:
            parsed = parse_batch(batch, self.supported_level)
            self.slot = slot
            self._pass_time(parsed, sink)
            for command in parsed.commands:
                if isinstance(command, Group):
                    self._apply_group(command, batch, sink)
                elif isinstance(command, Liveness):
                    self._apply_liveness(command, sink)
                elif isinstance(command, Opening):
                    self.opening_ballot = command.ballot
                    if zxid_before > 0 and ballot_before == BALLOT_ZERO:
                        # The state had a past in another cell, which may have gone on since: no client and no store
                        # may have seen a zxid of it that is higher than what is given out from here on.
                        self.zxid = max(self.zxid + 1, min(parsed.wall_ms * ZXIDS_PER_MILLISECOND, ZXID_MAX >> 1))
                elif isinstance(command, DigestNow):
                    digest_now = True
                elif isinstance(command, Raise):
                    self._raise_level(command.level, sink)
        self.slot = slot
        # A replica that is still busy with much of an earlier digest leaves this one out: after its start, say, when
        # all is to be hashed. Others have it, and the next one it compares with theirs.
        if digest_now and not self._digest.crowded:
            self.freeze()

    def _apply_change(self, slot: int, value: bytes, sink: Sink) -> None:
        """Other members, if the change follows the present configuration by one step; else nothing happens."""
        try:
            before = Configuration.decode(self.configuration)
            after = before.after(value)
        except ConfigError as unknown:
            raise UnknownCommand(str(unknown)) from unknown
        self.slot = slot
        if after is not before:
            self.configuration = after.encode()
            self.zxid += 1
            self._writer.zxid = self.zxid
            self._writer.configure(self.configuration)
            self._writer.settle(sink)

    def _pass_time(self, batch: Batch, sink: Sink) -> None:
        """Move cell time on, never back; empty containers go when it passes a mark."""
        self._writer.wall_ms = batch.wall_ms
        before = self.cell_time_ms
        now = max(before, batch.cell_time_ms)
        self.cell_time_ms = now
        if self.containers and now // CONTAINER_REAP_MS > before // CONTAINER_REAP_MS:
            self._reap_containers(sink)

    def _raise_level(self, level: int, sink: Sink) -> None:
        """Other rules are in force from here on; clients find the level in the reserved znode."""
        if level > self.feature_level:
            self.zxid += 1
            self._writer.zxid = self.zxid
            self.feature_level = level
            self._writer.replace(self.nodes[FEATURES], self.features())
            self._writer.settle(sink)

    def _reap_containers(self, sink: Sink) -> None:
        """Delete containers that had children and have none: the way they are meant to go."""
        writer = self._writer
        reaped = 0
        for path in sorted(self.containers):
            node = self.nodes[path]
            if node.children is None and node.creates > 0:
                self.zxid += 1
                writer.zxid = self.zxid
                writer.remove(node, self.nodes[parent_path(path)])
                writer.settle(sink)
                reaped += 1
                if reaped == CONTAINERS_REAPED_MAX:
                    return

    def _apply_group(self, group: Group, batch: bytes, sink: Sink) -> None:
        """Apply what an origin forwarded, exactly once and in its order, or skip it whole."""
        boot, seq = group.boot, group.seq
        known_boot, known_seq = self.origins.get(group.origin, (0, 0))
        if not (seq == known_seq + 1 if boot == known_boot else boot > known_boot and seq == 1):
            sink.group_skipped(group.origin, boot, seq)
            return
        self.origins[group.origin] = (boot, seq)
        local = group.origin == sink.origin and boot == sink.boot
        touched: list[int] = []
        for item in group.items:
            if isinstance(item, Slice):
                out = sink.output(item.session, item.attach_epoch) if local else None
                session = self.sessions.get(item.session)
                if session is not None and session.attach_epoch == item.attach_epoch:
                    self._revive(session)
                    touched.append(session.id)
                    self._apply_slice(session, batch, item.start, item.end, out, sink)
                elif out is not None:
                    self._refuse_slice(ERR_SESSION_EXPIRED if session is None else ERR_SESSION_MOVED, batch, item, out)
            elif isinstance(item, CreateSession):
                self._create_session(item, local, sink)
            elif isinstance(item, Attach):
                self._attach_session(item, local, sink)
            elif isinstance(item, Auth):
                self._authenticate(item, local, touched, sink)
        if touched:
            sink.sessions_touched(touched)
        sink.group_applied(group.origin, boot, seq)

    # -- sessions --------------------------------------------------------------------------------------

    def _revive(self, session: Session) -> None:
        """A logged frame of a session shows that its client lives."""
        if session.silent_since_ms is not None:
            self.touch_session(session)
            session.silent_since_ms = None

    def _create_session(self, item: CreateSession, local: bool, sink: Sink) -> None:
        if len(self.sessions) >= SESSIONS_MAX:
            if local:
                sink.opened(item.conn, 0, 0, 0)
            return
        self.zxid += 1
        timeout_ms = min(max(item.timeout_ms, 1), SESSION_TIMEOUT_MS_MAX)
        session = self.new_session(self.zxid, timeout_ms, item.password_hash)
        if local:
            sink.opened(item.conn, session.id, session.attach_epoch, timeout_ms)
        sink.session_opened(session.id, timeout_ms)

    def _attach_session(self, item: Attach, local: bool, sink: Sink) -> None:
        session = self.sessions.get(item.session)
        if session is None or session.password_hash != item.password_hash or session.attach_epoch >= 0xFFFF_FFFF:
            if local:
                sink.opened(item.conn, 0, 0, 0)
            return
        self.touch_session(session)
        session.attach_epoch += 1
        session.timeout_ms = min(max(item.timeout_ms, 1), SESSION_TIMEOUT_MS_MAX)
        session.silent_since_ms = None
        # Identities belong to a connection: the new one proves its own, as clients do after a reconnect.
        session.identities = []
        # The older connection goes before the new one takes its place in the host's tables.
        sink.session_moved(session.id, session.attach_epoch)
        if local:
            sink.opened(item.conn, session.id, session.attach_epoch, session.timeout_ms)

    def _authenticate(self, item: Auth, local: bool, touched: list[int], sink: Sink) -> None:
        stated = item.scheme == IP  # by the origin, of its connection: nobody waits for an answer
        out = sink.output(item.session, item.attach_epoch) if local and not stated else None
        session = self.sessions.get(item.session)
        if session is None or session.attach_epoch != item.attach_epoch:
            if out is not None:
                code = ERR_SESSION_EXPIRED if session is None else ERR_SESSION_MOVED
                out.append(reply(item.xid, self.zxid, code))
            return
        self._revive(session)
        touched.append(session.id)
        identity: Identity = (item.scheme, item.identity)
        kept = [known for known in session.identities if not (stated and known[0] == IP)]
        err = OK
        if identity not in kept:
            if len(kept) < IDENTITIES_MAX:
                kept.append(identity)
            else:
                err = ERR_AUTH_FAILED
        if kept != session.identities:
            self.touch_session(session)
            session.identities = kept
        if out is not None:
            out.append(reply(item.xid, self.zxid, err))

    def _apply_liveness(self, command: Liveness, sink: Sink) -> None:
        """What a leader says of a session; void if another leader has opened or the session was attached anew."""
        session = self.sessions.get(command.session)
        if session is None or session.attach_epoch != command.attach_epoch or command.ballot != self.opening_ballot:
            return
        if command.kind == COMMAND_EXPIRE:
            self.zxid += 1
            self._end_session(session, sink)
            sink.session_ended(session.id)
            return
        since = command.since_cell_ms if command.kind == COMMAND_SILENT else None
        if session.silent_since_ms != since:
            self.touch_session(session)
            session.silent_since_ms = since
        if since is None:
            sink.session_awake(session.id)

    def _end_session(self, session: Session, sink: Sink) -> None:
        """Delete a session and its ephemerals, all with the present zxid."""
        writer = self._writer
        writer.zxid = self.zxid
        for path in sorted(session.ephemerals):
            writer.remove(self.nodes[path], self.nodes[parent_path(path)])
        writer.settle(sink)
        self.remove_session(session)

    # -- frames ----------------------------------------------------------------------------------------

    def _apply_slice(
        self, session: Session, data: bytes, at: i64, end: i64, out: list[bytes] | None, sink: Sink
    ) -> None:
        """Apply a run of frames: the hot path.

        Handled here, when nothing is unusual: setData, create(2) of a plain or sequential, lasting or
        ephemeral znode, and delete, below znodes that are open to the world. All else goes to `_apply_frame`.
        """
        if not self._fast:
            while at < end:
                at = self._apply_frame(session, data, at, end, out, sink)
            return
        nodes = self.nodes
        watches = self.watches
        watched = watches.table
        wall_ms = self._writer.wall_ms
        size: i64
        value_end: i64
        acl_end: i64
        while at + 16 <= end:
            length = int32_at(data, at)
            op = int32_at(data, at + 8)
            path_bytes = int32_at(data, at + 12)
            frame_end = at + 4 + length
            path_end = at + 16 + path_bytes
            if length < 12 or frame_end > end or path_bytes < 1 or path_end + 4 > frame_end:
                at = self._apply_frame(session, data, at, end, out, sink)
                continue
            if op == OP_SET_DATA:
                node = nodes.get(data[at + 16 : path_end])
                size = int32_at(data, path_end)
                value_end = path_end + 4 + size
                if (
                    node is not None
                    and node.acl.world & PERM_WRITE
                    and 0 <= size <= VALUE_BYTES_MAX
                    and value_end + 4 == frame_end
                ):
                    wanted = int32_at(data, value_end)
                    version = node.version
                    if wanted == -1 or wanted == version:
                        zxid = self.zxid + 1
                        self.zxid = zxid
                        self.touch(node)
                        old = node.data
                        self.data_bytes += size if old is None else size - len(old)
                        node.data = data[path_end + 4 : value_end]
                        version = version + 1 if 0 <= version < 2147483647 else next_version(version)
                        node.version = version
                        node.mzxid = zxid
                        node.mtime = wall_ms
                        if watched:
                            watches.changed(node.path, node.acl, zxid, sink)
                        if out is not None:
                            xid = int32_at(data, at + 4)
                            if node.is_plain():
                                # To struct an integer is an object: those that it gets twice are made once.
                                now: object = zxid
                                czxid: object = node.czxid
                                out.append(
                                    _PACK_PLAIN_SET_REPLY(
                                        _SET_REPLY_BYTES,
                                        xid,
                                        now,
                                        czxid,
                                        now,
                                        node.ctime,
                                        wall_ms,
                                        version,
                                        size,
                                        czxid,
                                    )
                                )
                            else:
                                out.append(_PACK_REPLY(_SET_REPLY_BYTES, xid, zxid) + stat_bytes(node))
                        at = frame_end
                        continue
            elif op in _CREATES:
                size = int32_at(data, path_end)
                value_end = path_end + 4 + size
                acl_end = value_end + _OPEN_WIRE_BYTES
                if 0 <= size <= VALUE_BYTES_MAX and acl_end + 4 == frame_end and data[value_end:acl_end] == OPEN_WIRE:
                    path = data[at + 16 : path_end]
                    flags = int32_at(data, acl_end)
                    slash = path.rfind(b"/")
                    # A slash at 1 is that of `//name` or `x/name`: no parent has a path of one byte but the root.
                    parent = nodes.get(path[:slash]) if slash > 1 else nodes[ROOT] if slash == 0 else None
                    name = path[slash + 1 :]
                    if (
                        parent is not None
                        and 0 <= flags <= 3
                        and parent.acl.world & PERM_CREATE
                        and parent.owner <= 0
                        and not name.lstrip(_PLAIN)
                    ):
                        if flags >= 2 and parent.creates <= SEQUENCE_MAX:
                            suffix = b"%010d" % parent.creates
                            name += suffix
                            path += suffix
                            flags -= 2
                        if flags < 2 and path not in nodes and name not in _DOTS:
                            zxid = self.zxid + 1
                            self.zxid = zxid
                            self.touch(parent)
                            parent.creates += 1
                            parent.pzxid = zxid
                            node = Znode(
                                path,
                                data[path_end + 4 : value_end],
                                OPEN_ACL,
                                zxid,
                                wall_ms,
                                session.id if flags else 0,
                                self.era,
                                self._snapshot_epoch,
                            )
                            self.attach(node, parent)
                            if watched:
                                watches.created(path, OPEN_ACL, parent.path, parent.acl, zxid, sink)
                            if out is not None:
                                xid = int32_at(data, at + 4)
                                if op == OP_CREATE:
                                    out.append(_PACK_PATH_REPLY(20 + len(path), xid, zxid, len(path)) + path)
                                else:
                                    out.append(
                                        _PACK_PATH_REPLY(20 + STAT_BYTES + len(path), xid, zxid, len(path))
                                        + path
                                        + stat_bytes(node)
                                    )
                            at = frame_end
                            continue
            elif op == OP_DELETE:
                node = nodes.get(data[at + 16 : path_end])
                if node is not None and node.children is None and path_end + 4 == frame_end:
                    wanted = int32_at(data, path_end)
                    path = node.path
                    if (wanted == -1 or wanted == node.version) and path not in SPECIAL:
                        parent = nodes[path[: path.rfind(b"/")] or ROOT]
                        if parent.acl.world & PERM_DELETE:
                            zxid = self.zxid + 1
                            self.zxid = zxid
                            self.touch(node)
                            self.touch(parent)
                            parent.pzxid = zxid
                            self.detach(node, parent)
                            if watched:
                                watches.deleted(path, node.acl, parent.path, parent.acl, zxid, sink)
                            if out is not None:
                                out.append(_PACK_REPLY(16, int32_at(data, at + 4), zxid))
                            at = frame_end
                            continue
            at = self._apply_frame(session, data, at, end, out, sink)
        # What is left is shorter than any write but closeSession.
        while at < end:
            at = self._apply_frame(session, data, at, end, out, sink)

    def _apply_frame(
        self, session: Session, data: bytes, at: i64, end: i64, out: list[bytes] | None, sink: Sink
    ) -> i64:
        """Apply any one frame; returns where the next one begins, or `end` when the rest cannot be applied.

        An origin forwards whole frames only. Should one cross the end of its slice, the rest is dropped, on
        every replica alike.
        """
        if at + 12 > end:
            return end
        length, xid, op = int32_at(data, at), int32_at(data, at + 4), int32_at(data, at + 8)
        frame_end = at + 4 + length
        if length < 8 or frame_end > end:
            return end
        if op == OP_CLOSE_SESSION:
            self.zxid += 1
            self._end_session(session, sink)
            if out is not None:
                out.append(reply(xid, self.zxid, OK))
            sink.session_ended(session.id)
            return end
        if op in _WRITES:
            self.zxid += 1
            body = self._write(op, Scanner(data, at + 12, frame_end), session, sink, answered=out is not None)
        else:
            body = ERR_UNIMPLEMENTED
        if out is not None:
            if isinstance(body, int):
                out.append(reply(xid, self.zxid, body))
            else:
                out.append(_PACK_REPLY(16 + len(body), xid, self.zxid) + body)
        return frame_end

    def _write(self, op: int, scanner: Scanner, session: Session, sink: Sink, *, answered: bool) -> bytes | int:
        """Parse and apply one write; the body of its reply, if somebody waits for it, or its error code."""
        writer = self._writer
        writer.zxid = self.zxid
        writer.session = session
        if op == OP_MULTI:
            body = set_all(scanner, writer, sink, answered=answered) if self._fast else None
            if body is not None:
                return body
            operations = parse_multi(scanner)
            return operations if isinstance(operations, int) else run_multi(operations, writer, sink, answered=answered)
        if op == OP_RECONFIG:
            return ERR_RECONFIG_DISABLED
        path = scanner.field()
        if path is None:
            return ERR_MARSHALLING
        result: Znode | int
        if op == OP_DELETE:
            version = scanner.int32()
            result = ERR_MARSHALLING if scanner.bad else writer.delete(path, version)
        elif op == OP_SET_DATA:
            value, version = scanner.field(), scanner.int32()
            result = ERR_MARSHALLING if scanner.bad else writer.set_data(path, value, version)
        elif op == OP_SET_ACL:
            acl, version = scan_entries(scanner), scanner.int32()
            result = ERR_MARSHALLING if scanner.bad else writer.set_acl(path, acl, version)
        else:
            value, acl, flags = scanner.field(), scan_entries(scanner), scanner.int32()
            if scanner.bad:
                result = ERR_MARSHALLING
            elif op == OP_CREATE_TTL:
                result = ERR_UNIMPLEMENTED
            else:
                result = writer.create(path, value, acl, flags, container=op == OP_CREATE_CONTAINER)
        if isinstance(result, int):
            if result != OK:
                return result
            writer.settle(sink)
            return b""
        writer.settle(sink)
        if not answered:
            return b""
        if op in (OP_SET_DATA, OP_SET_ACL):
            return stat_bytes(result)
        named = len(result.path).to_bytes(4, "big") + result.path
        return named if op == OP_CREATE else named + stat_bytes(result)

    def _refuse_slice(self, err: int, data: bytes, item: Slice, out: list[bytes]) -> None:
        """Answer every frame of a slice whose session is over or has moved. It takes no zxid."""
        at, end = item.start, item.end
        while at + 12 <= end:
            length, xid = int32_at(data, at), int32_at(data, at + 4)
            at += 4 + length
            if length < 8 or at > end:
                return
            out.append(reply(xid, self.zxid, err))

    # -- reading ---------------------------------------------------------------------------------------

    def read(self, frame: bytes, session: int, conn: int, sink: Sink) -> bytes:
        """The whole reply frame to one read; its watch is registered in the same step. Total.

        Args:
            frame: one whole frame of a client, with its length.
            session: who asks; decides what it may see.
            conn: where its watches belong.
            sink: takes the events that setWatches finds missed.
        """
        size: i64 = len(frame)
        if size >= 18 and self._fast:
            xid, op, path_bytes = int32_at(frame, 4), int32_at(frame, 8), int32_at(frame, 12)
            path_end = 16 + path_bytes
            if path_bytes > 0 and path_end + 1 == size:
                node = self.nodes.get(frame[16:path_end])
                if node is not None and node.acl.world & PERM_READ:
                    watch = frame[path_end]
                    if op == OP_GET_DATA:
                        data = node.data
                        if data is not None and (not watch or self.watches.add(conn, session, node.path, DATA)):
                            if self._told_zxid != self.zxid:  # all reads between two writes tell the same
                                self._told_zxid = self.zxid
                                self._told = self.zxid.to_bytes(8, "big") + _OK_BYTES
                            count = len(data)
                            # As in `encode_slice_of`. The xid is told as it came.
                            return b"%b%b%b%b%b%b" % (
                                int32_bytes(88 + count),
                                frame[4:8],
                                self._told,
                                int32_bytes(count),
                                data,
                                node.stat or stat_bytes(node),
                            )
                    elif op == OP_EXISTS:
                        if not watch or self.watches.add(conn, session, node.path, DATA):
                            return _PACK_REPLY(84, xid, self.zxid) + (node.stat or stat_bytes(node))
                    elif op in _GET_CHILDREN and (not watch or self.watches.add(conn, session, node.path, CHILD)):
                        names = node.listing or names_bytes(node)
                        if op == OP_GET_CHILDREN:
                            return _PACK_REPLY(16 + len(names), xid, self.zxid) + names
                        return _PACK_REPLY(84 + len(names), xid, self.zxid) + names + (node.stat or stat_bytes(node))
        return self._reader.answer(frame, session, conn, sink)

    def forget(self, conn: int) -> None:
        """A connection is gone: so are its watches."""
        self.watches.forget(conn)
