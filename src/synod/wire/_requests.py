"""What clients send: one function per record, each returning the record without header and length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ._codes import OP_CHECK, OP_CREATE, OP_CREATE2, OP_DELETE, OP_SET_DATA
from ._jute import Reader, pack_bool, pack_buffer, pack_int, pack_long, pack_string, pack_strings
from ._values import ACL, OPEN_ACL, pack_acls, take_acls


def frame(xid: int, op: int, record: bytes = b"") -> bytes:
    """A whole request: length, header, record."""
    return pack_int(8 + len(record)) + pack_int(xid) + pack_int(op) + record


def path_watch(path: str, watch: bool) -> bytes:
    """Exists, getData, getChildren, getChildren2."""
    return pack_string(path) + pack_bool(watch)


def path_only(path: str) -> bytes:
    """Sync, getACL, getEphemerals, getAllChildrenNumber."""
    return pack_string(path)


class Create(NamedTuple):
    """Create a znode; flags are CREATE_*. `with_stat` asks for the stat in the reply (create2)."""

    path: str
    data: bytes
    acl: tuple[ACL, ...] = OPEN_ACL
    flags: int = 0
    with_stat: bool = False

    @property
    def op(self) -> int:
        """Its operation code."""
        return OP_CREATE2 if self.with_stat else OP_CREATE

    def encode(self) -> bytes:
        """The record."""
        return pack_string(self.path) + pack_buffer(self.data) + pack_acls(self.acl) + pack_int(self.flags)


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


def multi(changes: Sequence[Change]) -> bytes:
    """All or nothing: each change behind a header, and a last header that says done."""
    parts = []
    for change in changes:
        parts.append(pack_int(change.op) + pack_bool(value=False) + pack_int(-1))
        parts.append(change.encode())
    parts.append(pack_int(-1) + pack_bool(value=True) + pack_int(-1))
    return b"".join(parts)


def set_acl(path: str, acl: tuple[ACL, ...], version: int = -1) -> bytes:
    """Replace a znode's ACL; the version is that of the ACL."""
    return pack_string(path) + pack_acls(acl) + pack_int(version)


class SetWatches(NamedTuple):
    """What a client watches, after it attached its session elsewhere; `zxid` is the last that it has seen."""

    zxid: int
    data: tuple[str, ...]
    exist: tuple[str, ...]
    child: tuple[str, ...]

    def encode(self) -> bytes:
        """The record."""
        return pack_long(self.zxid) + pack_strings(self.data) + pack_strings(self.exist) + pack_strings(self.child)


def add_watch(path: str, mode: int) -> bytes:
    """A persistent (0) or recursive (1) watch."""
    return pack_string(path) + pack_int(mode)


def decode_create(data: bytes) -> Create:
    """Read a create record.

    Raises:
        RemoteProtocolError: the bytes are none.
    """
    reader = Reader(data)
    path, value = reader.take_string(), reader.take_buffer() or b""
    acl = take_acls(reader)
    return Create(path, value, acl, reader.take_int())


def decode_set_data(data: bytes) -> SetData:
    """Read a setData record.

    Raises:
        RemoteProtocolError: the bytes are none.
    """
    reader = Reader(data)
    return SetData(reader.take_string(), reader.take_buffer() or b"", reader.take_int())


def decode_delete(data: bytes) -> Delete:
    """Read a delete record.

    Raises:
        RemoteProtocolError: the bytes are none.
    """
    reader = Reader(data)
    return Delete(reader.take_string(), reader.take_int())
