"""A snapshot: the state at one slot as bytes, written in small steps while new batches are applied.

    snapshot := magic, layout u16, feature level u16, record*, END record
    record   := kind u8, length u32, bytes
    kinds    := HEAD (everything that is no entity), SESSION, ZNODE, END (counts, blake2b-128 of all before)

The walk goes down the tree as it is *now*, and needs no list of what was there at the beginning: to make one of a
million znodes would hold up everything. Whoever is about to change or delete an entity that the walk has not
written yet has it written first (`pre_image`), so that the bytes say what was true at `begin`; what came after it
bears the walk's epoch from its birth and is passed over. So nothing is missed: what was there at the beginning and
still is hangs below znodes of which the same holds. Readers rely on no order: a parent may come after its children.
Many children of one znode are listed in slices for as long as none comes or goes; just before one does, all the rest is.

The cuts between the chunks mean nothing: a reader may join and split them as it likes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from synod.base import Corruption

from ._batch import FEATURE_LEVEL, UnknownCommand, check_level
from ._digest import MODULUS_MASK, PERSON_HEAD, PERSON_SESSION, PERSON_ZNODE, Entity, hash_of
from ._session import Session
from ._znode import Znode

MAGIC: Final = b"synodtree\n"
LAYOUT: Final = 1

KIND_HEAD: Final = 1
KIND_SESSION: Final = 2
KIND_ZNODE: Final = 3
KIND_END: Final = 4

RECORD_BYTES_MAX: Final = 16 << 20
"""Far above the largest znode; keeps a damaged length from being believed."""

LOOKS_PER_STEP: Final = 5_000
"""Znodes that one step looks at, at most: so many that came after the beginning pass in a millisecond or two."""

CHILDREN_PER_SLICE: Final = 500
"""So many children of one znode are listed at a time: a million at once hold up everything for ten milliseconds."""

_FILE: Final = struct.Struct(">10sHH")
_RECORD: Final = struct.Struct(">BI")
_END: Final = struct.Struct(">QQ16s")
_HEAD: Final = struct.Struct(">QqqQIHII")
_ORIGIN: Final = struct.Struct(">HQQ")


class Head:
    """What a snapshot says of the state besides sessions and znodes."""

    __slots__ = ("cell_time_ms", "configuration", "level", "opening", "origins", "slot", "zxid")

    def __init__(
        self,
        *,
        slot: int,
        zxid: int,
        cell_time_ms: int,
        opening: tuple[int, int],
        level: int,
        origins: dict[int, tuple[int, int]],
        configuration: bytes,
    ) -> None:
        self.slot = slot
        self.zxid = zxid
        self.cell_time_ms = cell_time_ms
        self.opening = opening
        self.level = level
        self.origins = origins
        self.configuration = configuration

    def encode(self) -> bytes:
        """Canonical bytes; also the digest's view of them."""
        parts = [
            _HEAD.pack(
                self.slot,
                self.zxid,
                self.cell_time_ms,
                *self.opening,
                self.level,
                len(self.origins),
                len(self.configuration),
            )
        ]
        parts.extend(_ORIGIN.pack(origin, *self.origins[origin]) for origin in sorted(self.origins))
        parts.append(self.configuration)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """The inverse of `encode`.

        Raises:
            Corruption: the lengths do not fit.
        """
        _demand(len(data) >= _HEAD.size, "its head is cut off")
        slot, zxid, cell_time_ms, round_, replica, level, origins, configuration_bytes = _HEAD.unpack_from(data)
        at = _HEAD.size
        _demand(len(data) == at + origins * _ORIGIN.size + configuration_bytes, "the lengths in its head do not fit")
        known: dict[int, tuple[int, int]] = {}
        for _ in range(origins):
            origin, boot, seq = _ORIGIN.unpack_from(data, at)
            known[origin] = (boot, seq)
            at += _ORIGIN.size
        return cls(
            slot=slot,
            zxid=zxid,
            cell_time_ms=cell_time_ms,
            opening=(round_, replica),
            level=level,
            origins=known,
            configuration=data[at:],
        )


