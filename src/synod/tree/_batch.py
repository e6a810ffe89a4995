"""The layout of a batch: what one slot of the log tells the state machine to do.

    value    := batch | a change of the members, whose first byte is the version of no batch (`synod.base.Change`)
    batch    := version u8, feature level u16, cell time i64 ms, wall stamp i64 ms, count u32,
                (length u32, command)*
    command  := GROUP | OPENING | EXPIRE | SILENT | AWAKE | DIGEST_NOW | RAISE      (first byte: its kind)
    group    := kind, origin u16, boot u64, seq u64, count u32, item*
    item     := kind u8, length u32 of what follows, body
    slice    := session i64, attach epoch u32, count u32, frame*            (frames as the client sent them)

All integers are big-endian. The empty batch `b""` is the no-op that fills a gap and is never encoded here.
A batch is written by a leader of the cell, a group by a replica; a client can only choose the bytes *inside*
the frames of a slice. So a kind or level that is unknown here means that this replica is older than the cell
(or that the log is damaged): it must stop, because skipping would make it differ from its peers.

Read `encode_batch`, `encode_group` and `encode_slice`, then `parse_batch`, which checks the whole layout
before anything is applied.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from synod.base import Ballot, SynodError

from ._scan import int32_bytes, int64_at, uint32_at

if TYPE_CHECKING:
    from mypy_extensions import i64

BATCH_VERSION: Final = 1
"""The layout that this module writes; another one is a reason to stop."""

FEATURE_LEVEL_FIRST: Final = 1
"""Every cell begins with the rules of this level, whichever version forms it."""

FEATURE_LEVEL: Final = 1
"""The highest feature level whose rules `apply` knows. Every change of its behaviour raises this number, and is in
force only where `State.feature_level` is at least that: see docs/decisions/upgrades.md."""

PASSWORD_HASH_BYTES: Final = 16
"""A session's password is known to the state only by a hash of this many bytes."""

COMMAND_GROUP: Final = 1
COMMAND_OPENING: Final = 2
COMMAND_EXPIRE: Final = 3
COMMAND_SILENT: Final = 4
COMMAND_AWAKE: Final = 5
COMMAND_DIGEST_NOW: Final = 6
COMMAND_RAISE: Final = 7

ITEM_SLICE: Final = 1
ITEM_CREATE_SESSION: Final = 2
ITEM_ATTACH: Final = 3
ITEM_AUTH: Final = 4

_BATCH: Final = struct.Struct(">BHqqI")
_GROUP: Final = struct.Struct(">BHQQI")
_CREATE_SESSION: Final = struct.Struct(">BIqi16s")
_ATTACH: Final = struct.Struct(">BIqqi16s")
_AUTH: Final = struct.Struct(">BIqIiH")
_OPENING: Final = struct.Struct(">BQI")
_EXPIRE: Final = struct.Struct(">BqIQI")
_SILENT: Final = struct.Struct(">BqIQIq")
_KIND: Final = struct.Struct(">B")
_RAISE: Final = struct.Struct(">BH")

# Bound once: every batch has these, and looking a method up is a part of the price of its call.
_PACK_BATCH: Final = _BATCH.pack
_UNPACK_BATCH: Final = _BATCH.unpack_from
_PACK_GROUP: Final = _GROUP.pack
_UNPACK_GROUP: Final = _GROUP.unpack_from
_BATCH_BYTES: Final[int] = _BATCH.size
_LENGTH_BYTES: Final = 4
_GROUP_BYTES: Final[int] = _GROUP.size
_ITEM_BYTES: Final = 5  # its kind and length
_SLICE_BODY_BYTES: Final = 16  # its session, attach epoch and count
_SLICE_KIND: Final = bytes((ITEM_SLICE,))
_SLICE_OWNER: Final = struct.Struct(">qI")
_CREATE_SESSION_BODY: Final = struct.Struct(">qi16s")
_ATTACH_BODY: Final = struct.Struct(">qqi16s")
_AUTH_BODY: Final = struct.Struct(">qIiH")


class UnknownCommand(SynodError):
    """The log, or a snapshot, holds what this version does not know: the replica stops, it never skips.

    Definite: nothing of the batch was applied.
    """


# -- writing ---------------------------------------------------------------------------------------------


