"""The disk thread goes on where a disk is only full."""

from __future__ import annotations

from synod.base import Ballot, Configuration, Entry, Member
from synod.replica import DiskWrite, SnapshotWrite
from synod.server._disk import DiskThread
from synod.storage import Identity, MemoryFileSystem, Store, StoreOptions, format_directory

CELL = "0123456789abcdef" * 2


class Events:
    def __init__(self) -> None:
        self.persisted_ids: list[int] = []
        self.saved: list[int] = []
        self.rooms: list[bool] = []
        self.failures: list[str] = []

    def persisted(self, write_id: int, seconds: float, writes: int) -> None:
        self.persisted_ids.append(write_id)

    def snapshot_saved(self, slot: int, log_start: int) -> None:
        self.saved.append(slot)

    def room(self, has_room: bool, reason: str) -> None:
        self.rooms.append(has_room)

    def failed(self, reason: str) -> None:
        self.failures.append(reason)


def test_a_full_disk_in_the_middle_of_a_snapshot_costs_the_snapshot_only() -> None:
    """The chunks that still come after the room ran out are dropped, the log goes on, and the next snapshot counts."""
    fs = MemoryFileSystem()
    format_directory(fs, "/data", Identity(1, 1, Configuration(CELL, (Member(1, "127.0.0.1:7100"),))))
    store = Store.open(fs, "/data", cell_id=CELL, replica_id=1, options=StoreOptions(segment_bytes=1 << 16))
    store.append(promised=Ballot(1, 1), chosen_mark=0, entries=[])
    store.sync()
    store.prepare()
    fs.bytes_max = fs.used_bytes() + 2000
    events = Events()
    thread = DiskThread(store, events, lambda report, *arguments: report(*arguments))
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
