"""The disk thread goes on where a disk is only full."""

from __future__ import annotations

from collections.abc import Callable

from _cells import wait_for
from synod.base import Ballot, Configuration, Entry, Member
from synod.replica import DiskWrite, SnapshotInstall, SnapshotWrite, TransferWrite
from synod.server._disk import Disk
from synod.storage import Identity, MemoryFileSystem, Store, StoreOptions, format_directory

CELL = "0123456789abcdef" * 2


class Events:
    def __init__(self) -> None:
        self.persisted_ids: list[int] = []
        self.saved: list[int] = []
        self.rooms: list[bool] = []
        self.failures: list[str] = []
        self.refused: list[tuple[int, int, bool]] = []

    def persisted(self, write_id: int, seconds: float, writes: int) -> None:
        self.persisted_ids.append(write_id)

    def snapshot_saved(self, slot: int, log_start: int) -> None:
        self.saved.append(slot)

    def room(self, has_room: bool, reason: str) -> None:
        self.rooms.append(has_room)

    def transfer_written(self, slot: int, upto: int) -> None:
        pass

    def snapshot_refused(self, slot: int, upto: int, no_room: bool, reason: str) -> None:
        self.refused.append((slot, upto, no_room))

    def failed(self, reason: str) -> None:
        self.failures.append(reason)


class SlowToFree(MemoryFileSystem):
    """One whose deleted files keep their room, unless it is asked for at once."""

    kept = 0

    def unlink(self, path: str, *, at_once: bool = False) -> None:
        self.kept += 0 if at_once else self.size(path)
        super().unlink(path, at_once=at_once)

    def used_bytes(self) -> int:
        return super().used_bytes() + self.kept


def opened(fs: MemoryFileSystem) -> Store:
    """A store that has its next segment."""
    format_directory(fs, "/data", Identity(1, 1, Configuration(CELL, (Member(1, "127.0.0.1:7100"),))))
    store = Store.open(fs, "/data", cell_id=CELL, replica_id=1, options=StoreOptions(segment_bytes=1 << 16))
    store.append(promised=Ballot(1, 1), chosen_mark=0, entries=[])
    store.sync()
    store.prepare()
    return store


def peers_snapshot(slot: int, size: int) -> bytes:
    """The file of a snapshot."""
    store = opened(MemoryFileSystem())
    store.snapshot_begin(slot)
    for at in range(0, size, 1000):
        store.snapshot_write(bytes(min(1000, size - at)))
    store.snapshot_commit()
    return store.snapshot_read(slot, 0, 2 * size)[0]


def test_a_full_disk_in_the_middle_of_a_snapshot_costs_the_snapshot_only() -> None:
    """The chunks that still come after the room ran out are dropped, the log goes on, and the next snapshot counts."""
    fs = MemoryFileSystem()
    store = opened(fs)
    fs.bytes_max = fs.used_bytes() + 2000
    events = Events()
    thread = Disk(store, events, lambda report, *arguments: report(*arguments))
    for k in range(5):
        thread.submit(SnapshotWrite(3, bytes(900), first=k == 0, last=k == 4))
    thread.submit(DiskWrite(7, Ballot(2, 1), 3, (Entry(4, Ballot(2, 1), b"after"),), b""))
    thread.submit(SnapshotWrite(4, b"small", first=True, last=True))
    thread.start()
    thread.stop()
    assert events.failures == []
    assert events.persisted_ids == [7]
    assert False in events.rooms
    assert events.saved == [0, 4]
    assert store.snapshot_slot == 4