def encode_batch(*, feature_level: int, cell_time_ms: int, wall_ms: int, commands: Sequence[bytes]) -> bytes:
    """One slot's value: the commands in the order in which they are applied.

    Args:
        feature_level: the cell's, not the writer's.
        cell_time_ms: the sum of the leaders' monotonic deltas; drives silence and the reaping of containers.
        wall_ms: milliseconds since 1970, only ever shown as ctime and mtime.
        commands: at least none; a batch without commands still carries the cell time.
    """
    parts: list[bytes] = [_PACK_BATCH(BATCH_VERSION, feature_level, cell_time_ms, wall_ms, len(commands))]
    for command in commands:
        parts.append(int32_bytes(len(command)))
        parts.append(command)
    return b"".join(parts)


def encode_group(origin: int, boot: int, seq: int, items: Sequence[bytes]) -> bytes:
    """A command: everything that one origin forwards at once.

    An origin's groups are one ordered stream, seq 1, 2, 3, ... in each boot.
    """
    head: bytes = _PACK_GROUP(COMMAND_GROUP, origin, boot, seq, len(items))
    return head + b"".join(items)


def encode_slice(session: int, attach_epoch: int, count: int, frames: bytes) -> bytes:
    """An item: a run of `count` raw client frames of one connection, each with its 4-byte length."""
    return encode_slice_of(slice_owner(session, attach_epoch), count, frames)


def slice_owner(session: int, attach_epoch: int) -> bytes:
    """Whose slice it is, for `encode_slice_of`: of one connection that is always the same."""
    return _SLICE_OWNER.pack(session, attach_epoch)


def encode_slice_of(owner: bytes, count: int, frames: bytes) -> bytes:
    """The same, for one who makes many."""
    # Compiled, this is one piece of memory and a copy for each part; a struct costs two and a half times as much.
    length = int32_bytes(_SLICE_BODY_BYTES + len(frames))
    return b"%b%b%b%b%b" % (_SLICE_KIND, length, owner, int32_bytes(count), frames)


def encode_create_session(conn: int, timeout_ms: int, password_hash: bytes) -> bytes:
    """An item: open a session for the connection `conn` of the group's origin."""
    return _CREATE_SESSION.pack(ITEM_CREATE_SESSION, _CREATE_SESSION_BODY.size, conn, timeout_ms, password_hash)


def encode_attach(conn: int, session: int, password_hash: bytes, timeout_ms: int) -> bytes:
    """An item: move a session to the connection `conn` of the group's origin."""
    return _ATTACH.pack(ITEM_ATTACH, _ATTACH_BODY.size, conn, session, timeout_ms, password_hash)


def encode_auth(session: int, attach_epoch: int, xid: int, scheme: bytes, identity: bytes) -> bytes:
    """An item: the session has proved an identity. What proved it never enters the log.

    The scheme `ip` is the origin's own statement about the connection's address: it replaces the earlier
    one and is not answered. All others are answered with `xid`.
    """
    length = _AUTH_BODY.size + len(scheme) + len(identity)
    return _AUTH.pack(ITEM_AUTH, length, session, attach_epoch, xid, len(scheme)) + scheme + identity


def encode_opening(ballot: Ballot) -> bytes:
    """A command: the leader of this ballot begins; expiries of other leaders are void from here on."""
    return _OPENING.pack(COMMAND_OPENING, ballot[0], ballot[1])


def encode_expire(session: int, attach_epoch: int, ballot: Ballot) -> bytes:
    """A command: the session's lease is over, unless it was attached anew or another leader opened."""
    return _EXPIRE.pack(COMMAND_EXPIRE, session, attach_epoch, ballot[0], ballot[1])


def encode_silent(session: int, attach_epoch: int, ballot: Ballot, since_cell_ms: int) -> bytes:
    """A command: the session has been silent since that cell time."""
    return _SILENT.pack(COMMAND_SILENT, session, attach_epoch, ballot[0], ballot[1], since_cell_ms)


def encode_awake(session: int, attach_epoch: int, ballot: Ballot) -> bytes:
    """A command: the session's silence has ended."""
    return _EXPIRE.pack(COMMAND_AWAKE, session, attach_epoch, ballot[0], ballot[1])


def encode_digest_now() -> bytes:
    """A command: compute a digest of the state as it is after this slot."""
    return _KIND.pack(COMMAND_DIGEST_NOW)


def encode_raise(level: int) -> bytes:
    """A command: from the next command on, the rules of this feature level are in force."""
    return _RAISE.pack(COMMAND_RAISE, level)


# -- reading ---------------------------------------------------------------------------------------------


