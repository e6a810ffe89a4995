"""What servers send: the header, and one function per record.

The body means something only when `err` is 0; a multi has an error per operation inside its body.
"""

from __future__ import annotations

from typing import NamedTuple

from synod.base import RemoteProtocolError

from ._codes import OP_CHECK, OP_CREATE, OP_CREATE2, OP_DELETE, OP_ERROR, OP_SET_DATA
from ._jute import Reader, pack_int, pack_long
from ._values import ACL, Stat, WatcherEvent, take_acls

MULTI_RESULTS_MAX = 65_536
"""A frame cannot hold more results than this."""


class ReplyHeader(NamedTuple):
    """In front of every reply; `zxid` is the last that the server had applied."""

    xid: int
    zxid: int
    err: int


def encode_reply(xid: int, zxid: int, err: int, body: bytes = b"") -> bytes:
    """A whole reply: length, header, body."""
    return pack_int(16 + len(body)) + pack_int(xid) + pack_long(zxid) + pack_int(err) + body


def decode_reply(data: bytes) -> tuple[ReplyHeader, Reader]:
    """The header of a reply, and a reader at its body.

    Raises:
        RemoteProtocolError: the frame is too short for a header.
    """
    reader = Reader(data)
    return ReplyHeader(reader.take_int(), reader.take_long(), reader.take_int()), reader


def take_path(reader: Reader) -> str:
    """The body of create and sync."""
    return reader.take_string()


def take_path_stat(reader: Reader) -> tuple[str, Stat]:
    """The body of create2."""
    return reader.take_string(), Stat.take(reader)


def take_stat(reader: Reader) -> Stat:
    """The body of exists, setData and setACL."""
    return Stat.take(reader)


def take_data(reader: Reader) -> tuple[bytes, Stat]:
    """The body of getData."""
    return reader.take_buffer() or b"", Stat.take(reader)


def take_children(reader: Reader) -> tuple[str, ...]:
    """The body of getChildren."""
    return reader.take_strings()


def take_children_stat(reader: Reader) -> tuple[tuple[str, ...], Stat]:
    """The body of getChildren2."""
    return reader.take_strings(), Stat.take(reader)


def take_acl(reader: Reader) -> tuple[tuple[ACL, ...], Stat]:
    """The body of getACL."""
    return take_acls(reader), Stat.take(reader)


def take_event(reader: Reader) -> WatcherEvent:
    """The body of a notification."""
    return WatcherEvent.take(reader)


MultiResult = str | Stat | None | int
"""Of one operation: the path of a create, the stat of a set, None of a delete or check, an error's number."""


def take_multi(reader: Reader) -> list[MultiResult]:
    """The body of a multi.

    Raises:
        RemoteProtocolError: the body is malformed.
    """
    results: list[MultiResult] = []
    while len(results) < MULTI_RESULTS_MAX:
        op, done, _err = reader.take_int(), reader.take_bool(), reader.take_int()
        if done:
            return results
        results.append(_take_result(reader, op))
    raise RemoteProtocolError("a multi has no last result")


def _take_result(reader: Reader, op: int) -> MultiResult:
    if op == OP_CREATE:
        return reader.take_string()
    if op == OP_CREATE2:
        return take_path_stat(reader)[0]
    if op == OP_SET_DATA:
        return Stat.take(reader)
    if op in (OP_DELETE, OP_CHECK):
        return None
    if op == OP_ERROR:
        return reader.take_int()
    raise RemoteProtocolError(f"a multi has a result of the unknown type {op}")
