"""The log is written from the loop where the kernel can: in order with what the thread does, and told when it is durable."""

from __future__ import annotations

import errno
import mmap
import os
import queue
import random
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synod.base import Ballot, Configuration, Entry, Member, StorageError
from synod.replica import DiskWrite, LogRead, SnapshotWrite
from synod.server._disk import Disk
from synod.storage import Identity, RealFileSystem, Ring, Store, StoreOptions, format_directory

pytestmark = pytest.mark.requires("io_uring")

CELL = "0123456789abcdef" * 2
BALLOT = Ballot(2, 1)
PATIENCE_S = 20.0
BESIDE = ({"compose", "prepare"}, {"composed", "prepare"})
"""Calls of two threads that may meet."""


class HandRing:
    """One whose writes are done when the test says so; it has them written then, or not."""

    room = 1 << 20

    def __init__(self) -> None:
        self.added = b""
        self.started: list[tuple[int, int, bytes]] = []
        self.done: int | None = None
        self.closed = False
        self.refuses = False

    def add(self, data: bytes | bytearray) -> None:
        assert self.done is None
        self.added += bytes(data)

    def start(self, fd: int, offset: int) -> None:
        if self.refuses:
            self.refuses = False
            raise StorageError("the kernel takes no write to the log: Cannot allocate memory")
        self.started.append((fd, offset, self.added))
        self.added = b""

    def finish(self, result: int | None = None) -> None:
        """Let the last one be written whole, or end with this result."""
        fd, offset, data = self.started[-1]
        if result is None:
            block = mmap.mmap(-1, len(data))
            block[:] = data
            result = os.pwritev(fd, [block], offset)
        self.done = result

    def result(self) -> int | None:
        done, self.done = self.done, None
        return done

    def wait(self, timeout_s: float) -> int | None:
        return self.result()

    def close(self) -> None:
        self.closed = True


class Loop:
    """What the host would be: it runs what the thread calls, and writes down what it is told."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = queue.SimpleQueue()
        self.told: list[object] = []
        self.failures: list[str] = []

    def call(self, what: Callable[..., object], *arguments: object) -> None:
        self.calls.put((what, arguments))

    def turn(self, timeout_s: float = PATIENCE_S) -> None:
        """One call of the thread."""
        what, arguments = self.calls.get(timeout=timeout_s)
        what(*arguments)

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.turn()

    def persisted(self, write_id: int, seconds: float, writes: int) -> None:
        self.told.append(write_id)

    def log_read(self, request: LogRead, entries: list[Entry]) -> None:
        self.told.append(("read", [entry.slot for entry in entries]))

    def snapshot_saved(self, slot: int, log_start: int) -> None:
        self.told.append(("saved", slot))

    def room(self, has_room: bool, reason: str) -> None:
        self.told.append(("room", has_room))

    def failed(self, reason: str) -> None:
        self.failures.append(reason)


def opened(directory: Path, segment_bytes: int = 1 << 18) -> Store:
    return Store.open(
        RealFileSystem(), str(directory), cell_id=CELL, replica_id=1, options=StoreOptions(segment_bytes=segment_bytes)
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "data"
    identity = Identity(1, 1, Configuration(CELL, (Member(1, "127.0.0.1:7100"),)))
    format_directory(RealFileSystem(), str(found), identity)
    return found


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def ring() -> HandRing:
    return HandRing()


@pytest.fixture
def disk(directory: Path, loop: Loop, ring: HandRing) -> Iterator[Disk]:
    """A disk that has its first segment: from now on a write of the log is a matter of the ring."""
    store = opened(directory)
    found = Disk(store, loop, loop.call, ring)
    found.start()
    found.submit(write(1))
    loop.until(lambda: loop.told == [1])
    assert ring.started == []
    loop.told.clear()
    yield found
    found.stop()
    assert ring.closed
    store.close()


def write(slot: int, size: int = 100) -> DiskWrite:
    return DiskWrite(slot, BALLOT, slot - 1, (Entry(slot, BALLOT, bytes([slot % 256]) * size),), b"")


def slots_of(directory: Path) -> list[int]:
    """What a restart finds."""
    store = opened(directory)
    slots = [entry.slot for entry in store.recovered.entries]
    store.close()
    return slots


def test_a_write_is_told_when_it_is_done_and_not_before(disk, loop, ring):
    """Durable before visible: neither that it was handed over nor that the descriptor was looked at says anything."""
    disk.submit(write(2))
    assert len(ring.started) == 1
    disk.written()
    assert loop.told == []
    ring.finish()
    assert loop.told == []
    disk.written()
    assert loop.told == [2]
    disk.written()
    assert loop.told == [2]


def test_what_comes_meanwhile_is_the_next_write_together(disk, loop, ring, directory):
    """Group commit: one under way, and all that wait for it in the one after."""
    for slot in (2, 3, 4):
        disk.submit(write(slot))
    assert len(ring.started) == 1
    ring.finish()
    disk.written()
    assert loop.told == [2]
    assert len(ring.started) == 2
    assert ring.started[1][1] == ring.started[0][1] + len(ring.started[0][2])
    ring.finish()
    disk.written()
    assert loop.told == [2, 4]
    assert slots_of_after_stop(disk, directory) == [1, 2, 3, 4]


def slots_of_after_stop(disk: Disk, directory: Path) -> list[int]:
    disk.stop()
    disk._store.close()
    return slots_of(directory)


def test_other_work_is_done_in_its_place(disk, loop, ring):
    """It waits for the write before it; the thread then does all that has come; and the next write is the loop's again."""
    disk.submit(write(2))
    disk.submit(LogRead(7, 1, 1 << 20))
    disk.submit(write(3))
    assert (len(ring.started), loop.told) == (1, [])
    ring.finish()
    disk.written()
    disk.submit(write(4))
    assert len(ring.started) == 1, "the thread has the store"
    loop.until(lambda: len(loop.told) == 3)
    assert loop.told == [2, ("read", [1, 2]), 3]
    assert len(ring.started) == 2
    ring.finish()
    disk.written()
    assert loop.told[3:] == [4]


