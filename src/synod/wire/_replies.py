"""What servers send: the header, one `take_` function per record, and their inverses.

The body means something only when `err` is 0; a multi has an error per operation inside its body.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from synod.base import RemoteProtocolError

from ._codes import (
    EVENT_CHILDREN_CHANGED,
    OP_ADD_WATCH,
    OP_CHECK,
    OP_CREATE,
    OP_CREATE2,
    OP_CREATE_CONTAINER,
    OP_CREATE_TTL,
    OP_DELETE,
    OP_ERROR,
    OP_EXISTS,
    OP_GET_ACL,
    OP_GET_ALL_CHILDREN_NUMBER,
    OP_GET_CHILDREN,
    OP_GET_CHILDREN2,
    OP_GET_DATA,
    OP_GET_EPHEMERALS,
    OP_MULTI,
    OP_MULTI_READ,
    OP_NOTIFICATION,
    OP_RECONFIG,
    OP_SASL,
    OP_SET_ACL,
    OP_SET_DATA,
    OP_SYNC,
    OP_WHO_AM_I,
    XID_NOTIFICATION,
)
from ._jute import Reader, pack_buffer, pack_int, pack_string, pack_strings
from ._values import ACL, Id, Stat, WatcherEvent, pack_acls, take_acls

_HEADER: Final = struct.Struct(">iqi")
_FRAME: Final = struct.Struct(">iiqi")
_RESULT: Final = struct.Struct(">i?i")
_RESULTS_END: Final = _RESULT.pack(-1, True, -1)


class ReplyHeader(NamedTuple):
    """In front of every reply; `zxid` is the last that the server had applied."""

    xid: int
    zxid: int
    err: int


class MultiResult(NamedTuple):
    """What one operation of a multi came to.

    `op` is the operation's code, and -1 where the multi failed: then `err` is 0 for what stands before the
    operation that failed, its number, and -2 for what was not tried. `value` is what the operation alone
    would have answered with.
    """

    op: int
    err: int = 0
    value: ReplyBody = None


ReplyBody = (
    None
    | int
    | bytes
    | str
    | Stat
    | WatcherEvent
    | tuple[str, Stat]
    | tuple[bytes, Stat]
    | tuple[str, ...]
    | tuple[tuple[str, ...], Stat]
    | tuple[tuple[ACL, ...], Stat]
    | tuple[Id, ...]
    | tuple[MultiResult, ...]
)
"""Whatever a reply can hold behind its header; which one, the operation says."""


def encode_reply(xid: int, zxid: int, err: int, body: bytes = b"") -> bytes:
    """A whole reply: length, header, body."""
    return _FRAME.pack(16 + len(body), xid, zxid, err) + body


def decode_reply(data: bytes) -> tuple[ReplyHeader, Reader]:
    """The header of a reply frame (without its length), and a reader at its body.

    Raises:
        RemoteProtocolError: the frame is too short for a header.
    """
    reader = Reader(data)
    return ReplyHeader(*_HEADER.unpack(reader.take_bytes(_HEADER.size))), reader


def encode_event(event: WatcherEvent, zxid: int) -> bytes:
    """A whole notification frame; `zxid` is that of the change."""
    return encode_reply(XID_NOTIFICATION, zxid, 0, event.encode())


def take_path(reader: Reader) -> str:
    """The body of create and sync."""
    return reader.take_string()


def take_path_stat(reader: Reader) -> tuple[str, Stat]:
    """The body of create2, createContainer and createTTL."""
    return reader.take_string(), Stat.take(reader)


def pack_path_stat(path: str, stat: Stat) -> bytes:
    """The body of create2, createContainer and createTTL."""
    return pack_string(path) + stat.encode()


def take_stat(reader: Reader) -> Stat:
    """The body of exists, setData and setACL."""
    return Stat.take(reader)


def take_data(reader: Reader) -> tuple[bytes, Stat]:
    """The body of getData and reconfig; null data is empty."""
    return reader.take_buffer() or b"", Stat.take(reader)


def pack_data(data: bytes, stat: Stat) -> bytes:
    """The body of getData and reconfig."""
    return pack_buffer(data) + stat.encode()


def take_children(reader: Reader) -> tuple[str, ...]:
    """The body of getChildren and getEphemerals."""
    return reader.take_strings()


def take_children_stat(reader: Reader) -> tuple[tuple[str, ...], Stat]:
    """The body of getChildren2."""
    return reader.take_strings(), Stat.take(reader)


def pack_children_stat(names: Sequence[str], stat: Stat) -> bytes:
    """The body of getChildren2."""
    return pack_strings(names) + stat.encode()


def take_acl(reader: Reader) -> tuple[tuple[ACL, ...], Stat]:
    """The body of getACL."""
    return take_acls(reader), Stat.take(reader)


def pack_acl(acl: Sequence[ACL], stat: Stat) -> bytes:
    """The body of getACL."""
    return pack_acls(acl) + stat.encode()


def take_ids(reader: Reader) -> tuple[Id, ...]:
    """The body of whoAmI."""
    return tuple([Id.take(reader) for _ in range(reader.take_count(8))])


def pack_ids(ids: Sequence[Id]) -> bytes:
    """The body of whoAmI."""
    return pack_int(len(ids)) + b"".join([id_.encode() for id_ in ids])


def take_event(reader: Reader) -> WatcherEvent:
    """The body of a notification.

    Raises:
        RemoteProtocolError: malformed, or a type of change that the protocol does not have.
    """
    event = WatcherEvent.take(reader)
    if not -1 <= event.type <= EVENT_CHILDREN_CHANGED:
        raise RemoteProtocolError(f"a watch event of the unknown type {event.type}")
    return event


def take_multi(reader: Reader) -> tuple[MultiResult, ...]:
    """The body of a multi or multiRead.

    Raises:
        RemoteProtocolError: malformed.
    """
    results: list[MultiResult] = []
    while True:  # ends: each turn takes at least nine bytes
        op, done, err = _RESULT.unpack(reader.take_bytes(_RESULT.size))
        if done:
            return tuple(results)
        if op == OP_ERROR:
            results.append(MultiResult(op, reader.take_int()))
            continue
        take = _MEMBERS.get(op)
        if take is None:
            raise RemoteProtocolError(f"a multi has a result of the unknown type {op}")
        results.append(MultiResult(op, err, take(reader)))


def pack_multi(results: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The body of a multi or multiRead, from (op, err, body) of each; of an error (op -1) the body is made here."""
    parts: list[bytes] = []
    for op, err, body in results:
        parts.append(_RESULT.pack(op, False, err))
        parts.append(pack_int(err) if op == OP_ERROR else body)
    parts.append(_RESULTS_END)
    return b"".join(parts)


