"""The durable log: segments of sync groups, append-only.

The highest ballot per slot wins. Whatever a segment's header says was before it is there: the header of each
segment repeats the promise, so that deleting older ones forgets none, and the number of the last good group
before it, so that a torn tail that was once cut stays cut.

After a restart a new segment begins: no group is ever written over bytes whose fate is unknown.

Read `_recover_segment` for how torn and rotten are told apart, and `append` for the hot path.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from synod.base import BALLOT_ZERO, Ballot, Corruption, Entry, NoSpace, Slot, StorageError

from ._files import ZEROS, File, FileSystem, join
from ._segment import (
    BLOCK,
    SECTOR,
    Group,
    Rotten,
    Row,
    SegmentHeader,
    Torn,
    decode_group,
    encode_group,
    extract,
)

SEGMENT_NAME: Final = "log-{:016x}.seg"
PREPARED_NAME: Final = "log-prepared.tmp"

PREPARE_STEP_BYTES: Final = len(ZEROS)
"""So much of the next segment is zeroed and synced at once: a millisecond or two, where a whole one takes fifty."""

CACHED_BYTES: Final = 8 << 20
"""So much of the active segment's end stays in the kernel's cache, for peers that fetch what they missed. What is older
is given back by the step, and its pages take the next zeros: pages that a virtual machine has never touched, or has
given back to its host, cost 3 ms a MiB, those just freed 0.2 to 0.5 ms (measured)."""


class _Segment:
    """A segment that holds groups."""

    __slots__ = ("at", "file", "header", "path", "size", "slot_max", "slots", "uncached")

    def __init__(self, header: SegmentHeader, file: File, path: str) -> None:
        self.header = header
        self.file = file
        self.path = path
        self.at = BLOCK
        self.size = file.size()
        self.slot_max: Slot = 0
        self.slots: list[Slot] = []  # those of which a value is here, the latest or one that came before it
        self.uncached = 0  # bytes from its beginning on that the kernel need not hold


class _Place:
    """Where the value of a slot is: in which segment, in which group, in which row of it."""

    __slots__ = ("group_offset", "row", "segment")

    def __init__(self, segment: _Segment, group_offset: int, row: Row) -> None:
        self.segment = segment
        self.group_offset = group_offset
        self.row = row


class Composed:
    """A sync group that somebody else is to write: to which descriptor, at which offset, what; and the path of the file."""

    __slots__ = ("data", "fd", "offset", "path")

    def __init__(self, fd: int, offset: int, data: bytearray, path: str) -> None:
        self.fd = fd
        self.offset = offset
        self.data = data
        self.path = path


class Log:
    """The log of one replica.

    Args:
        draw_nonce: eight bytes that this machine has not drawn before; the tags of stale sectors must differ.
        segment_bytes: size of a segment; a longer group gets a segment of its own.
        damage: given by who only looks: takes a sentence for each thing that a start refuses, and nothing on the
            disk is changed.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        *,
        cell_id: bytes,
        replica: int,
        incarnation: int,
        configuration: bytes,
        segment_bytes: int,
        draw_nonce: Callable[[], bytes],
        damage: list[str] | None = None,
    ) -> None:
        self._fs = fs
        self._damage = damage
        self._directory = directory
        self._cell_id = cell_id
        self._replica = replica
        self._incarnation = incarnation
        self._configuration = configuration
        self._segment_bytes = segment_bytes
        self._draw_nonce = draw_nonce
        self._segments: list[_Segment] = []
        self._active: _Segment | None = None
        self._prepared: File | None = None
        self._prepared_bytes = 0
        self._no_room = False
        self._places: dict[Slot, _Place] = {}
        self._number = 0
        self._durable = 0
        self._crc = 0
        self._next_index = 1
        self.promised = BALLOT_ZERO
        self.chosen_mark: Slot = 0
        self.peers = b""
        self.unknown: dict[Slot, str] = {}
        self._recover()

    # -- recovery ------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        names = [n for n in self._fs.list_dir(self._directory) if n.startswith("log-") and n.endswith(".seg")]
        found: list[_Segment] = []
        for name in names:
            path = join(self._directory, name)
            file = self._fs.open(path)
            self._next_index = max(self._next_index, int(name[4:20], 16) + 1)
            try:
                header = SegmentHeader.decode(file.pread(0, SECTOR), path)
                self._demand_ours(header, file.size(), path)
            except Corruption as damage:
                file.close()
                self._refuse(damage)
                continue
            found.append(_Segment(header, file, path))
        for k, segment in enumerate(found):
            until = found[k + 1].header.groups_before if k + 1 < len(found) else None
            try:
                self._recover_segment(segment, until)
            except Corruption as damage:
                self._refuse(damage)
                self._number = self._number if until is None else until
        if self._damage is not None:
            self._segments = found
            return
        if found:
            # What a killed process wrote and did not sync is read here out of the kernel's memory: without this it
            # would count as durable (a promise is repeated from it), and a power loss could still take it back.
            # Only the last segment: the ones before it were synced before it began.
            found[-1].file.sync()
        self._segments = found
        self._durable = self._number
        if self._fs.exists(join(self._directory, PREPARED_NAME)):
            self._fs.unlink(join(self._directory, PREPARED_NAME))

    def _refuse(self, damage: Corruption) -> None:
        if self._damage is None:
            raise damage
        self._damage.append(str(damage))

    def _demand_ours(self, header: SegmentHeader, size: int, path: str) -> None:
        if size != header.size:
            raise Corruption(f"{path} has {size} bytes instead of {header.size}; replace the replica from its peers")
        if header.cell_id != self._cell_id or header.replica != self._replica:
            raise Corruption(
                f"{path} belongs to replica {header.replica} of the cell {header.cell_id.hex()}: "
                f"data directories were mixed up; put each back where it was"
            )

    def _recover_segment(self, segment: _Segment, until: int | None) -> None:
        """Read the groups of a segment.

        Args:
            segment: with a good header.
            until: the number of the last group before the next segment, when there is one: that many were
                durable, and what lies past them was cut by an earlier recovery.
        """
        header = segment.header
        self.promised = max(self.promised, header.promised)
        if header.groups_before != self._number and self._segments_began():
            self._refuse(Corruption(f"{segment.path}: the log segment before this one is missing or ends too early"))
        self._number = header.groups_before
        data = segment.file.pread(0, segment.size)
        offset = BLOCK
        while until is None or self._number < until:
            try:
                group = decode_group(header, data, offset)
                if group.number != self._number + 1:
                    raise Torn  # a later write that reached the disk before the one that belongs here
            except Torn:
                self._demand_torn(segment, data, offset, until)
                break
            except Rotten:
                # A head that cannot be read may have held a promise: this replica cannot know what it forgot.
                raise Corruption(
                    f"{segment.path}: the record at offset {offset} is damaged and cannot be read; "
                    f"replace the replica from its peers"
                ) from None
            self._take(segment, offset, group)
            offset = group.end
        segment.at = offset

    def _segments_began(self) -> bool:
        return self._number > 0

    def _demand_torn(self, segment: _Segment, data: bytes, offset: int, until: int | None) -> None:
        """What is not whole here must be the end: nothing later may prove that it was durable once.

        Raises:
            Corruption: a later group was written after the one that is missing here had been synced.
        """
        missing = self._number + 1
        proof = until is not None and until >= missing
        for later in range(offset + BLOCK, segment.size, BLOCK):
            if proof:
                break
            try:
                group = decode_group(segment.header, data, later)
            except (Torn, Rotten):
                continue
            proof = group.number > missing and group.durable_before >= missing
        if proof:
            raise Corruption(
                f"{segment.path}: record {missing} at offset {offset} was durable and is gone; "
                f"replace the replica from its peers"
            )

    def _take(self, segment: _Segment, offset: int, group: Group) -> None:
        self._number = group.number
        self._crc = group.crc
        self.promised = max(self.promised, group.promised)
        self.chosen_mark = max(self.chosen_mark, group.chosen_mark)
        self.peers = group.peers or self.peers
        for row in group.rows:
            held = self._places.get(row.slot)
            if held is not None and held.row.ballot > row.ballot:
                continue
            segment.slot_max = max(segment.slot_max, row.slot)
            if row in group.bad:
                self._places.pop(row.slot, None)
                self.unknown[row.slot] = (
                    f"{segment.path}: the value of slot {row.slot} at offset {row.offset} is damaged; "
                    f"it is asked for at the peers"
                )
            else:
                self.unknown.pop(row.slot, None)
                self._places[row.slot] = _Place(segment, offset, row)
                segment.slots.append(row.slot)

    # -- writing -------------------------------------------------------------------------------------------

    def append(self, *, promised: Ballot, chosen_mark: Slot, entries: Sequence[Entry], peers: bytes) -> None:
        """Write one sync group, not durably yet.

        Raises:
            NoSpace: there is no segment to write to and no room for one; nothing was written.
            StorageError: the active segment cannot be written; nothing more may be.
        """
        size = group_bytes_max(entries, peers)
        segment = self._active
        if segment is None or segment.at + size > segment.size:
            segment = self._begin_segment(max(self._segment_bytes, BLOCK + size), promised)
        at = segment.at
        data = self._next_group(segment, promised, chosen_mark, entries, peers)
        try:
            segment.file.pwrite(at, data)
        except NoSpace as full:
            # Some of it may be there; another try with other bytes could leave a mixture that reads as rotten.
            raise StorageError(f"{full}; in the middle of a segment whose room was made before") from full

    def compose(
        self, *, promised: Ballot, chosen_mark: Slot, entries: Sequence[Entry], peers: bytes, bytes_max: int
    ) -> Composed | None:
        """The same, but for the write: somebody else writes and syncs what this gives, and then calls `composed`.

        None when it takes more than `bytes_max`, a new segment, or a file without direct I/O: it is for `append` then,
        and nothing has happened.
        """
        size = group_bytes_max(entries, peers)
        segment = self._active
        if segment is None or segment.at + size > segment.size or size > bytes_max or segment.file.direct() < 0:
            return None
        at = segment.at
        return Composed(
            segment.file.direct(), at, self._next_group(segment, promised, chosen_mark, entries, peers), segment.path
        )

    def composed(self) -> None:
        """Everything that was composed is durable."""
        self._durable = self._number

    def _next_group(
        self, segment: _Segment, promised: Ballot, chosen_mark: Slot, entries: Sequence[Entry], peers: bytes
    ) -> bytearray:
        """The bytes of the next group; from now on it counts as being in the segment."""
        data, crc, rows = encode_group(
            segment.header,
            segment.at,
            number=self._number + 1,
            durable_before=self._durable,
            previous_crc=self._crc,
            promised=promised,
            chosen_mark=chosen_mark,
            entries=entries,
            peers=peers,
        )
        for row in rows:
            held = self._places.get(row.slot)
            if held is None or held.row.ballot <= row.ballot:
                self._places[row.slot] = _Place(segment, segment.at, row)
                segment.slots.append(row.slot)
                if self.unknown:
                    self.unknown.pop(row.slot, None)
            segment.slot_max = max(segment.slot_max, row.slot)
        segment.at += len(data)
        self._number += 1
        self._crc = crc
        self.promised = max(self.promised, promised)
        self.chosen_mark = max(self.chosen_mark, chosen_mark)
        self.peers = peers or self.peers
        return data

    def sync(self) -> None:
        """Make everything that was appended durable."""
        if self._active is not None and self._durable < self._number:
            _sync(self._active.file)
            self._durable = self._number

    def _begin_segment(self, size: int, promised: Ballot) -> _Segment:
        """Take the prepared segment, or make one now; it has a name only when its header is durable."""
        # What the old segment holds must be durable before the new header says that it is complete.
        self.sync()
        if self._active is not None:
            self._active.file.uncache(self._active.uncached, self._active.size)
        while size <= self._segment_bytes and 0 < self._prepared_bytes < self._segment_bytes:
            self._prepare_step(self._prepared_bytes)
        if self._prepared is None or self._prepared.size() < size:
            self._drop_prepared()
            self._prepared = self._fs.create(join(self._directory, PREPARED_NAME), size)
            self._prepared_bytes = size
        file = self._prepared
        path = join(self._directory, SEGMENT_NAME.format(self._next_index))
        header = SegmentHeader(
            index=self._next_index,
            cell_id=self._cell_id,
            replica=self._replica,
            incarnation=self._incarnation,
            nonce=self._draw_nonce(),
            promised=max(self.promised, promised),
            size=file.size(),
            groups_before=self._number,
            configuration=self._configuration,
        )
        # One more sync per segment, so that zeros at the place of a header are damage and never "not used yet".
        file.pwrite(0, header.encode())
        _sync(file)
        self._fs.rename(join(self._directory, PREPARED_NAME), path)
        self._prepared = None
        self._prepared_bytes = 0
        self._fs.sync_dir(self._directory)
        self._next_index += 1
        segment = _Segment(header, file, path)
        self._segments.append(segment)
        self._active = segment
        return segment

    @property
    def wants_preparing(self) -> bool:
        """Whether `prepare` would do something."""
        active = self._active
        if active is None or self._no_room:
            return self._prepared_bytes < self._segment_bytes
        return self._prepared_bytes < min(self._segment_bytes, 2 * active.at)

    def prepare(self) -> None:
        """Have the next segment ready before it is needed: whole once half of the active one is used.

        A step at a time, so that no write waits for the zeros and the sync of a whole segment. Where there was no
        room, all of it at once: a part of it would fit into what the last attempt gave back.

        Raises:
            NoSpace: there is no room; what is acknowledged is safe.
        """
        active, ready = self._active, self._prepared_bytes
        if active is None or self._no_room:
            if ready < self._segment_bytes:
                self._drop_prepared()
                self._no_room = True
                self._prepared = self._fs.create(join(self._directory, PREPARED_NAME), self._segment_bytes)
                self._prepared_bytes = self._segment_bytes
                self._no_room = False
        elif ready < min(self._segment_bytes, 2 * active.at):
            self._prepare_step(ready)

    def _prepare_step(self, ready: int) -> None:
        """Add zeros to the next segment, durably."""
        step = min(PREPARE_STEP_BYTES, self._segment_bytes - ready)
        try:
            if self._prepared is None:
                self._drop_prepared()
                self._prepared = self._fs.append_new(join(self._directory, PREPARED_NAME))
            self._prepared.pwrite(ready, ZEROS if step == PREPARE_STEP_BYTES else bytes(step))
            self._prepared.sync()
            self._prepared_bytes = ready + step
        except NoSpace:
            self._no_room = True
            self._drop_prepared()
            raise

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None
            self._prepared_bytes = 0
        if self._fs.exists(join(self._directory, PREPARED_NAME)):
            self._fs.unlink(join(self._directory, PREPARED_NAME))

    def uncache(self) -> None:
        """Let the kernel's cache go of a step of what is durable and old; between writes, as `prepare`."""
        active = self._active
        if active is not None and active.at - active.uncached >= CACHED_BYTES + PREPARE_STEP_BYTES:
            active.file.uncache(active.uncached, PREPARE_STEP_BYTES)
            active.uncached += PREPARE_STEP_BYTES

    # -- reading -------------------------------------------------------------------------------------------

    def entries(self, after: Slot) -> tuple[Entry, ...]:
        """Every readable entry past a slot, in slot order."""
        slots = sorted(self._places)
        return tuple(self._read(slot) for slot in slots[bisect.bisect_right(slots, after) :])

    def read(self, from_slot: Slot, bytes_max: int) -> list[Entry]:
        """Entries from a slot on without a gap, at least one if there is one.

        Raises:
            Corruption: a record is damaged that was good at the start; the text names it.
        """
        found: list[Entry] = []
        size = 0
        while from_slot in self._places and (not found or size < bytes_max):
            entry = self._read(from_slot)
            found.append(entry)
            size += len(entry.value)
            from_slot += 1
        return found

    def _read(self, slot: Slot) -> Entry:
        place = self._places[slot]
        segment, row = place.segment, place.row
        # From the group's start on: the bytes under the tags stand in its head.
        end = min(segment.size, row.offset + row.length + SECTOR)
        data = segment.file.pread(place.group_offset, end - place.group_offset)
        value = extract(segment.header, data, place.group_offset, row)
        if value is None:
            raise Corruption(f"{segment.path}: the value of slot {slot} at offset {row.offset} is damaged")
        return Entry(slot, row.ballot, value)

    def first_slot(self, upto: Slot) -> Slot:
        """The lowest slot from which the log reaches to `upto` without a gap, or `upto` + 1."""
        slot = upto
        while slot in self._places:
            slot -= 1
        return slot + 1

    def missing_upto(self, slot: Slot) -> Slot:
        """The last slot past this one that was chosen, and of which nothing is here; 0 when there is none."""
        mark = self.chosen_mark
        while mark > slot and (mark in self._places or mark in self.unknown):
            mark -= 1
        return mark if mark > slot else 0

    @property
    def empty(self) -> bool:
        """Whether there is no segment at all: so it is before the first group, and never again."""
        return not self._segments

    # -- forgetting ----------------------------------------------------------------------------------------

    def trim(self, slot: Slot) -> None:
        """Delete the segments that hold nothing past a slot. The active one stays, and repeats the promise."""
        for _ in self.trim_steps(slot):
            pass

    def trim_steps(self, slot: Slot) -> Iterator[None]:
        """The same, a segment at a time: between two of them the log may be read and written.

        A segment has thousands of slots, and to forget those of all of them at once holds up everything.
        """
        old = [s for s in self._segments if s is not self._active and s.slot_max <= slot]
        # Only from the front: a segment in the middle is what proves that those around it belong together.
        keep = next((k for k, s in enumerate(self._segments) if s not in old), len(self._segments))
        if keep and self._active is None:
            keep = min(keep, len(self._segments) - 1)  # somebody must still know the promise
        for segment in self._segments[:keep]:
            segment.file.close()
            self._fs.unlink(segment.path)
            del self._segments[0]
            places = self._places
            for held in segment.slots:
                if held in places and places[held].segment is segment:
                    del places[held]
            yield
        if keep:
            self._fs.sync_dir(self._directory)
        self.unknown = {unknown: what for unknown, what in self.unknown.items() if unknown > slot}

    @property
    def segments(self) -> int:
        """How many there are."""
        return len(self._segments)

    @property
    def groups(self) -> int:
        """How many sync groups are in them."""
        return self._number - self._segments[0].header.groups_before if self._segments else 0

    @property
    def slots(self) -> tuple[Slot, Slot] | None:
        """The lowest and the highest slot that can be read here."""
        return (min(self._places), max(self._places)) if self._places else None

    @property
    def trimmed(self) -> bool:
        """Whether there once was more log before the first segment."""
        return bool(self._segments) and self._segments[0].header.groups_before > 0

    @property
    def bytes(self) -> int:
        """What the log's segments take on the disk."""
        return sum(segment.size for segment in self._segments)

    def close(self) -> None:
        """Let go of the files."""
        for segment in self._segments:
            segment.file.close()
        if self._prepared is not None:
            self._prepared.close()


def _sync(file: File) -> None:
    """Sync, and let no error of it pass for one after which something may be tried again."""
    try:
        file.sync()
    except NoSpace as full:
        raise StorageError(f"{full}; it may have lost what it held") from full


def group_bytes_max(entries: Sequence[Entry], peers: bytes) -> int:
    """An upper bound of what a group takes in a segment."""
    body = sum(len(entry.value) for entry in entries)
    head = 128 + 32 * len(entries) + len(peers) + 4 * (body // SECTOR + 1)
    return -(-(body + head + head // 64 + 4 * SECTOR) // BLOCK) * BLOCK
