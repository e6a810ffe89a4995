"""What clients send: one class per record, with its operation code, `encode` and `take`.

`frame` puts the length and the header {xid, op} in front; `decode_request` goes the other way. `REQUESTS` is the
table of all of them. Records of a multi stand here too, as their members are requests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from synod.base import LocalProtocolError, RemoteProtocolError

from ._codes import (
    CREATE_CONTAINER,
    FRAME_BYTES_MAX,
    OP_ADD_WATCH,
    OP_AUTH,
    OP_CHECK,
    OP_CHECK_WATCHES,
    OP_CLOSE_SESSION,
    OP_CREATE,
    OP_CREATE2,
    OP_CREATE_CONTAINER,
    OP_CREATE_TTL,
    OP_DELETE,
    OP_EXISTS,
    OP_EXTENSION,
    OP_GET_ACL,
    OP_GET_ALL_CHILDREN_NUMBER,
    OP_GET_CHILDREN,
    OP_GET_CHILDREN2,
    OP_GET_DATA,
    OP_GET_EPHEMERALS,
    OP_MULTI,
    OP_MULTI_READ,
    OP_PING,
    OP_RECONFIG,
    OP_REMOVE_WATCHES,
    OP_SASL,
    OP_SET_ACL,
    OP_SET_DATA,
    OP_SET_WATCHES,
    OP_SET_WATCHES2,
    OP_SYNC,
    OP_WHO_AM_I,
)
from ._connect import decode_auth
from ._extension import Envelope
from ._jute import Reader, pack_bool, pack_buffer, pack_int, pack_long, pack_string, pack_strings
from ._values import ACL, OPEN_ACL, pack_acls, take_acls

_HEADER: Final = struct.Struct(">iii")
_MULTI_HEADER: Final = struct.Struct(">i?i")
_MULTI_END: Final = _MULTI_HEADER.pack(-1, True, -1)


class Request(Protocol):
    """What every request record can do."""

    @property
    def op(self) -> int:
        """Its operation code."""
        ...

    def encode(self) -> bytes:
        """The record, without header and length."""
        ...


class RequestHeader(NamedTuple):
    """In front of every request but the first packet."""

    xid: int
    op: int


def frame(xid: int, op: int, record: bytes = b"") -> bytes:
    """A whole request: length, header, record.

    Raises:
        LocalProtocolError: it is larger than what a server takes; nothing was sent.
    """
    length = 8 + len(record)
    if length > FRAME_BYTES_MAX:
        raise LocalProtocolError(
            f"a request of {length} bytes is over the limit of {FRAME_BYTES_MAX}; nothing was sent: send less at once"
        )
    return _HEADER.pack(length, xid, op) + record


class Create(NamedTuple):
    """Create a znode; `flags` is one of CREATE_*.

    `with_stat` asks for the stat in the reply (create2). A container (flags 4) and a znode with a time to live
    (`ttl_ms`, flags 5 or 6) have operation codes of their own, and always answer with the stat.
    """

    path: str
    data: bytes = b""
    acl: tuple[ACL, ...] = OPEN_ACL
    flags: int = 0
    with_stat: bool = False
    ttl_ms: int | None = None

    @property
    def op(self) -> int:
        """Its operation code."""
        if self.ttl_ms is not None:
            return OP_CREATE_TTL
        if not self.with_stat:
            return OP_CREATE
        return OP_CREATE_CONTAINER if self.flags == CREATE_CONTAINER else OP_CREATE2

    def encode(self) -> bytes:
        """The record."""
        tail = b"" if self.ttl_ms is None else pack_long(self.ttl_ms)
        head = pack_string(self.path) + pack_buffer(self.data)
        return b"".join((head, pack_acls(self.acl), pack_int(self.flags), tail))


def _take_create(reader: Reader, op: int) -> Create:
    path, data = reader.take_string(), reader.take_buffer() or b""
    acl, flags = take_acls(reader), reader.take_int()
    if op == OP_CREATE_TTL:
        return Create(path, data, acl, flags, with_stat=True, ttl_ms=reader.take_long())
    return Create(path, data, acl, flags, with_stat=op != OP_CREATE)


class Delete(NamedTuple):
    """Delete a znode without children; version -1 is any."""

    path: str
    version: int = -1

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_DELETE

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_int(self.version)


class Exists(NamedTuple):
    """The stat of a znode; a watch is set even where there is none."""

    path: str
    watch: bool = False

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_EXISTS

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_bool(self.watch)


class GetData(NamedTuple):
    """A znode's data and stat."""

    path: str
    watch: bool = False

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_GET_DATA

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_bool(self.watch)


class GetChildren(NamedTuple):
    """The names below a znode; with the znode's stat when asked (getChildren2)."""

    path: str
    watch: bool = False
    with_stat: bool = False

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_GET_CHILDREN2 if self.with_stat else OP_GET_CHILDREN

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_bool(self.watch)


class SetData(NamedTuple):
    """Replace a znode's data; version -1 is any."""

    path: str
    data: bytes
    version: int = -1

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_SET_DATA

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_buffer(self.data) + pack_int(self.version)


