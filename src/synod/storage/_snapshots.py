"""Snapshot files: the state at a slot, in checksummed chunks, under a name that appears only when it is whole.

file  := header | chunk* | trailer
chunk := length u32, CRC u32, bytes          trailer := length 0, 0, blake2b-128 of everything before
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from synod.base import Corruption, Slot, invariant

from ._files import File, FileSystem, join

_MAGIC: Final = b"SYNODSNP"
FORMAT_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sH16sQI")
_CHUNK: Final = struct.Struct(">II")
_DIGEST_BYTES: Final = 16
NAME: Final = "snapshot-{:016x}.snap"
TEMPORARY: Final = "snapshot-writing.tmp"
KEPT: Final = 2
"""A damaged latest snapshot leaves the one before it, and the log that reaches back to that."""


SYNC_BYTES: Final = 1 << 20
"""So much of a snapshot is written between two syncs. The log shares the disk and its thread: to sync the hundreds of
megabytes of a large one at its end would hold up every write for as long."""


class NotOurs(Corruption):
    """A good snapshot of another cell or a newer version: somebody's mistake, and no damage to be repaired."""


class SnapshotWriter:
    """A snapshot on its way to the disk."""

    __slots__ = ("_at", "_digest", "_directory", "_file", "_fs", "_synced", "slot")

    def __init__(self, fs: FileSystem, directory: str, cell_id: bytes, slot: Slot) -> None:
        self._fs = fs
        self._directory = directory
        self.slot = slot
        path = join(directory, TEMPORARY)
        if fs.exists(path):
            fs.unlink(path)
        self._file: File = fs.append_new(path)
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._at = 0
        self._synced = 0
        body = _HEADER.pack(_MAGIC, FORMAT_VERSION, cell_id, slot, 0)[:-4]
        self._put(body + struct.pack(">I", zlib.crc32(body)))

    def _put(self, data: bytes) -> None:
        self._file.pwrite(self._at, data)
        self._digest.update(data)
        self._at += len(data)

    def write(self, chunk: bytes) -> None:
        """Add a chunk; an empty one is nothing."""
        if chunk:
            self._put(_CHUNK.pack(len(chunk), zlib.crc32(chunk)) + chunk)
            if self._at - self._synced >= SYNC_BYTES:
                self._file.sync()
                self._synced = self._at

    def commit(self) -> None:
        """Make it durable under its name."""
        self._put(_CHUNK.pack(0, 0))
        self._file.pwrite(self._at, self._digest.digest())
        self._file.sync()
        self._file.close()
        self._fs.rename(join(self._directory, TEMPORARY), join(self._directory, NAME.format(self.slot)))
        self._fs.sync_dir(self._directory)

    def abort(self) -> None:
        """Forget it."""
        self._file.close()
        if self._fs.exists(join(self._directory, TEMPORARY)):
            self._fs.unlink(join(self._directory, TEMPORARY))


class SnapshotReader:
    """A snapshot file on its way from the disk, chunk by chunk, so that a large one need not be in memory twice.

    What `chunks` gives may be relied on only when it has come to its end: the last check is of the whole file.

    Args:
        read: (offset, size) to bytes, fewer only at the end of the file.
        size: of the file.
        path: what messages call it.
        start: where in the file the snapshot begins.

    Raises:
        Corruption: the header is damaged or cut short.
        NotOurs: a newer version wrote it.
    """

    __slots__ = ("_path", "_read", "_size", "_start", "cell_id", "slot")

    def __init__(self, read: Callable[[int, int], bytes], size: int, path: str, start: int = 0) -> None:
        self._read = read
        self._size = size
        self._path = path
        self._start = start
        if size - start < _HEADER.size + _CHUNK.size + _DIGEST_BYTES:
            raise Corruption(f"{path}: this snapshot is cut short")
        header = read(start, _HEADER.size)
        magic, version, self.cell_id, self.slot, crc = _HEADER.unpack(header)
        if magic != _MAGIC or crc != zlib.crc32(header[:-4]):
            raise Corruption(f"{path}: the header of this snapshot is damaged")
        if version > FORMAT_VERSION:
            raise NotOurs(f"{path} was written by a newer synod (snapshot format {version})")

    def chunks(self) -> Iterator[bytes]:
        """What was written, in order.

        Raises:
            Corruption: a chunk is damaged, or one is missing, or too many; the text names it.
        """
        read, path = self._read, self._path
        digest = hashlib.blake2b(read(self._start, _HEADER.size), digest_size=_DIGEST_BYTES)
        at = self._start + _HEADER.size
        number = 0
        while True:
            head = read(at, _CHUNK.size)
            if len(head) < _CHUNK.size:
                raise Corruption(f"{path}: this snapshot is cut short")
            digest.update(head)
            length, crc = _CHUNK.unpack(head)
            at += _CHUNK.size
            if length == 0:
                break
            chunk = read(at, length) if length <= self._size - at else b""
            if len(chunk) < length or zlib.crc32(chunk) != crc:
                raise Corruption(f"{path}: chunk {number} of this snapshot, at offset {at}, is damaged")
            digest.update(chunk)
            yield chunk
            number += 1
            at += length
        if read(at, _DIGEST_BYTES + 1) != digest.digest():
            raise Corruption(f"{path}: the digest of this snapshot does not fit")


