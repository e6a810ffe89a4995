"""The records that requests and replies share: Stat, ACL, watch events."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from ._codes import PERM_ALL, PERM_READ
from ._jute import Reader, pack_int, pack_string

_STAT: Final = struct.Struct(">qqqqiiiqiiq")


class Stat(NamedTuple):
    """What the cell knows of a znode besides its data; times in milliseconds since 1970."""

    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    ephemeral_owner: int
    data_length: int
    children_count: int
    pzxid: int

    def encode(self) -> bytes:
        """The 68 bytes of the protocol."""
        return _STAT.pack(*self)

    @classmethod
    def take(cls, reader: Reader) -> Stat:
        """Read one from a record."""
        return cls(*_STAT.unpack(reader.take_bytes(_STAT.size)))


class Id(NamedTuple):
    """An identity: a scheme (`world`, `digest`, `ip`, ...) and who within it."""

    scheme: str
    id: str

    def encode(self) -> bytes:
        """The bytes of the protocol."""
        return pack_string(self.scheme) + pack_string(self.id)

    @classmethod
    def take(cls, reader: Reader) -> Id:
        """Read one from a record."""
        return cls(reader.take_string(), reader.take_string())


class ACL(NamedTuple):
    """One entry of an access control list: who may do what (`perms` is a sum of PERM_*)."""

    perms: int
    scheme: str
    id: str

    def encode(self) -> bytes:
        """The bytes of the protocol."""
        return pack_int(self.perms) + pack_string(self.scheme) + pack_string(self.id)

    @classmethod
    def take(cls, reader: Reader) -> ACL:
        """Read one from a record."""
        return cls(reader.take_int(), reader.take_string(), reader.take_string())


OPEN_ACL: Final = (ACL(PERM_ALL, "world", "anyone"),)
"""Everybody may do everything."""
READ_ACL: Final = (ACL(PERM_READ, "world", "anyone"),)
"""Everybody may read."""
CREATOR_ACL: Final = (ACL(PERM_ALL, "auth", ""),)
"""Only the identities that the creating session has authenticated may do anything."""


def pack_acls(acls: Sequence[ACL]) -> bytes:
    """A vector of ACL entries."""
    return pack_int(len(acls)) + b"".join([acl.encode() for acl in acls])


def take_acls(reader: Reader) -> tuple[ACL, ...]:
    """Read a vector of ACL entries."""
    return tuple([ACL.take(reader) for _ in range(reader.take_count(12))])


class WatcherEvent(NamedTuple):
    """What a watch tells: the type of the change, the state of the session, the path."""

    type: int
    state: int
    path: str

    def encode(self) -> bytes:
        """The bytes of the protocol."""
        return pack_int(self.type) + pack_int(self.state) + pack_string(self.path)

    @classmethod
    def take(cls, reader: Reader) -> WatcherEvent:
        """Read one from a record."""
        return cls(reader.take_int(), reader.take_int(), reader.take_string())
