"""A backup: one file that holds the state of a whole cell at one slot.

    file := header | a snapshot file, just as it lies in a data directory

The header says what the snapshot cannot say of itself before it is read: how long it is, and which digest the cell's
replicas agreed on for that slot. Every byte is covered: the header by its checksum, the rest by the snapshot's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from synod.base import Corruption, Slot, UserError

from ._files import File, FileSystem, join
from ._identity import Identity, demand_empty, write_identity
from ._snapshots import NAME, SnapshotReader, SnapshotWriter

_MAGIC: Final = b"SYNODBAK"
FORMAT_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sHH16sQQQQQ16sQI")
"""magic, version, feature level, cell, slot, zxid, znodes, sessions, taken at (ms since 1970), digest of the state,
bytes of the snapshot, CRC"""

HEADER_BYTES: Final = _HEADER.size


@dataclass(frozen=True, slots=True)
class BackupHeader:
    """What a backup says of itself.

    Args:
        level: the feature level of the cell.
        cell_id: 16 bytes.
        slot: the state is the one after it.
        zxid: the last one of the state.
        znodes: as a client counts them.
        sessions: how many were open.
        taken_ms: when, in milliseconds since 1970.
        digest: of the state, as a quorum of the replicas computed it.
        snapshot_bytes: how much follows.
    """

    level: int
    cell_id: bytes
    slot: Slot
    zxid: int
    znodes: int
    sessions: int
    taken_ms: int
    digest: bytes
    snapshot_bytes: int

    def encode(self) -> bytes:
        """The beginning of the file."""
        body = _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.level,
            self.cell_id,
            self.slot,
            self.zxid,
            self.znodes,
            self.sessions,
            self.taken_ms,
            self.digest,
            self.snapshot_bytes,
            0,
        )[:-4]
        return body + struct.pack(">I", zlib.crc32(body))


class BackupReader:
    """A backup file that is read.

    Args:
        read: (offset, size) to bytes, fewer only at the end of the file.
        size: of the file.
        path: what messages call it.

    Raises:
        UserError: it is no backup, or a newer version wrote it.
        Corruption: it is damaged or cut short.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, path: str) -> None:
        data = read(0, HEADER_BYTES)
        if data[:8] != _MAGIC[: len(data)] or not data:
            raise UserError(f"{path} is no backup of a cell: it does not begin like one")
        if len(data) < HEADER_BYTES:
            raise Corruption(f"{path} is cut short: its header has {HEADER_BYTES} bytes, and {len(data)} are there")
        _, version, level, cell_id, slot, zxid, znodes, sessions, taken_ms, digest, length, crc = _HEADER.unpack(data)
        if crc != zlib.crc32(data[:-4]):
            raise Corruption(f"{path}: the header of this backup is damaged")
        if version > FORMAT_VERSION:
            raise UserError(
                f"{path} was written by a newer synod (backup format {version}, this one knows {FORMAT_VERSION}); "
                f"use that version"
            )
        self.header = BackupHeader(level, cell_id, slot, zxid, znodes, sessions, taken_ms, digest, length)
        written = HEADER_BYTES + length
        if size != written:
            fault = "cut short" if size < written else "too long"
            raise Corruption(f"{path} is {fault}: it has {size:,} bytes, and {written:,} were written")
        self._snapshot = SnapshotReader(read, size, path, HEADER_BYTES)
        if (self._snapshot.cell_id, self._snapshot.slot) != (cell_id, self.header.slot):
            raise Corruption(f"{path}: its header and its snapshot are not of one cell and slot")

    def chunks(self) -> Iterator[bytes]:
        """The chunks of the state, in order; they may be relied on when the last has come.

        Raises:
            Corruption: one is damaged; the text names it.
        """
        return self._snapshot.chunks()


def begin_directory(fs: FileSystem, directory: str, identity: Identity, slot: Slot, chunks: Iterable[bytes]) -> None:
    """Format a directory for a replica whose first state is not the empty one.

    The identity comes last: a directory without it is no replica's, so that nobody starts from half of a state.

    Raises:
        DataDirError: the directory has an identity already, or holds something else; nothing was changed.
    """
    demand_empty(fs, directory)
    writer = SnapshotWriter(fs, directory, bytes.fromhex(identity.cell_id), slot)
    try:
        for chunk in chunks:
            writer.write(chunk)
        writer.finish()
        writer.publish()
    except BaseException:
        writer.abort()
        raise
    try:
        write_identity(fs, directory, identity)
    except BaseException:
        fs.unlink(join(directory, NAME.format(slot)))
        raise


def open_snapshot(fs: FileSystem, directory: str, slot: Slot) -> File:
    """A stored snapshot as a file of one's own, which stays readable when the store deletes its name.

    Raises:
        DataDirError: it is not there.
    """
    return fs.open(join(directory, NAME.format(slot)))