def test_while_a_snapshot_is_written_the_thread_has_the_store(disk, loop, ring):
    """From its first chunk to the end of its commit, if they come without a pause; then the loop has it again."""
    disk.submit(SnapshotWrite(1, b"state", first=True, last=True))
    disk.submit(write(2))
    assert ring.started == []
    loop.until(lambda: ("saved", 1) in loop.told and disk._handed == 0)
    assert 2 in loop.told
    disk.submit(write(3))
    assert len(ring.started) == 1


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (-errno.EIO, "Input/output error; it may have lost what it held"),
        (512, "only 512 of 4096 bytes were taken"),
    ],
)
def test_a_write_that_fails_ends_it_all(disk, loop, ring, result, said):
    """Nothing is told of it, and nothing is written any more: what the segment holds nobody knows."""
    disk.submit(write(2))
    disk.submit(write(3))
    ring.finish(result)
    disk.written()
    assert loop.told == []
    assert [said in failure for failure in loop.failures] == [True]
    assert len(ring.started) == 1
    disk.submit(write(4))
    assert len(ring.started) == 1
    assert "the disk failed before" in loop.failures[-1]


def test_a_write_that_the_kernel_does_not_take_ends_it_all(disk, loop, ring, directory):
    """Its place in the segment stays empty: whoever wrote behind it would make it look like a durable one that is gone."""
    ring.refuses = True
    disk.submit(write(2))
    assert ["Cannot allocate memory" in failure for failure in loop.failures] == [True]
    disk.submit(write(3))
    disk.submit(LogRead(7, 1, 1 << 20))
    assert ring.started == []
    slots = slots_of_after_stop(disk, directory)
    assert (loop.told, slots) == ([], [1])


def test_who_stops_waits_for_the_write_and_does_what_waited(disk, loop, ring, directory):
    """What was handed over before the end is told; the rest is done by the thread."""
    disk.submit(write(2))
    disk.submit(write(3))
    ring.finish()
    slots = slots_of_after_stop(disk, directory)
    while not loop.calls.empty():
        loop.turn()
    assert loop.told == [2, 3]
    assert slots == [1, 2, 3]


def test_a_disk_that_hangs_does_not_hold_up_the_end(disk, loop, ring):
    """Its write may still come; nothing is written behind it."""
    disk.submit(write(2))
    disk.submit(write(3))
    disk.stop()
    assert loop.told == []
    assert loop.calls.empty()


@pytest.mark.requires("pure")
@pytest.mark.parametrize("seed", range(4))
def test_the_store_has_one_user_at_a_time_and_nothing_is_lost(directory, loop, seed):
    """Anything in any order, with the kernel's own ring: told in order, found after a restart, and never two at once."""
    rng = random.Random(seed)
    ring = Ring.open(str(directory))
    assert ring is not None
    store = Watched.over(opened(directory))
    disk = Disk(store, loop, loop.call, ring)
    disk.start()
    submitted = 0
    # A slow disk may keep the thread busy with all of them: the ring has its turn when nothing waits.
    while submitted < 300 or submitted not in loop.told or store.composes <= 3:
        assert submitted < 1_000, "the ring is not used"
        for _ in range(rng.choice((0, 1, 1, 1, 2, 5)) if submitted < 300 or submitted in loop.told else 0):
            kind = rng.random()
            if kind < 0.02:
                disk.submit(LogRead(1, max(1, submitted - 3), 1 << 16))
            elif kind < 0.03:
                disk.submit(SnapshotWrite(submitted, b"state", first=True, last=True))
            submitted += 1
            disk.submit(write(submitted, rng.choice((10, 5_000, 20_000))))
        ready, _, _ = select.select([ring.fileno()], [], [], 0.001)
        if ready:
            disk.written()
        while not loop.calls.empty():
            loop.turn()
    ids = [told for told in loop.told if isinstance(told, int)]
    assert ids == sorted(ids)
    assert (loop.failures, store.trespasses) == ([], [])
    disk.stop()
    store.close()
    again = opened(directory)
    assert [e.slot for e in again.recovered.entries] == list(range(again.recovered.snapshot_slot + 1, submitted + 1))
    again.close()


class Watched(Store):
    """Notes who comes in while somebody else is there."""

    inside: list[str]
    trespasses: list[tuple[str, ...]]
    composes: int

    @classmethod
    def over(cls, store: Store) -> Watched:
        store.__class__ = cls
        assert isinstance(store, Watched)
        store.inside, store.trespasses, store.composes = [], [], 0
        return store

    def _enter(self, what: str, done: Callable[[], object]) -> object:
        others = [other for other in self.inside if {what, other} not in BESIDE]
        if others:
            self.trespasses.append((what, *others))
        self.inside.append(what)
        try:
            return done()
        finally:
            self.inside.remove(what)

    def compose(self, **group):
        self.composes += 1
        return self._enter("compose", lambda: super(Watched, self).compose(**group))

    def composed(self, failure=None):
        return self._enter("composed", lambda: super(Watched, self).composed(failure))

    def append(self, **group):
        return self._enter("append", lambda: super(Watched, self).append(**group))

    def read(self, from_slot, bytes_max):
        return self._enter("read", lambda: super(Watched, self).read(from_slot, bytes_max))

    def prepare(self):
        return self._enter("prepare", super().prepare)

    def snapshot_write(self, chunk):
        return self._enter("snapshot_write", lambda: super(Watched, self).snapshot_write(chunk))