class GetACL(NamedTuple):
    """A znode's access control list."""

    path: str

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_GET_ACL

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path)


class SetACL(NamedTuple):
    """Replace a znode's access control list; the version is that of the list (`aversion`)."""

    path: str
    acl: tuple[ACL, ...]
    version: int = -1

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_SET_ACL

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_acls(self.acl) + pack_int(self.version)


class Sync(NamedTuple):
    """Bring the replica up to what the leader has applied."""

    path: str

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_SYNC

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path)


class Check(NamedTuple):
    """Inside a multi: the znode exists and has this version; -1 is any."""

    path: str
    version: int = -1

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_CHECK

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_int(self.version)


Change = Create | Delete | SetData | Check
"""A member of a multi."""
Read = GetData | GetChildren
"""A member of a multiRead."""


class Multi(NamedTuple):
    """All or nothing: every change happens, with one zxid, or none does."""

    changes: tuple[Change, ...]

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_MULTI

    def encode(self) -> bytes:
        """Each change behind a header, and a last header that says done."""
        return _pack_members(self.changes)


class MultiRead(NamedTuple):
    """Several reads at once; each has its own error."""

    reads: tuple[Read, ...]

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_MULTI_READ

    def encode(self) -> bytes:
        """Each read behind a header, and a last header that says done."""
        return _pack_members(self.reads)


def _pack_members(members: tuple[Change, ...] | tuple[Read, ...]) -> bytes:
    parts: list[bytes] = []
    for member in members:
        parts.append(_MULTI_HEADER.pack(member.op, False, -1))
        parts.append(member.encode())
    parts.append(_MULTI_END)
    return b"".join(parts)


def _take_changes(reader: Reader) -> Multi:
    changes: list[Change] = []
    while True:
        op, done = reader.take_int(), reader.take_bool()
        reader.take_int()
        if done:
            return Multi(tuple(changes))
        if op in _CREATES:
            changes.append(_take_create(reader, op))
        elif op == OP_DELETE:
            changes.append(_take_delete(reader))
        elif op == OP_SET_DATA:
            changes.append(_take_set_data(reader))
        elif op == OP_CHECK:
            changes.append(_take_check(reader))
        else:
            raise RemoteProtocolError(f"a multi holds the operation {op}, which is no change")


def _take_reads(reader: Reader) -> MultiRead:
    reads: list[Read] = []
    while True:
        op, done = reader.take_int(), reader.take_bool()
        reader.take_int()
        if done:
            return MultiRead(tuple(reads))
        if op == OP_GET_DATA:
            reads.append(_take_get_data(reader))
        elif op == OP_GET_CHILDREN:
            reads.append(_take_get_children(reader))
        else:
            raise RemoteProtocolError(f"a multiRead holds the operation {op}, which is no read")


class Reconfig(NamedTuple):
    """Change who is a member, as ZooKeeper writes it; what does not apply is None."""

    joining: str | None = None
    leaving: str | None = None
    new_members: str | None = None
    configuration: int = -1

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_RECONFIG

    def encode(self) -> bytes:
        """The record."""
        strings = (pack_string(self.joining), pack_string(self.leaving), pack_string(self.new_members))
        return b"".join((*strings, pack_long(self.configuration)))


class CheckWatches(NamedTuple):
    """Whether this connection has a watch; `type` is one of WATCHER_*."""

    path: str
    type: int

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_CHECK_WATCHES

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_int(self.type)


class RemoveWatches(NamedTuple):
    """Drop a watch of this connection; `type` is one of WATCHER_*."""

    path: str
    type: int

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_REMOVE_WATCHES

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_int(self.type)


class AddWatch(NamedTuple):
    """A watch that stays: on a path (mode 0) or on everything below it as well (mode 1)."""

    path: str
    mode: int

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_ADD_WATCH

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_int(self.mode)


class SetWatches(NamedTuple):
    """What a client watches, after it attached its session elsewhere; `zxid` is the last that it has seen.

    With persistent or recursive watches among them it is setWatches2, which servers before 3.6 do not know.
    """

    zxid: int
    data: tuple[str, ...] = ()
    exist: tuple[str, ...] = ()
    child: tuple[str, ...] = ()
    persistent: tuple[str, ...] | None = None
    recursive: tuple[str, ...] | None = None

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_SET_WATCHES if self.persistent is None and self.recursive is None else OP_SET_WATCHES2

    def encode(self) -> bytes:
        """The record."""
        kinds = [self.data, self.exist, self.child]
        if self.op == OP_SET_WATCHES2:
            kinds += [self.persistent or (), self.recursive or ()]
        return b"".join((pack_long(self.zxid), *[pack_strings(kind) for kind in kinds]))


class Sasl(NamedTuple):
    """A step of a SASL exchange."""

    token: bytes

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_SASL

    def encode(self) -> bytes:
        """The record."""
        return pack_buffer(self.token)


class GetEphemerals(NamedTuple):
    """The paths of this session's ephemerals that begin so."""

    prefix: str = "/"

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_GET_EPHEMERALS

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.prefix)


