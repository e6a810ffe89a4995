"""Looking at a data directory without changing a byte of it: what would a start find?

The log is read by the very code that reads it at a start, which here collects what it would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from synod.base import Corruption, DataDirError, Slot

from ._files import FileSystem, join
from ._identity import IDENTITY, LOCK, DamagedIdentity, Identity, demand_memory, load_identity, read_boot_count
from ._log import Log
from ._segment import BLOCK
from ._snapshots import NAME, SnapshotReader, Snapshots


@dataclass(slots=True)
class Found:
    """What a data directory holds.

    Args:
        identity: whose it is; None when that cannot be read, and then nothing else was looked at.
        damage: a sentence for each thing that is not as it was written, with file and record.
        segments: of the log.
        records: sync groups in them.
        slots: the lowest and highest slot in the log that can be read; nothing when there is none.
        snapshots: by slot, what `look` made of each good one.
    """

    identity: Identity | None = None
    damage: list[str] = field(default_factory=list)
    segments: int = 0
    records: int = 0
    slots: tuple[Slot, Slot] | None = None
    snapshots: dict[Slot, object] = field(default_factory=dict)


def verify_directory(fs: FileSystem, directory: str, look: Callable[[Iterator[bytes]], object]) -> Found:
    """Check everything in a data directory that has a checksum.

    Args:
        fs: that opens files for reading only.
        directory: of a replica that does not run.
        look: takes the chunks of a snapshot to their end; raises Corruption when they make no state.

    Raises:
        DataDirError: it is no data directory, is in use, or is of a newer version.
    """
    if not fs.exists(directory):
        raise DataDirError(f"{directory} does not exist")
    if not fs.exists(join(directory, IDENTITY)):
        raise DataDirError(f"{directory} is no data directory of a replica: it has no {IDENTITY}")
    lock = fs.lock(join(directory, LOCK))
    try:
        return _look(fs, directory, look)
    finally:
        lock.close()


def _look(fs: FileSystem, directory: str, look: Callable[[Iterator[bytes]], object]) -> Found:
    found = Found()
    try:
        identity = found.identity = load_identity(fs, directory)
        read_boot_count(fs, directory)
    except DamagedIdentity as damage:
        found.damage.append(str(damage))
        if found.identity is None:
            return found
        identity = found.identity
    try:
        demand_memory(fs, directory)
    except DataDirError as mark:
        found.damage.append(str(mark))
    cell_id = bytes.fromhex(identity.cell_id)
    log = Log(
        fs,
        directory,
        cell_id=cell_id,
        replica=identity.replica_id,
        incarnation=identity.incarnation,
        configuration=identity.configuration.digest(),
        segment_bytes=BLOCK,
        draw_nonce=bytes,
        damage=found.damage,
    )
    found.segments, found.records, found.slots = log.segments, log.groups, log.slots
    found.damage += log.unknown.values()
    log.close()
    stored = Snapshots.stored(fs, directory)
    for slot in stored:
        path = join(directory, NAME.format(slot))
        file = fs.open(path)
        try:
            reader = SnapshotReader(file.pread, file.size(), path)
            if (reader.cell_id, reader.slot) != (cell_id, slot):
                found.damage.append(f"{path} holds slot {reader.slot} of the cell {reader.cell_id.hex()}")
                continue
            found.snapshots[slot] = look(reader.chunks())
        except Corruption as damage:
            text = str(damage)
            found.damage.append(text if path in text else f"{path}: {text}")
        finally:
            file.close()
    if stored and log.empty and stored[-1] > identity.configuration.begins_at:
        found.damage.append(f"{directory}: there is a snapshot of slot {stored[-1]}, and the log is gone")
    elif found.snapshots and log.missing_upto(max(found.snapshots)):
        found.damage.append(f"{directory}: the log does not reach back to the snapshot of slot {max(found.snapshots)}")
    if not stored and (log.trimmed or identity.needs_snapshot):
        found.damage.append(f"{directory}: the log continues a snapshot, and there is none")
    return found