def group_header(group: bytes) -> tuple[int, int, int, int]:
    """The (origin, boot, seq, count of items) of an encoded group.

    Raises:
        UnknownCommand: the bytes are not a group.
    """
    if len(group) < _GROUP.size or group[0] != COMMAND_GROUP:
        raise UnknownCommand("these bytes are no group of forwarded items")
    _, origin, boot, seq, count = _GROUP.unpack_from(group)
    return origin, boot, seq, count


class Slice:
    """A run of raw client frames of one connection: `batch[start:end]`."""

    __slots__ = ("attach_epoch", "end", "session", "start")

    def __init__(self, session: int, attach_epoch: int, start: i64, end: i64) -> None:
        self.session = session
        self.attach_epoch = attach_epoch
        self.start: i64 = start
        self.end: i64 = end


class CreateSession:
    """A new session for a connection of the group's origin."""

    __slots__ = ("conn", "password_hash", "timeout_ms")

    def __init__(self, conn: int, timeout_ms: int, password_hash: bytes) -> None:
        self.conn = conn
        self.timeout_ms = timeout_ms
        self.password_hash = password_hash


class Attach:
    """A session moves to a connection of the group's origin."""

    __slots__ = ("conn", "password_hash", "session", "timeout_ms")

    def __init__(self, conn: int, session: int, timeout_ms: int, password_hash: bytes) -> None:
        self.conn = conn
        self.session = session
        self.timeout_ms = timeout_ms
        self.password_hash = password_hash


class Auth:
    """A session has proved an identity."""

    __slots__ = ("attach_epoch", "identity", "scheme", "session", "xid")

    def __init__(self, session: int, attach_epoch: int, xid: int, scheme: bytes, identity: bytes) -> None:
        self.session = session
        self.attach_epoch = attach_epoch
        self.xid = xid
        self.scheme = scheme
        self.identity = identity


Item = Slice | CreateSession | Attach | Auth


class Group:
    """Everything that one origin forwarded at once."""

    __slots__ = ("boot", "items", "origin", "seq")

    def __init__(self, origin: int, boot: int, seq: int, items: list[Item]) -> None:
        self.origin = origin
        self.boot = boot
        self.seq = seq
        self.items = items


class Opening:
    """The leader of this ballot begins."""

    __slots__ = ("ballot",)

    def __init__(self, ballot: Ballot) -> None:
        self.ballot = ballot


class Liveness:
    """What a leader says of a session: expired, silent (since `since_cell_ms`) or awake again."""

    __slots__ = ("attach_epoch", "ballot", "kind", "session", "since_cell_ms")

    def __init__(self, kind: int, session: int, attach_epoch: int, ballot: Ballot, since_cell_ms: int) -> None:
        self.kind = kind
        self.session = session
        self.attach_epoch = attach_epoch
        self.ballot = ballot
        self.since_cell_ms = since_cell_ms


class DigestNow:
    """Compute a digest of the state after this slot."""

    __slots__ = ()


class Raise:
    """The cell's feature level becomes this, if it is higher than before."""

    __slots__ = ("level",)

    def __init__(self, level: int) -> None:
        self.level = level


Command = Group | Opening | Liveness | DigestNow | Raise


class Batch:
    """A parsed batch; the frames of its slices are still where they were."""

    __slots__ = ("cell_time_ms", "commands", "wall_ms")

    def __init__(self, cell_time_ms: int, wall_ms: int, commands: list[Command]) -> None:
        self.cell_time_ms = cell_time_ms
        self.wall_ms = wall_ms
        self.commands = commands


def parse_batch(data: bytes, supported_level: int = FEATURE_LEVEL) -> Batch:
    """Check the layout of a whole batch, down to the borders of its slices, before anything is applied.

    Args:
        data: the value of a slot.
        supported_level: the highest feature level whose rules the reader knows.

    Raises:
        UnknownCommand: a version, level or kind that this code does not know, or a broken layout.
    """
    if len(data) < _BATCH_BYTES:
        raise UnknownCommand(f"a batch of {len(data)} bytes has no header")
    # What struct gives is of no type that mypyc knows: declared, it is unboxed, and a sum is no call. So below.
    version: int
    level: int
    cell_time_ms: int
    wall_ms: int
    count: int
    version, level, cell_time_ms, wall_ms, count = _UNPACK_BATCH(data)
    if version != BATCH_VERSION:
        raise UnknownCommand(f"the batch has layout version {version}; this replica knows {BATCH_VERSION}")
    check_level(level, supported_level)
    commands: list[Command] = []
    at: i64 = _BATCH_BYTES
    size: i64 = len(data)
    for _ in range(count):
        if size - at < _LENGTH_BYTES:
            raise UnknownCommand("a batch ends before its last command")
        length = uint32_at(data, at)
        at += _LENGTH_BYTES
        if not 1 <= length <= size - at:
            raise UnknownCommand(f"a command of {length} bytes does not fit into its batch")
        command = _parse_command(data, at, at + length)
        if isinstance(command, Raise):
            check_level(command.level, supported_level)
        commands.append(command)
        at += length
    if at != size:
        raise UnknownCommand("bytes follow the last command of a batch")
    return Batch(cell_time_ms, wall_ms, commands)