def _take_nothing(_reader: Reader) -> None:
    return None


_MEMBERS: Final[dict[int, Callable[[Reader], ReplyBody]]] = {
    OP_CREATE: take_path,
    OP_CREATE2: take_path_stat,
    OP_CREATE_CONTAINER: take_path_stat,
    OP_CREATE_TTL: take_path_stat,
    OP_SET_DATA: take_stat,
    OP_DELETE: _take_nothing,
    OP_CHECK: _take_nothing,
    OP_GET_DATA: take_data,
    OP_GET_CHILDREN: take_children,
}

REPLIES: Final[dict[int, Callable[[Reader], ReplyBody]]] = {
    OP_NOTIFICATION: take_event,
    OP_CREATE: take_path,
    OP_EXISTS: take_stat,
    OP_GET_DATA: take_data,
    OP_SET_DATA: take_stat,
    OP_GET_ACL: take_acl,
    OP_SET_ACL: take_stat,
    OP_GET_CHILDREN: take_children,
    OP_SYNC: take_path,
    OP_GET_CHILDREN2: take_children_stat,
    OP_MULTI: take_multi,
    OP_CREATE2: take_path_stat,
    OP_RECONFIG: take_data,
    OP_CREATE_CONTAINER: take_path_stat,
    OP_CREATE_TTL: take_path_stat,
    OP_MULTI_READ: take_multi,
    OP_SASL: lambda r: r.take_buffer() or b"",
    OP_GET_EPHEMERALS: take_children,
    OP_GET_ALL_CHILDREN_NUMBER: lambda r: r.take_int(),
    OP_ADD_WATCH: lambda r: r.take_int(),
    OP_WHO_AM_I: take_ids,
}
"""How the body of each operation's reply is read; whatever is not here has none."""


def decode_reply_body(op: int, reader: Reader) -> ReplyBody:
    """The body of a reply without an error; None where the operation has none.

    Raises:
        RemoteProtocolError: malformed.
    """
    take = REPLIES.get(op)
    return None if take is None else take(reader)
