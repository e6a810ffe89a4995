"""Snapshot files: the state at a slot, in checksummed chunks, under a name that appears only when it is whole.

file  := header | chunk* | trailer
chunk := length u32, CRC u32, bytes          trailer := length 0, 0, blake2b-128 of everything before
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from synod.base import Corruption, NoSpace, Slot, invariant

from ._files import File, FileSystem, join

_MAGIC: Final = b"SYNODSNP"
FORMAT_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sH16sQI")
_CHUNK: Final = struct.Struct(">II")
_DIGEST_BYTES: Final = 16
NAME: Final = "snapshot-{:016x}.snap"
TEMPORARY: Final = "snapshot-writing.tmp"
PARTIAL: Final = "snapshot-transfer.tmp"
"""A peer's snapshot, as far as it has come. It is resumed over any number of connections, but not after a start."""
KEPT: Final = 2
"""A damaged latest snapshot leaves the one before it, and the log that reaches back to that."""


SYNC_BYTES: Final = 1 << 20
"""So much of a snapshot is written between two syncs. The log shares the disk and its thread: to sync the hundreds of
megabytes of a large one at its end would hold up every write for as long."""


CHUNK_BYTES_MAX: Final = 64 << 20
"""Far above what anybody writes; keeps a damaged length from being believed."""


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
                self._file.uncache(self._synced, self._at - self._synced)
                self._synced = self._at

    def finish(self) -> None:
        """Make it whole and durable; it has no name yet."""
        self._put(_CHUNK.pack(0, 0))
        self._file.pwrite(self._at, self._digest.digest())
        self._file.sync()
        self._file.close()

    def publish(self) -> None:
        """Give it its name, durably."""
        self._fs.rename(join(self._directory, TEMPORARY), join(self._directory, NAME.format(self.slot)))
        self._fs.sync_dir(self._directory)

    def abort(self, *, at_once: bool = False) -> None:
        """Forget it; `at_once` where its room is needed."""
        self._file.close()
        if self._fs.exists(join(self._directory, TEMPORARY)):
            self._fs.unlink(join(self._directory, TEMPORARY), at_once=at_once)


class SnapshotCheck:
    """Checks the bytes of a snapshot file, which come one after the other in the pieces that it asks for.

    `needs` says how many bytes come next, `take` takes just these; `whole` once the last has come. Only then the
    chunks may be relied on: the last check is of the whole file.

    Args:
        path: what messages call it.
        at: where the file begins, for the offsets that messages name.
    """

    __slots__ = ("_crc", "_digest", "_number", "_path", "_stage", "at", "cell_id", "needs", "slot")

    def __init__(self, path: str, at: int = 0) -> None:
        self._path = path
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._stage = "header"
        self._crc = 0
        self._number = 0
        self.at = at
        self.needs = _HEADER.size
        self.cell_id = b""
        self.slot: Slot = 0

    @property
    def whole(self) -> bool:
        """Whether everything has come, and is as it was written."""
        return self._stage == "whole"

    def take(self, part: bytes) -> bytes:
        """The next `needs` bytes; gives back those of a chunk, and nothing for what stands between chunks.

        Raises:
            Corruption: they are fewer, or damaged; the text says where.
            NotOurs: a newer version wrote them.
        """
        stage, path = self._stage, self._path
        if stage == "chunk":
            if len(part) < self.needs or zlib.crc32(part) != self._crc:
                raise Corruption(f"{path}: chunk {self._number} of this snapshot, at offset {self.at}, is damaged")
        elif stage == "end":
            if part != self._digest.digest():
                raise Corruption(f"{path}: the digest of this snapshot does not fit")
        elif len(part) < self.needs:
            raise Corruption(f"{path}: this snapshot is cut short")
        self._digest.update(part)
        self.at += len(part)
        if stage == "header":
            magic, version, self.cell_id, self.slot, crc = _HEADER.unpack(part)
            if magic != _MAGIC or crc != zlib.crc32(part[:-4]):
                raise Corruption(f"{path}: the header of this snapshot is damaged")
            if version > FORMAT_VERSION:
                raise NotOurs(f"{path} was written by a newer synod (snapshot format {version})")
            self._next("head", _CHUNK.size)
        elif stage == "head":
            length, self._crc = _CHUNK.unpack(part)
            if length > CHUNK_BYTES_MAX:
                raise Corruption(f"{path}: chunk {self._number} of this snapshot, at offset {self.at}, is damaged")
            self._next("chunk" if length else "end", length or _DIGEST_BYTES)
        elif stage == "chunk":
            self._number += 1
            self._next("head", _CHUNK.size)
            return part
        else:
            self._next("whole", 0)
        return b""

    def _next(self, stage: str, needs: int) -> None:
        self._stage, self.needs = stage, needs


