"""The bytes of a log segment: its header, sync groups, and the tags that tell torn from rotten.

    segment := header block (4 KiB) | group | group | ...          every group starts on a 4 KiB boundary
    group   := head sectors | body sectors | zeros up to the boundary
    head    := fixed part (in the first sector) | entry table | peers | displaced bytes
    body    := the values, one after the other, from a sector boundary on

The first four bytes of *every* sector of a group are a tag, derived from the segment's nonce and never zero. A
disk writes sectors whole, and a segment was zeros before its groups; so a group that reads back badly was *torn*
(never fully written, nobody was told of it) if one of its sectors is still zero, and is *rotten* (was written,
maybe promised) if none is. The tag is what makes a written sector differ from an unwritten one even where the
value is zeros. The bytes that the tags displace in the body stand in the head; the head leaves room for them.

Checksums start from 0 and cover nonce and offset, so that a stale or misplaced group is never valid here. The
previous group's checksum is an ordinary field: seeding a CRC with it and also covering it would cancel out.

Ref: Alagappan et al. 2018 (a torn tail and a rotten record must be told apart, or chosen values are lost).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from synod.base import Ballot, Corruption, Entry, Slot

BLOCK: Final = 4096
SECTOR: Final = 512
TAG: Final = 4
HEAD_ROOM: Final = SECTOR - TAG  # payload bytes of a head sector
FEW_SECTORS: Final = 8  # of so many the tags are put in one by one

_MAGIC: Final = b"SYNODLOG"
FORMAT_VERSION: Final = 1

_SEGMENT: Final = struct.Struct(">8sHQ16sBI8sQBQQ16sI")
"""magic, version, index, cell, replica, incarnation, nonce, promised round and id, size of the file,
groups before, configuration digest, CRC"""

_FIXED: Final = struct.Struct(">QQIQBQIIIII")
"""group number, groups durable before, previous group's CRC, promised round and id, chosen mark,
head bytes, body bytes, entries, peers bytes, CRC of what follows in the head"""
_FIXED_CRC: Final = struct.Struct(">I")
_ROW: Final = struct.Struct(">QQBII")
"""slot, ballot round and id, length, CRC of the value"""
_KEY: Final = struct.Struct(">QQB")
"""What of a row the CRC of its value covers: slot, ballot round and id"""

HEAD_BYTES_MIN: Final = _FIXED.size + _FIXED_CRC.size
ROW_BYTES: Final = _ROW.size

_ZEROS: Final = bytes(BLOCK)


class SegmentHeader:
    """The first block of a segment.

    Args:
        size: of the whole file, so that one that was cut short (by a copy that broke off, say) shows.
        groups_before: the number of the last group of the segments before it.
    """

    __slots__ = (
        "cell_id",
        "configuration",
        "groups_before",
        "incarnation",
        "index",
        "nonce",
        "promised",
        "replica",
        "size",
        "tag",
    )

    def __init__(
        self,
        index: int,
        cell_id: bytes,
        replica: int,
        incarnation: int,
        nonce: bytes,
        promised: Ballot,
        size: int,
        groups_before: int,
        configuration: bytes,
    ) -> None:
        self.index = index
        self.cell_id = cell_id
        self.replica = replica
        self.incarnation = incarnation
        self.nonce = nonce
        self.promised = promised
        self.size = size
        self.groups_before = groups_before
        self.configuration = configuration
        tag = hashlib.blake2b(nonce, digest_size=TAG, person=b"synod tag").digest()
        self.tag = tag if any(tag) else b"\xff" * TAG
        """What the sectors of this segment's groups begin with; never zero."""

    def encode(self) -> bytes:
        """One sector."""
        body = _SEGMENT.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.index,
            self.cell_id,
            self.replica,
            self.incarnation,
            self.nonce,
            self.promised.round,
            self.promised.replica,
            self.size,
            self.groups_before,
            self.configuration,
            0,
        )
        return (body[:-4] + struct.pack(">I", crc32(body[:-4]))).ljust(SECTOR, b"\0")

    @classmethod
    def decode(cls, data: bytes, path: str) -> SegmentHeader:
        """Read a header.

        Raises:
            Corruption: it is damaged: it was durable before the segment had its name.
        """
        data = data[: _SEGMENT.size].ljust(_SEGMENT.size, b"\0")
        magic, version, index, cell, replica, inc, nonce, r, i, size, before, digest, crc = _SEGMENT.unpack(data)
        if magic != _MAGIC or crc != crc32(data[:-4]):
            raise Corruption(f"{path}: the header of this log segment is damaged; replace the replica from its peers")
        if version > FORMAT_VERSION:
            raise Corruption(f"{path} was written by a newer synod (log format {version}); start the newer version")
        return cls(index, cell, replica, inc, nonce, Ballot(r, i), size, before, digest)