class SnapshotWalk:
    """One snapshot under way.

    Args:
        epoch: marks the entities that are written already, or came after the beginning.
        level: the cell's feature level at the beginning.
        head: the rest of the state, encoded at the beginning.
        roots: the znodes that are no other's child, the last first.
        nodes: the table of all znodes; it changes while the walk goes on.
        sessions: those that were open at the beginning, the last first.

    Invariant: for every znode that is still to be written, `_paths` has it or one above it, or `_wide` has what is
    still to come of a znode's children, with it or one above it. None of those has come or gone since it was begun.
    """

    __slots__ = (
        "_done",
        "_hash",
        "_live",
        "_nodes",
        "_paths",
        "_sessions",
        "_waiting",
        "_waiting_bytes",
        "_wide",
        "_znodes",
        "epoch",
    )

    def __init__(
        self,
        epoch: int,
        level: int,
        head: bytes,
        *,
        roots: list[bytes],
        nodes: dict[bytes, Znode],
        sessions: list[Session],
    ) -> None:
        self.epoch = epoch
        self._paths = roots
        self._wide: list[tuple[Znode, Iterator[bytes]]] = []
        self._nodes = nodes
        self._live = sessions
        self._hash = hashlib.blake2b(digest_size=16)
        self._waiting: list[bytes] = [_FILE.pack(MAGIC, LAYOUT, level)]
        self._waiting_bytes = _FILE.size
        self._sessions = 0
        self._znodes = 0
        self._done = False
        self._add(KIND_HEAD, head)

    def pre_image(self, entity: Entity) -> None:
        """Write an entity before it changes, unless it is written."""
        if entity.snap == self.epoch:
            if self._wide:
                self._list_rest(entity)
            return
        entity.snap = self.epoch
        if isinstance(entity, Znode):
            self._znodes += 1
            self._add(KIND_ZNODE, entity.record())
        else:
            self._sessions += 1
            self._add(KIND_SESSION, entity.record())

    def step(self, bytes_max: int) -> bytes | None:
        """The next chunk: one record, or no more than the bound; empty when it found nothing to write for long.

        None when all is written.
        """
        if self._done and not self._waiting:
            return None
        looks = LOOKS_PER_STEP
        while self._waiting_bytes < bytes_max and looks and self._go_on():
            looks -= 1
        # The end's hash covers everything before it, so it is made only when all that is taken.
        if self._paths or self._wide or self._live or self._done or self._waiting_bytes > bytes_max:
            return self._take(bytes_max)
        self._done = True
        chunk = b"".join(self._waiting)
        self._waiting = []
        self._waiting_bytes = 0
        self._hash.update(chunk)
        end_record = _END.pack(self._sessions, self._znodes, self._hash.digest())
        return chunk + _RECORD.pack(KIND_END, len(end_record)) + end_record

    def _go_on(self) -> bool:
        """Write one entity more. False when there is none."""
        if self._live:
            self.pre_image(self._live.pop())
            return True
        if not self._paths:
            return self._list_more()
        node = self._nodes.get(self._paths.pop())
        if node is not None:  # else it is deleted by now, and was written before that
            children = node.children
            if children is not None:
                # One that is not written has not been touched since the beginning: before it is, we are told.
                if len(children) > CHILDREN_PER_SLICE and node.snap != self.epoch:
                    self._wide.append((node, iter(children)))
                else:
                    self._paths.extend(reversed(children))
            self.pre_image(node)
        return True

    def _list_more(self) -> bool:
        """List the next of a znode's many children. False when there is none."""
        if not self._wide:
            return False
        listed = list(islice(self._wide[-1][1], CHILDREN_PER_SLICE))
        if len(listed) < CHILDREN_PER_SLICE:
            self._wide.pop()
        listed.reverse()
        self._paths.extend(listed)
        return True

    def _list_rest(self, entity: Entity) -> None:
        """The children of this one are about to come or go, and nobody can go through them meanwhile."""
        for at, (node, rest) in enumerate(self._wide):
            if node is entity:
                del self._wide[at]
                self._paths.extend(rest)
                return

    def _take(self, bytes_max: int) -> bytes:
        taken: list[bytes] = []
        size = 0
        waiting = self._waiting
        for record in waiting:
            if taken and size + len(record) > bytes_max:
                break
            taken.append(record)
            size += len(record)
        self._waiting = waiting[len(taken) :]
        self._waiting_bytes -= size
        chunk = b"".join(taken)
        self._hash.update(chunk)
        return chunk

    def _add(self, kind: int, record: bytes) -> None:
        self._waiting.append(_RECORD.pack(kind, len(record)) + record)
        self._waiting_bytes += _RECORD.size + len(record)