class GetAllChildrenNumber(NamedTuple):
    """How many znodes there are below this one, at any depth."""

    path: str

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_GET_ALL_CHILDREN_NUMBER

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path)


class Bare(NamedTuple):
    """An operation without a record: ping, closeSession, whoAmI."""

    op: int

    def encode(self) -> bytes:
        """Nothing."""
        return b""


def _take_delete(reader: Reader) -> Delete:
    return Delete(reader.take_string(), reader.take_int())


def _take_set_data(reader: Reader) -> SetData:
    return SetData(reader.take_string(), reader.take_buffer() or b"", reader.take_int())


def _take_check(reader: Reader) -> Check:
    return Check(reader.take_string(), reader.take_int())


def _take_get_data(reader: Reader) -> GetData:
    return GetData(reader.take_string(), reader.take_bool())


def _take_get_children(reader: Reader) -> GetChildren:
    return GetChildren(reader.take_string(), reader.take_bool())


def _take_reconfig(reader: Reader) -> Reconfig:
    strings = [reader.take_string_or_null() for _ in range(3)]
    return Reconfig(strings[0], strings[1], strings[2], reader.take_long())


def _take_set_watches(reader: Reader, op: int) -> SetWatches:
    zxid = reader.take_long()
    data, exist, child = reader.take_strings(), reader.take_strings(), reader.take_strings()
    if op == OP_SET_WATCHES:
        return SetWatches(zxid, data, exist, child)
    return SetWatches(zxid, data, exist, child, reader.take_strings(), reader.take_strings())


_CREATES: Final = (OP_CREATE, OP_CREATE2, OP_CREATE_CONTAINER, OP_CREATE_TTL)

REQUESTS: Final[dict[int, Callable[[Reader], Request]]] = {
    OP_CREATE: lambda r: _take_create(r, OP_CREATE),
    OP_DELETE: _take_delete,
    OP_EXISTS: lambda r: Exists(r.take_string(), r.take_bool()),
    OP_GET_DATA: _take_get_data,
    OP_SET_DATA: _take_set_data,
    OP_GET_ACL: lambda r: GetACL(r.take_string()),
    OP_SET_ACL: lambda r: SetACL(r.take_string(), take_acls(r), r.take_int()),
    OP_GET_CHILDREN: _take_get_children,
    OP_SYNC: lambda r: Sync(r.take_string()),
    OP_PING: lambda _: Bare(OP_PING),
    OP_GET_CHILDREN2: lambda r: GetChildren(r.take_string(), r.take_bool(), with_stat=True),
    OP_CHECK: _take_check,
    OP_MULTI: _take_changes,
    OP_CREATE2: lambda r: _take_create(r, OP_CREATE2),
    OP_RECONFIG: _take_reconfig,
    OP_CHECK_WATCHES: lambda r: CheckWatches(r.take_string(), r.take_int()),
    OP_REMOVE_WATCHES: lambda r: RemoveWatches(r.take_string(), r.take_int()),
    OP_CREATE_CONTAINER: lambda r: _take_create(r, OP_CREATE_CONTAINER),
    OP_CREATE_TTL: lambda r: _take_create(r, OP_CREATE_TTL),
    OP_MULTI_READ: _take_reads,
    OP_AUTH: decode_auth,
    OP_SET_WATCHES: lambda r: _take_set_watches(r, OP_SET_WATCHES),
    OP_SASL: lambda r: Sasl(r.take_buffer() or b""),
    OP_GET_EPHEMERALS: lambda r: GetEphemerals(r.take_string()),
    OP_GET_ALL_CHILDREN_NUMBER: lambda r: GetAllChildrenNumber(r.take_string()),
    OP_SET_WATCHES2: lambda r: _take_set_watches(r, OP_SET_WATCHES2),
    OP_ADD_WATCH: lambda r: AddWatch(r.take_string(), r.take_int()),
    OP_WHO_AM_I: lambda _: Bare(OP_WHO_AM_I),
    OP_CLOSE_SESSION: lambda _: Bare(OP_CLOSE_SESSION),
    OP_EXTENSION: Envelope.take,
}
"""How each operation's record is read."""


def encode_request(xid: int, request: Request) -> bytes:
    """A whole request frame, with its length."""
    return frame(xid, request.op, request.encode())


def decode_request_header(data: bytes) -> tuple[RequestHeader, Reader]:
    """The header of a request frame (without its length), and a reader at its record.

    Raises:
        RemoteProtocolError: the frame is too short for a header.
    """
    reader = Reader(data)
    return RequestHeader(reader.take_int(), reader.take_int()), reader


def decode_request(data: bytes) -> tuple[RequestHeader, Request]:
    """A whole request frame (without its length).

    Raises:
        RemoteProtocolError: malformed, or an operation that this side does not know.
    """
    header, reader = decode_request_header(data)
    take = REQUESTS.get(header.op)
    if take is None:
        raise RemoteProtocolError(f"the operation {header.op} is unknown")
    return header, take(reader)
