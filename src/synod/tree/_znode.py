"""One entry of the tree, and the numbers that a stat shows of it.

Read `Znode`; `stat_bytes` says how its fields become the 68 bytes that clients see.
"""

from __future__ import annotations

import struct
from typing import Final

from ._acl import Acl

_PACK_STAT: Final = struct.Struct(">qqqqiiiqiiq").pack
"""czxid mzxid ctime mtime version cversion aversion ephemeralOwner dataLength numChildren pzxid."""

PLAIN_STAT: Final = "qqqqi16xi4xq"
"""The same of a plain znode (see `Znode.is_plain`), for struct: what is 0 of it is padding, which costs nothing."""

STAT_BYTES: Final = 68

CONTAINER: Final = -(1 << 63)
"""The owner of a container; no session has this id. Clients see 0."""

NO_NAMES: Final = b"\0\0\0\0"

_RECORD: Final = struct.Struct(">IiIqqqqqiqiq")
_INT32_SPAN: Final = 1 << 32
_INT32_HALF: Final = 1 << 31


def int32(value: int) -> int:
    """The value as a signed 32-bit integer that wraps, as Java's int does. Only `next_version` wraps as well."""
    return (value + _INT32_HALF) % _INT32_SPAN - _INT32_HALF


def next_version(version: int) -> int:
    """The version after this one. It skips -1, which in a request means "any version"."""
    following = version + 1
    if following == _INT32_HALF:
        return -_INT32_HALF
    return 0 if following == -1 else following


class Znode:
    """A small file with children.

    Invariant: `children` is None or not empty, and its keys are the very path objects of the children.
    Invariant: `owner` is 0, `CONTAINER`, or the id of a session whose `ephemerals` has `path`.
    Invariant: `creates` counts every child ever created here; sequential names are drawn from it.
    Invariant: `stat` and `listing` are None or what the fields say; `State.touch` drops them.
    Invariant: `birth` is None or czxid and ctime as a stat has them, which never change.

    `era` is the state's era of the last change, or -1 - era once it is deleted; `snap` the last snapshot
    that has it; `hash` what it adds to the last digest.
    """

    __slots__ = (
        "acl",
        "aversion",
        "birth",
        "children",
        "creates",
        "ctime",
        "czxid",
        "data",
        "era",
        "hash",
        "listing",
        "mtime",
        "mzxid",
        "owner",
        "path",
        "pzxid",
        "snap",
        "stat",
        "version",
    )

    def __init__(
        self, path: bytes, data: bytes | None, acl: Acl, zxid: int, wall_ms: int, owner: int, era: int, snap: int
    ) -> None:
        self.path = path
        self.data = data
        self.acl = acl
        self.czxid = zxid
        self.mzxid = zxid
        self.pzxid = zxid
        self.ctime = wall_ms
        self.mtime = wall_ms
        self.version = 0
        self.creates = 0
        self.aversion = 0
        self.owner = owner
        self.children: dict[bytes, None] | None = None
        self.stat: bytes | None = None
        self.listing: bytes | None = None
        self.birth: tuple[bytes, bytes] | None = None
        self.era = era
        self.snap = snap
        self.hash = 0

    def is_plain(self) -> bool:
        """Whether it belongs to nobody, and has never had a child nor another ACL: most do not."""
        return (
            self.creates == 0
            and self.owner == 0
            and self.aversion == 0
            and self.children is None
            and self.pzxid == self.czxid
        )

    def record(self) -> bytes:
        """All that is replicated of this znode, in one canonical form: for snapshots and digests."""
        data = self.data
        path, acl = self.path, self.acl.wire
        return (
            _RECORD.pack(
                len(path),
                -1 if data is None else len(data),
                len(acl),
                self.czxid,
                self.mzxid,
                self.pzxid,
                self.ctime,
                self.mtime,
                self.version,
                self.creates,
                self.aversion,
                self.owner,
            )
            + path
            + acl
            + (data or b"")
        )


def stat_bytes(node: Znode) -> bytes:
    """The stat of a znode as clients see it; kept on the znode until that changes.

    The cversion counts creations and deletions of children although only creations are stored: as many
    children were deleted as were created and are no longer there.
    """
    known = node.stat
    if known is not None:
        return known
    children = node.children
    count = 0 if children is None else len(children)
    data = node.data
    owner = node.owner
    stat: bytes = _PACK_STAT(
        node.czxid,
        node.mzxid,
        node.ctime,
        node.mtime,
        node.version,
        int32(2 * node.creates - count),
        node.aversion,
        max(0, owner),
        0 if data is None else len(data),
        count,
        node.pzxid,
    )
    node.stat = stat
    return stat


def birth(node: Znode) -> tuple[bytes, bytes]:
    """The czxid and the ctime as a stat has them; kept on the znode for good."""
    known = node.birth
    if known is None:
        known = node.birth = (node.czxid.to_bytes(8, "big"), node.ctime.to_bytes(8, "big", signed=True))
    return known


def data_bytes(node: Znode) -> bytes:
    """The value as the protocol writes it: length and bytes, or length -1 for null."""
    data = node.data
    if data is None:
        return b"\xff\xff\xff\xff"
    return len(data).to_bytes(4, "big") + data


def names_bytes(node: Znode) -> bytes:
    """The children's names as the protocol writes a vector, sorted; kept on the znode until they change.

    Sorted, because the order of a dict would depend on a replica's past.
    """
    if node.children is None:
        return NO_NAMES
    known = node.listing
    if known is not None:
        return known
    skip = 1 if node.path == b"/" else len(node.path) + 1
    parts = [len(node.children).to_bytes(4, "big")]
    for path in sorted(node.children):
        name = path[skip:]
        parts.append(len(name).to_bytes(4, "big"))
        parts.append(name)
    listing = b"".join(parts)
    node.listing = listing
    return listing


def unpack_record(record: bytes) -> tuple[bytes, bytes | None, bytes, tuple[int, ...]] | None:
    """(path, data, ACL, numbers) of a record, or None when its lengths do not fit."""
    if len(record) < _RECORD.size:
        return None
    fields = _RECORD.unpack_from(record)
    path_bytes, data_length, acl_bytes = fields[:3]
    at = _RECORD.size
    if data_length < -1 or at + path_bytes + acl_bytes + max(0, data_length) != len(record):
        return None
    path = record[at : at + path_bytes]
    acl = record[at + path_bytes : at + path_bytes + acl_bytes]
    data = None if data_length == -1 else record[at + path_bytes + acl_bytes :]
    return path, data, acl, fields[3:]