def test_the_log_is_written_between_the_steps_of_a_snapshots_commit() -> None:
    """Each step waits for the journal of the file system: all in a row would hold up every write for as long."""
    store = opened(MemoryFileSystem())
    order: list[str] = []
    events = Events()

    def call(report: Callable[..., None], *arguments: object) -> None:
        report(*arguments)
        if report.__name__ == "_returned":
            return
        order.append(report.__name__.strip("_"))
        if len(order) < 3:  # what the first write's answer brings about comes while the commit is under way
            thread.submit(DiskWrite(7 + len(order), Ballot(2, 1), 3, (), b""))

    thread = Disk(store, events, call)
    thread.submit(SnapshotWrite(3, bytes(900), first=True, last=True))
    thread.submit(DiskWrite(7, Ballot(2, 1), 3, (Entry(4, Ballot(2, 1), b"after"),), b""))
    thread.start()
    wait_for(lambda: "snapshot_saved" in order, "the end of the commit")
    thread.stop()
    assert order == ["persisted", "persisted", "persisted", "snapshot_saved"]
    assert events.persisted_ids == [7, 8, 9]
    assert events.saved == [3]


def test_a_write_without_room_has_the_commit_that_gives_room_ended_first() -> None:
    """The older snapshots and the log behind them go at the commit's end: who waits for room must not hold that up."""
    fs = MemoryFileSystem()
    store = opened(fs)
    for slot, size in ((1, 200_000), (2, 100)):
        store.snapshot_begin(slot)
        store.snapshot_write(bytes(size))
        store.snapshot_commit()
    fs.bytes_max = fs.used_bytes() + 4096
    events = Events()
    thread = Disk(store, events, lambda report, *arguments: report(*arguments))
    thread.submit(SnapshotWrite(3, bytes(900), first=True, last=True))
    # The second write begins the segment that is ready, and the third needs another one.
    for slot in (4, 5, 6):
        thread.submit(DiskWrite(slot, Ballot(2, 1), 3, (Entry(slot, Ballot(2, 1), b"x" * 40_000),), b""))
    thread.start()
    thread.stop()
    assert events.failures == []
    assert events.persisted_ids == [6]
    assert events.saved == [3]
    assert events.rooms == []


def test_a_thread_that_stops_ends_the_commit_that_it_began() -> None:
    """A snapshot whose last bytes have come is kept."""
    store = opened(MemoryFileSystem())
    events = Events()
    thread = Disk(store, events, lambda report, *arguments: report(*arguments))
    thread.submit(SnapshotWrite(3, bytes(900), first=True, last=True))
    thread.start()
    thread.stop()
    assert events.saved == [store.snapshot_slot] == [3]


def test_a_peers_snapshot_without_room_gives_its_room_back_before_the_log_wants_it() -> None:
    """The log's next segment finds it: the replica does not abstain for a moment. And it is told why."""
    fs = SlowToFree()
    store = opened(fs)
    file = peers_snapshot(9, 90_000)
    events = Events()
    thread = Disk(store, events, lambda report, *arguments: report(*arguments))
    fs.bytes_max = fs.used_bytes() + (1 << 16) + 4096
    # The second write begins the next segment, so that the log makes another, which has room without the snapshot.
    parts = [TransferWrite(9, at, file[at : at + 30_000]) for at in (0, 30_000, 60_000)]
    for part in parts:
        thread.submit(part)
    for slot in (4, 5):
        thread.submit(DiskWrite(slot, Ballot(2, 1), 3, (Entry(slot, Ballot(2, 1), b"x" * 40_000),), b""))
    thread.start()
    thread.stop()
    assert events.failures == []
    assert events.refused == [(9, 90_000, True)]
    assert events.persisted_ids == [5]
    assert events.rooms == []


def test_a_snapshot_that_is_damaged_is_refused_by_its_name() -> None:
    """Which one, and how much of it: another transfer may be under way by then."""
    store = opened(MemoryFileSystem())
    file = peers_snapshot(9, 5_000)
    events = Events()
    thread = Disk(store, events, lambda report, *arguments: report(*arguments))
    thread.submit(TransferWrite(9, 0, file[:3000]))
    thread.submit(TransferWrite(9, 3000, bytes(100) + file[3100:]))
    thread.submit(SnapshotInstall(9, Ballot(2, 1)))
    thread.start()
    thread.stop()
    assert events.failures == []
    assert events.refused == [(9, len(file), False), (9, 0, False)]