def parse_snapshot(data: bytes | bytearray, cell_id: bytes, path: str) -> tuple[Slot, list[bytes]]:
    """The slot and the chunks of a snapshot file.

    Raises:
        Corruption: it is damaged, cut short, of another cell, or of a newer version.
    """
    view = memoryview(data)
    reader = SnapshotReader(lambda at, size: bytes(view[at : at + size]), len(data), path)
    _demand_ours(reader, cell_id, path)
    return reader.slot, list(reader.chunks())


def _demand_ours(reader: SnapshotReader, cell_id: bytes, path: str) -> None:
    if reader.cell_id != cell_id:
        raise NotOurs(f"{path} belongs to the cell {reader.cell_id.hex()}")


class Snapshots:
    """The snapshot files of one directory."""

    def __init__(self, fs: FileSystem, directory: str, cell_id: bytes) -> None:
        self._fs = fs
        self._directory = directory
        self._cell_id = cell_id
        self._writer: SnapshotWriter | None = None
        self._open: tuple[Slot, File] | None = None
        self.damaged: set[Slot] = set()
        """Stored ones that cannot be read; each stays, as a sign of what is lost, until a newer one is good."""
        if fs.exists(join(directory, TEMPORARY)):
            fs.unlink(join(directory, TEMPORARY))

    def slots(self) -> list[Slot]:
        """The slots of the stored snapshots, rising."""
        return self.stored(self._fs, self._directory)

    @staticmethod
    def stored(fs: FileSystem, directory: str) -> list[Slot]:
        """The same for who only looks."""
        names = fs.list_dir(directory)
        return sorted(int(n[9:25], 16) for n in names if n.startswith("snapshot-") and n.endswith(".snap"))

    def load(self, slot: Slot) -> list[bytes]:
        """The chunks of a stored snapshot.

        Raises:
            Corruption: it is damaged.
        """
        path = join(self._directory, NAME.format(slot))
        file = self._fs.open(path)
        try:
            reader = SnapshotReader(file.pread, file.size(), path)
            _demand_ours(reader, self._cell_id, path)
            chunks = list(reader.chunks())
        finally:
            file.close()
        if reader.slot != slot:
            raise Corruption(f"{path} holds the snapshot of slot {reader.slot}")
        return chunks

    def begin(self, slot: Slot) -> None:
        """Start writing a snapshot."""
        self.abort()
        self._writer = SnapshotWriter(self._fs, self._directory, self._cell_id, slot)

    def write(self, chunk: bytes) -> None:
        """Add a chunk to the one that was begun."""
        invariant(self._writer is not None, "a snapshot is begun before it is written")
        if self._writer is not None:
            self._writer.write(chunk)

    def commit(self) -> Slot:
        """Make the one that was begun durable; returns its slot."""
        writer = self._writer
        invariant(writer is not None, "a snapshot is begun before it is committed")
        assert writer is not None
        writer.commit()
        self._writer = None
        self.damaged.discard(writer.slot)
        if self._open is not None and self._open[0] == writer.slot:
            self._open[1].close()
            self._open = None
        return writer.slot

    def abort(self) -> None:
        """Forget the one that was begun."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def install(self, slot: Slot, chunks: Iterable[bytes]) -> None:
        """Store a snapshot that came from elsewhere."""
        self.begin(slot)
        for chunk in chunks:
            self.write(chunk)
        self.commit()

    def read(self, slot: Slot, offset: int, bytes_max: int) -> tuple[bytes, int]:
        """Raw bytes of a stored file, and its length; nothing when it is not stored any more."""
        if self._open is not None and self._open[0] != slot:
            self._open[1].close()
            self._open = None
        if self._open is None:
            path = join(self._directory, NAME.format(slot))
            if not self._fs.exists(path):
                return b"", 0
            self._open = (slot, self._fs.open(path))
        file = self._open[1]
        return file.pread(offset, bytes_max), file.size()

    def prune(self) -> Slot:
        """Delete all but the newest good ones; returns the slot of the oldest kept, or 0."""
        stored = self.slots()
        slots = [slot for slot in stored if slot not in self.damaged]
        outdated = [slot for slot in self.damaged.intersection(stored) if slots and slot < slots[-1]]
        self.damaged.difference_update(outdated)
        for slot in sorted([*slots[:-KEPT], *outdated]):
            if self._open is not None and self._open[0] == slot:
                self._open[1].close()
                self._open = None
            self._fs.unlink(join(self._directory, NAME.format(slot)))
        if len(slots) > KEPT or outdated:
            self._fs.sync_dir(self._directory)
        return slots[-KEPT] if len(slots) >= KEPT else 0