class SnapshotReader:
    """A snapshot file on its way from the disk, chunk by chunk, so that a large one need not be in memory.

    What `chunks` gives may be relied on only when it has come to its end: see `SnapshotCheck`.

    Args:
        read: (offset, size) to bytes, fewer only at the end of the file.
        size: of the file.
        path: what messages call it.
        start: where in the file the snapshot begins.

    Raises:
        Corruption: the header is damaged or cut short.
        NotOurs: a newer version wrote it.
    """

    __slots__ = ("_path", "_read", "_start", "cell_id", "slot")

    def __init__(self, read: Callable[[int, int], bytes], size: int, path: str, start: int = 0) -> None:
        self._read = read
        self._path = path
        self._start = start
        if size - start < _HEADER.size + _CHUNK.size + _DIGEST_BYTES:
            raise Corruption(f"{path}: this snapshot is cut short")
        header = self._check()
        self.cell_id, self.slot = header.cell_id, header.slot

    def _check(self) -> SnapshotCheck:
        check = SnapshotCheck(self._path, self._start)
        check.take(self._read(check.at, check.needs))
        return check

    def chunks(self) -> Iterator[bytes]:
        """What was written, in order.

        Raises:
            Corruption: a chunk is damaged, or one is missing, or too many; the text names it.
        """
        check = self._check()
        while not check.whole:
            chunk = check.take(self._read(check.at, check.needs))
            if chunk:
                yield chunk
        if self._read(check.at, 1):
            raise Corruption(f"{self._path}: the digest of this snapshot does not fit")


def parse_snapshot(data: bytes | bytearray, cell_id: bytes, path: str) -> tuple[Slot, list[bytes]]:
    """The slot and the chunks of a snapshot file.

    Raises:
        Corruption: it is damaged, cut short, of another cell, or of a newer version.
    """
    view = memoryview(data)
    reader = SnapshotReader(lambda at, size: bytes(view[at : at + size]), len(data), path)
    _demand_ours(reader.cell_id, cell_id, path)
    return reader.slot, list(reader.chunks())


class SnapshotTransfer:
    """A peer's snapshot file on its way to the disk: checked as it comes, and never whole in memory.

    The kernel may keep it there, though: it is read as soon as it is whole, and to have it come from the disk then
    would hold up the log.

    Args:
        cell_id: whose it must be.
        slot: which one it must be.
    """

    __slots__ = ("_cell_id", "_check", "_directory", "_file", "_fs", "_rest", "_synced", "at", "slot")

    def __init__(self, fs: FileSystem, directory: str, cell_id: bytes, slot: Slot) -> None:
        self._fs = fs
        self._directory = directory
        self._cell_id = cell_id
        self._check = SnapshotCheck(join(directory, NAME.format(slot)))
        self._rest = bytearray()
        self._file = fs.append_new(join(directory, PARTIAL))
        self._synced = 0
        self.at = 0
        self.slot = slot

    def write(self, data: bytes) -> None:
        """The next bytes of the file.

        Raises:
            Corruption: they are damaged, or of another snapshot; this object is to be aborted.
            NoSpace: so is it then.
        """
        path = join(self._directory, NAME.format(self.slot))
        check, rest = self._check, self._rest
        rest += data
        at = 0
        while not check.whole and len(rest) - at >= check.needs:
            size = check.needs
            check.take(bytes(rest[at : at + size]))
            at += size
            if check.cell_id:
                _demand_ours(check.cell_id, self._cell_id, path)
                if check.slot != self.slot:
                    raise Corruption(f"{path}: the peer's snapshot is of slot {check.slot} and not of slot {self.slot}")
        del rest[:at]
        if check.whole and rest:
            raise Corruption(f"{path}: the digest of this snapshot does not fit")
        self._file.pwrite(self.at, data)
        self.at += len(data)
        if self.at - self._synced >= SYNC_BYTES:
            self._file.sync()
            self._synced = self.at

    def demand_whole(self) -> None:
        """See that nothing is missing.

        Raises:
            Corruption: something is.
        """
        if not self._check.whole:
            raise Corruption(f"{join(self._directory, NAME.format(self.slot))}: this snapshot is cut short")

    def commit(self) -> None:
        """Make it durable under its name."""
        self._file.sync()
        self._file.close()
        self._fs.rename(join(self._directory, PARTIAL), join(self._directory, NAME.format(self.slot)))
        self._fs.sync_dir(self._directory)

    def abort(self, *, at_once: bool = False) -> None:
        """Forget it; `at_once` where its room is needed."""
        self._file.close()
        if self._fs.exists(join(self._directory, PARTIAL)):
            self._fs.unlink(join(self._directory, PARTIAL), at_once=at_once)


def _demand_ours(found: bytes, cell_id: bytes, path: str) -> None:
    if found != cell_id:
        raise NotOurs(f"{path} belongs to the cell {found.hex()}")