def read_records(chunks: Iterable[bytes], supported_level: int) -> Iterator[tuple[int, bytes]]:
    """The records of a snapshot up to its end, which is checked.

    Raises:
        Corruption: anything is not as it was written.
        UnknownCommand: it was written by a version that knows more.
    """
    stream = _Stream(chunks)
    magic, layout, level = _FILE.unpack(stream.take(_FILE.size))
    _demand(magic == MAGIC, "it does not begin like one")
    if layout != LAYOUT:
        raise UnknownCommand(f"the snapshot of the tree has layout version {layout}; this replica reads {LAYOUT}")
    check_level(level, supported_level)
    sessions = znodes = 0
    first = True
    while True:
        kind, length = _RECORD.unpack(stream.take(_RECORD.size))
        _demand(length <= RECORD_BYTES_MAX, f"a record claims {length} bytes")
        if kind == KIND_END:
            _demand(length == _END.size, "its end has a wrong length")
            seen = stream.digest_before(_RECORD.size)
            said_sessions, said_znodes, digest = _END.unpack(stream.take(length))
            _demand(digest == seen, "its checksum does not fit its bytes")
            _demand((said_sessions, said_znodes) == (sessions, znodes), "records are missing")
            _demand(stream.at_end(), "bytes follow its end")
            return
        record = stream.take(length)
        if first:
            _demand(kind == KIND_HEAD, "its head is not its first record")
            first = False
        elif kind == KIND_ZNODE:
            znodes += 1
        elif kind == KIND_SESSION:
            sessions += 1
        else:
            raise Corruption(f"the snapshot of the tree is unusable: a record has the unknown kind {kind}")
        yield kind, record


class _Stream:
    """Bytes of consecutive chunks, taken in other pieces, and hashed in large ones: small ones cost a call each.

    Invariant: the bytes before `_hashed` are hashed already, and those from `_at` on are to be taken.
    """

    __slots__ = ("_at", "_buffer", "_chunks", "_hash", "_hashed")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = b""
        self._at = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._hashed = 0

    def take(self, size: int) -> bytes:
        at = self._at
        end = at + size
        if end > len(self._buffer):
            self._refill(size)
            at, end = 0, size
        self._at = end
        return self._buffer[at:end]

    def _refill(self, size: int) -> None:
        """Drop what was taken, and add chunks until so many bytes are there."""
        self._hash_upto(self._at)
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise Corruption("the snapshot of the tree is unusable: it ends too early")
            parts.append(chunk)
            have += len(chunk)
        self._buffer = b"".join(parts)
        self._at = 0
        self._hashed = 0

    def _hash_upto(self, end: int) -> None:
        self._hash.update(memoryview(self._buffer)[self._hashed : end])
        self._hashed = end

    def digest_before(self, back: int) -> bytes:
        """The hash of everything up to so many bytes before what was taken last; nothing is hashed after it."""
        self._hash_upto(self._at - back)
        return self._hash.digest()

    def at_end(self) -> bool:
        if self._at < len(self._buffer):
            return False
        return all(not chunk for chunk in self._chunks)


def _demand(holds: bool, fault: str) -> None:
    if not holds:
        raise Corruption(f"the snapshot of the tree is unusable: {fault}")


class Summary:
    """What a snapshot holds: counted, and hashed as the replicas hash their state.

    `znodes` counts every one, also the reserved one that clients do not see.
    """

    __slots__ = ("digest", "head", "sessions", "znodes")

    def __init__(self, head: Head, znodes: int, sessions: int, digest: int) -> None:
        self.head = head
        self.znodes = znodes
        self.sessions = sessions
        self.digest = digest


def summarize(chunks: Iterable[bytes]) -> Summary:
    """Check a snapshot, and compute the digest of the state that it describes, without making that state.

    Raises:
        Corruption: anything is not as it was written.
        UnknownCommand: it was written by a version that knows more.
    """
    head: Head | None = None
    counts = {KIND_SESSION: 0, KIND_ZNODE: 0}
    total = 0
    for kind, record in read_records(chunks, FEATURE_LEVEL):
        if kind == KIND_HEAD:
            head = Head.decode(record)
            total += hash_of(record, PERSON_HEAD)
            continue
        counts[kind] += 1
        total += hash_of(record, PERSON_ZNODE if kind == KIND_ZNODE else PERSON_SESSION)
    if head is None:
        raise Corruption("the snapshot of the tree is unusable: it has no head")
    return Summary(head, counts[KIND_ZNODE], counts[KIND_SESSION], total & MODULUS_MASK)