class Row:
    """Where one entry's value lies."""

    __slots__ = ("ballot", "crc", "length", "offset", "slot")

    def __init__(self, slot: Slot, ballot: Ballot, offset: int, length: int, crc: int) -> None:
        self.slot = slot
        self.ballot = ballot
        self.offset = offset
        self.length = length
        self.crc = crc


@dataclass(frozen=True, slots=True)
class Group:
    """A sync group as read back.

    Args:
        rows: its entries.
        bad: the rows whose value is rotten.
        durable_before: the number of the last group that was durable when this one was written.
    """

    number: int
    durable_before: int
    promised: Ballot
    chosen_mark: Slot
    rows: tuple[Row, ...]
    bad: tuple[Row, ...]
    peers: bytes
    crc: int
    end: int


class Torn(Exception):
    """Something at this offset was never fully written, or nothing was."""


class Rotten(Exception):
    """A group at this offset was fully written, and its head reads back wrong."""


def encode_group(
    header: SegmentHeader,
    offset: int,
    *,
    number: int,
    durable_before: int,
    previous_crc: int,
    promised: Ballot,
    chosen_mark: Slot,
    entries: Sequence[Entry],
    peers: bytes,
) -> tuple[bytearray, int, list[Row]]:
    """The bytes of a sync group, its checksum, and where its values lie."""
    salt, tag = _salt(header, offset), header.tag
    body_bytes = 0
    for entry in entries:
        body_bytes += len(entry.value)
    body_sectors = -(-body_bytes // SECTOR)
    head_bytes = HEAD_BYTES_MIN + ROW_BYTES * len(entries) + len(peers) + body_sectors * TAG
    head_sectors = -(-head_bytes // HEAD_ROOM)

    rows: list[Row] = []
    table: list[bytes] = []
    pieces = [_ZEROS[:SECTOR] * head_sectors]
    at = offset + head_sectors * SECTOR
    for slot, ballot, value in entries:
        key = _KEY.pack(slot, ballot[0], ballot[1])
        length, crc = len(value), crc32(value, crc32(key, salt))
        rows.append(Row(slot, ballot, at, length, crc))
        table.append(key)
        table.append(length.to_bytes(4, "big"))
        table.append(crc.to_bytes(4, "big"))
        pieces.append(value)
        at += length
    pieces.append(_ZEROS[: -at % BLOCK])
    # Put together at once where it stays: to copy a large group once more takes longer than all the rest.
    buffer = bytearray().join(pieces)

    table.append(peers)
    table.append(_tag_sectors(buffer, head_sectors * SECTOR, body_sectors, tag))
    rest = b"".join(table)
    fixed = _FIXED.pack(
        number,
        durable_before,
        previous_crc,
        promised[0],
        promised[1],
        chosen_mark,
        head_bytes,
        body_bytes,
        len(entries),
        len(peers),
        crc32(rest, salt),
    )
    fixed_crc = crc32(fixed, salt)
    head = b"%b%b%b" % (fixed, fixed_crc.to_bytes(4, "big"), rest)
    for sector in range(head_sectors):
        start = sector * SECTOR
        piece = tag + head[sector * HEAD_ROOM : (sector + 1) * HEAD_ROOM]
        buffer[start : start + len(piece)] = piece
    return buffer, fixed_crc, rows


def _tag_sectors(buffer: bytearray, start: int, sectors: int, tag: bytes) -> bytes:
    """Put the tag into every sector; returns what stood there."""
    end = start + sectors * SECTOR
    if sectors <= FEW_SECTORS:
        few = b""
        for at in range(start, end, SECTOR):
            few += buffer[at : at + TAG]
            buffer[at : at + TAG] = tag
        return few
    # A byte of the tag at a time, in all sectors at once.
    many = bytearray(sectors * TAG)
    for k in range(TAG):
        many[k::TAG] = buffer[start + k : end : SECTOR]
        buffer[start + k : end : SECTOR] = tag[k : k + 1] * sectors
    return bytes(many)


def _salt(header: SegmentHeader, offset: int) -> int:
    """What every checksum of a group goes on from."""
    return crc32(header.nonce + offset.to_bytes(8, "big"))


def decode_group(header: SegmentHeader, data: bytes, offset: int) -> Group:
    """Read the group at an offset of a segment's bytes.

    Raises:
        Torn: no group was ever fully written here.
        Rotten: one was, and its head cannot be trusted; rotten *values* are reported in `bad` instead.
    """
    tag = header.tag
    if offset + SECTOR > len(data) or not any(data[offset : offset + SECTOR]):
        raise Torn
    salt = _salt(header, offset)
    at = offset + TAG
    fixed = data[at : at + _FIXED.size]
    (fixed_crc,) = _FIXED_CRC.unpack_from(data, at + _FIXED.size)
    if crc32(fixed, salt) != fixed_crc:
        raise Rotten
    number, durable, _previous, r, i, mark, head_bytes, body_bytes, count, peers_bytes, rest_crc = _FIXED.unpack(fixed)
    head_sectors = -(-head_bytes // HEAD_ROOM)
    body_sectors = -(-body_bytes // SECTOR)
    body_at = offset + head_sectors * SECTOR
    total = body_at + body_sectors * SECTOR
    if total > len(data):
        raise Rotten  # no group was ever written past the end
    for s in range(offset, total, SECTOR):
        # A sector that has neither tag nor zeros was written: the checksums say how much of it still counts.
        if data[s : s + TAG] != tag and not any(data[s : s + SECTOR]):
            raise Torn
    head = b"".join(data[s + TAG : s + SECTOR] for s in range(offset, body_at, SECTOR))[:head_bytes]
    rest = head[HEAD_BYTES_MIN:]
    if crc32(rest, salt) != rest_crc:
        raise Rotten
    displaced = rest[ROW_BYTES * count + peers_bytes :]
    body = restore_body(data[body_at:total], displaced)
    rows, bad = [], []
    at = 0
    for k in range(count):
        slot, round_, replica, length, crc = _ROW.unpack_from(rest, k * ROW_BYTES)
        row = Row(slot, Ballot(round_, replica), body_at + at, length, crc)
        rows.append(row)
        if value_crc(header, offset, row, body[at : at + length]) != crc:
            bad.append(row)
        at += length
    peers = rest[ROW_BYTES * count : ROW_BYTES * count + peers_bytes]
    end = offset + -(-(total - offset) // BLOCK) * BLOCK
    return Group(number, durable, Ballot(r, i), mark, tuple(rows), tuple(bad), peers, fixed_crc, end)


def restore_body(body: bytes, displaced: bytes) -> bytes:
    """Put the displaced bytes back where the tags stand."""
    restored = bytearray(body)
    for k in range(TAG if body else 0):
        restored[k::SECTOR] = displaced[k::TAG]
    return bytes(restored)


def value_crc(header: SegmentHeader, group_offset: int, row: Row, value: bytes) -> int:
    """The checksum that a value must have at its place."""
    key = _KEY.pack(row.slot, row.ballot.round, row.ballot.replica)
    return crc32(value, crc32(key, _salt(header, group_offset)))


def extract(header: SegmentHeader, data: bytes, offset: int, row: Row) -> bytes | None:
    """One value out of the bytes of its group, which begin at `offset` of the segment; None when it is damaged."""
    if len(data) < TAG + HEAD_BYTES_MIN:
        return None
    (fixed_crc,) = _FIXED_CRC.unpack_from(data, TAG + _FIXED.size)
    salt = _salt(header, offset)
    if crc32(data[TAG : TAG + _FIXED.size], salt) != fixed_crc:
        return None  # lengths that cannot be trusted are not followed
    fixed = _FIXED.unpack_from(data, TAG)
    head_bytes, count, peers_bytes = fixed[6], fixed[8], fixed[9]
    head_sectors = -(-head_bytes // HEAD_ROOM)
    head = b"".join(data[s + TAG : s + SECTOR] for s in range(0, head_sectors * SECTOR, SECTOR))[:head_bytes]
    displaced = head[HEAD_BYTES_MIN + ROW_BYTES * count + peers_bytes :]
    body_at = head_sectors * SECTOR
    first = (row.offset - offset - body_at) // SECTOR
    last = (row.offset - offset - body_at + max(row.length, 1) - 1) // SECTOR
    piece = data[body_at + first * SECTOR : body_at + (last + 1) * SECTOR]
    if not row.length:
        return b""
    if len(piece) < (last - first + 1) * SECTOR or len(displaced) < (last + 1) * TAG:
        return None
    restored = restore_body(piece, displaced[first * TAG : (last + 1) * TAG])
    start = row.offset - offset - body_at - first * SECTOR
    value = restored[start : start + row.length]
    return value if value_crc(header, offset, row, value) == row.crc else None