class Snapshots:
    """The snapshot files of one directory."""

    def __init__(self, fs: FileSystem, directory: str, cell_id: bytes) -> None:
        self._fs = fs
        self._directory = directory
        self._cell_id = cell_id
        self._writer: SnapshotWriter | None = None
        self._transfer: SnapshotTransfer | None = None
        self._open: tuple[Slot, File] | None = None
        self.damaged: set[Slot] = set()
        """Stored ones that cannot be read; each stays, as a sign of what is lost, until a newer one is good."""
        for name in (TEMPORARY, PARTIAL):
            if fs.exists(join(directory, name)):
                fs.unlink(join(directory, name))

    def slots(self) -> list[Slot]:
        """The slots of the stored snapshots, rising."""
        return self.stored(self._fs, self._directory)

    @staticmethod
    def stored(fs: FileSystem, directory: str) -> list[Slot]:
        """The same for who only looks."""
        names = fs.list_dir(directory)
        return sorted(int(n[9:25], 16) for n in names if n.startswith("snapshot-") and n.endswith(".snap"))

    def load(self, slot: Slot) -> Iterator[bytes]:
        """The chunks of a stored snapshot, read as they are taken; nobody needs the file in memory after that.

        Raises:
            Corruption: it is damaged.
        """
        path = join(self._directory, NAME.format(slot))
        file = self._fs.open(path)
        try:
            reader = SnapshotReader(file.pread, file.size(), path)
            _demand_ours(reader.cell_id, self._cell_id, path)
            if reader.slot != slot:
                raise Corruption(f"{path} holds the snapshot of slot {reader.slot}")
            taken = uncached = 0
            for chunk in reader.chunks():
                yield chunk
                taken += len(chunk)
                if taken - uncached >= SYNC_BYTES:
                    file.uncache(uncached, taken - uncached)
                    uncached = taken
            file.uncache(uncached, file.size() - uncached)
        finally:
            file.close()

    def begin(self, slot: Slot) -> None:
        """Start writing a snapshot."""
        self.abort()
        self._writer = SnapshotWriter(self._fs, self._directory, self._cell_id, slot)

    def write(self, chunk: bytes) -> None:
        """Add a chunk to the one that was begun."""
        invariant(self._writer is not None, "a snapshot is begun before it is written")
        if self._writer is not None:
            self._writer.write(chunk)

    def finish(self) -> None:
        """Make the one that was begun whole and durable; `publish` it next."""
        invariant(self._writer is not None, "a snapshot is begun before it is finished")
        assert self._writer is not None
        self._writer.finish()

    def publish(self) -> Slot:
        """Give the finished one its name; returns its slot."""
        writer = self._writer
        assert writer is not None
        writer.publish()
        self._writer = None
        self._replaced(writer.slot)
        return writer.slot

    def _replaced(self, slot: Slot) -> None:
        """A new file has this name now."""
        self.damaged.discard(slot)
        if self._open is not None and self._open[0] == slot:
            self._open[1].close()
            self._open = None

    def abort(self, *, at_once: bool = False) -> None:
        """Forget the one that was begun; `at_once` where its room is needed."""
        if self._writer is not None:
            self._writer.abort(at_once=at_once)
            self._writer = None

    def transfer(self, slot: Slot, offset: int, data: bytes) -> None:
        """Keep bytes of a peer's snapshot file; offset 0 begins a new one.

        Raises:
            Corruption: they are damaged, or do not continue what is here; it must begin anew.
            NoSpace: there is no room; it must begin anew.
        """
        if offset == 0:
            self.abort_transfer()
            self._transfer = SnapshotTransfer(self._fs, self._directory, self._cell_id, slot)
        transfer = self._transfer
        if transfer is None or (transfer.slot, transfer.at) != (slot, offset):
            raise Corruption(f"what came of a peer's snapshot of slot {slot} does not continue what is here")
        try:
            transfer.write(data)
        except (Corruption, NoSpace) as failure:
            self.abort_transfer(at_once=isinstance(failure, NoSpace))
            raise

    def transferred(self, slot: Slot) -> SnapshotTransfer:
        """The whole snapshot of a peer.

        Raises:
            Corruption: it is not here, or not all of it.
        """
        transfer = self._transfer
        if transfer is None or transfer.slot != slot:
            raise Corruption(f"nothing is here of a peer's snapshot of slot {slot}")
        transfer.demand_whole()
        return transfer

    def install(self, slot: Slot) -> None:
        """Let a peer's snapshot, which must be whole, take its place among those of this replica."""
        transfer = self.transferred(slot)
        self.abort()  # one of our own would be of a state that is gone
        self._transfer = None
        transfer.commit()
        self._replaced(slot)

    def abort_transfer(self, *, at_once: bool = False) -> None:
        """Forget what has come of a peer's snapshot; `at_once` where its room is needed."""
        if self._transfer is not None:
            self._transfer.abort(at_once=at_once)
            self._transfer = None

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