def check_level(level: int, supported_level: int) -> None:
    """Refuse the rules of a version that knows more.

    Raises:
        UnknownCommand: this replica would apply the log differently from its peers.
    """
    if not FEATURE_LEVEL_FIRST <= level <= supported_level:
        raise UnknownCommand(
            f"the cell runs at feature level {level}, and this version of synod knows the levels "
            f"{FEATURE_LEVEL_FIRST} to {supported_level}; start this replica with the version that its peers run"
        )


def _parse_command(data: bytes, at: i64, end: i64) -> Command:
    kind = data[at]
    if kind == COMMAND_GROUP:
        return _parse_group(data, at, end)
    if kind == COMMAND_OPENING:
        _demand(end - at == _OPENING.size, "opening")
        _, round_, replica = _OPENING.unpack_from(data, at)
        return Opening(Ballot(round_, replica))
    if kind in (COMMAND_EXPIRE, COMMAND_AWAKE):
        _demand(end - at == _EXPIRE.size, "expiry")
        _, session, attach_epoch, round_, replica = _EXPIRE.unpack_from(data, at)
        return Liveness(kind, session, attach_epoch, Ballot(round_, replica), 0)
    if kind == COMMAND_SILENT:
        _demand(end - at == _SILENT.size, "silence")
        _, session, attach_epoch, round_, replica, since = _SILENT.unpack_from(data, at)
        return Liveness(kind, session, attach_epoch, Ballot(round_, replica), since)
    if kind == COMMAND_DIGEST_NOW:
        _demand(end - at == _KIND.size, "digest")
        return DigestNow()
    if kind == COMMAND_RAISE:
        _demand(end - at == _RAISE.size, "raise")
        return Raise(_RAISE.unpack_from(data, at)[1])
    raise UnknownCommand(f"the batch holds a command of the unknown kind {kind}")


def _parse_group(data: bytes, at: i64, end: i64) -> Group:
    _demand(end - at >= _GROUP_BYTES, "group")
    origin: int
    boot: int
    seq: int
    count: int
    _, origin, boot, seq, count = _UNPACK_GROUP(data, at)
    at += _GROUP_BYTES
    items: list[Item] = []
    for _item in range(count):
        _demand(end - at >= _ITEM_BYTES, "item")
        kind, item_end = data[at], at + _ITEM_BYTES + uint32_at(data, at + 1)
        _demand(item_end <= end, "item")
        items.append(_parse_item(kind, data, at + _ITEM_BYTES, item_end))
        at = item_end
    _demand(at == end, "group")
    return Group(origin, boot, seq, items)


def _parse_item(kind: int, data: bytes, at: i64, end: i64) -> Item:
    if kind == ITEM_SLICE:
        _demand(end - at >= _SLICE_BODY_BYTES, "slice")
        return Slice(int64_at(data, at), uint32_at(data, at + 8), at + _SLICE_BODY_BYTES, end)
    if kind == ITEM_CREATE_SESSION:
        _demand(end - at == _CREATE_SESSION_BODY.size, "session")
        return CreateSession(*_CREATE_SESSION_BODY.unpack_from(data, at))
    if kind == ITEM_ATTACH:
        _demand(end - at == _ATTACH_BODY.size, "attach")
        return Attach(*_ATTACH_BODY.unpack_from(data, at))
    if kind == ITEM_AUTH:
        _demand(end - at >= _AUTH_BODY.size, "auth")
        session: int
        attach_epoch: int
        xid: int
        scheme_bytes: int
        session, attach_epoch, xid, scheme_bytes = _AUTH_BODY.unpack_from(data, at)
        at += _AUTH_BODY.size
        _demand(scheme_bytes <= end - at, "auth")
        return Auth(session, attach_epoch, xid, data[at : at + scheme_bytes], data[at + scheme_bytes : end])
    raise UnknownCommand(f"a group holds an item of the unknown kind {kind}")


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise UnknownCommand(f"the layout of a batch is broken in a command or item: {what}")
