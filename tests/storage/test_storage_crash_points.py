"""Power is lost after every single operation of a short history, and every way in which it may tear is tried.

The history has all that a directory goes through: format, starts, appends alone and together, a segment that is
full, snapshots, the deletion of log and of older snapshots, a start after a power cut that tore a group, and a
peer's snapshot that comes in pieces.
After each operation the disk is taken as it is; for each bounded subset of its unsynced sectors and for each
prefix of the unsynced changes of names the store is opened on what is left.

Ref: Zheng et al. 2014 and Pillai et al. 2014 (what disks and file systems do to those who sync too little).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from storage_world import (
    BLOCK,
    CELL,
    DIRECTORY,
    IDENTITY,
    SECTOR,
    Group,
    cut_power,
    entry,
    fold,
    formatted,
    memory,
    open_store,
    shown,
    snapshot_of,
    write_snapshot,
)

from synod.base import Ballot, DataDirError, Slot
from synod.storage import MemoryFileSystem, Store

SECTORS_ALL = 8
"""Up to so many unsynced sectors all their subsets are tried."""


@dataclass(frozen=True)
class Point:
    """The disk after one operation, and what had been acknowledged by then."""

    fs: MemoryFileSystem
    formatted: bool
    boot: int
    groups: tuple[Group, ...]
    synced: int
    """So many of the groups are acknowledged; the others, rising, may be there."""
    snapshot: Slot
    """The newest that is acknowledged."""
    snapshot_maybe: Slot
    """One that is being made durable, or the same."""


class History:
    """Drives a store, and takes a `Point` after every operation of its file system."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.points: list[Point] = []
        self.kinds: dict[str, int] = {}
        self.formatted = False
        self.boot = 0
        self.groups: list[Group] = []
        self.synced = 0
        self.snapshot = self.snapshot_maybe = 0
        self.fs.after = self._take
        self._take()
        formatted(self.fs)
        self.formatted = True
        self.store = self._start()

    def _take(self) -> None:
        self.points.append(
            Point(
                self.fs.copy(),
                self.formatted,
                self.boot,
                tuple(self.groups),
                self.synced,
                self.snapshot,
                self.snapshot_maybe,
            )
        )

    def _start(self) -> Store:
        store = open_store(self.fs)
        self.boot = store.boot
        return store

    def append(self, group: Group) -> None:
        self.groups.append(group)
        group.append_to(self.store)

    def sync(self) -> None:
        self.store.sync()
        self.synced = len(self.groups)

    def write(self, group: Group) -> None:
        """Append and sync, and have the next segment ready, as the disk thread does."""
        self.append(group)
        self.sync()
        self.store.prepare()

    def write_snapshot(self, slot: Slot, *between: Group) -> None:
        """With these groups written between the steps of its commit."""
        self.store.snapshot_begin(slot)
        for chunk in snapshot_of(slot):
            self.store.snapshot_write(chunk)
        self.snapshot_maybe = slot
        groups = iter(between)
        for _ in self.store.snapshot_commit_steps():
            self.snapshot = self.store.snapshot_slot
            if (group := next(groups, None)) is not None:
                self.write(group)
        assert next(groups, None) is None, "fewer steps than groups"
        self.snapshot = slot

    def take_over(self, slot: Slot, promised: Ballot) -> None:
        """A peer's snapshot, in two pieces."""
        source = open_store(memory())
        write_snapshot(source, slot)
        file = source.snapshot_read(slot, 0, 1 << 20)[0]
        self.store.transfer_write(slot, 0, file[:600])
        self.store.transfer_write(slot, 600, file[600:])
        held = fold(self.groups)
        self.groups.append(Group(promised, held.chosen_mark, (), held.peers))
        self.snapshot_maybe = slot
        self.store.transfer_install(slot, promised=promised)
        self.snapshot, self.synced = slot, len(self.groups)

    def restart_torn(self, *kept: bool) -> None:
        """A power cut that keeps these sectors of what was appended, and a start."""
        cut_power(self.fs, kept)
        self.groups = self.groups[: self.synced]
        self.store = self._start()
        assert self.store.recovered.promised == fold(self.groups).promised, "torn, and not the first of its segment"


def take_history() -> History:
    """One of each that can happen."""
    h = History()
    h.write(Group(Ballot(1, 1), 0, (entry(1),), b"a"))
    h.append(Group(Ballot(1, 1), 1, (entry(2, size=700), entry(3)), b"b"))
    h.append(Group(Ballot(2, 3), 1, (entry(2, 2, 600, 3),), b"c"))
    h.sync()
    h.store.prepare()
    h.write(Group(Ballot(3, 1), 2, (entry(4, 3, 3000),), b"d"))  # the next segment
    h.write_snapshot(2)
    h.append(Group(Ballot(4, 1), 4, (entry(5, 4, 1000), entry(6, 4, 1200)), b"e"))
    h.restart_torn(True, True, False, True, True)
    h.write(Group(Ballot(5, 2), 4, (entry(5, 5, 900, 2),), b"f"))
    h.write_snapshot(4)  # the first segment is deleted
    h.append(Group(Ballot(5, 2), 5, (entry(6, 5, 0, 2),), b"g"))
    h.append(Group(Ballot(5, 2), 5, (entry(7, 5, 13_000, 2),), b"h"))  # a segment of its own size
    h.sync()
    h.write(Group(Ballot(6, 1), 7, (entry(8, 6),), b"i"))
    between = [Group(Ballot(6, 1), 7, (), b"i"), Group(Ballot(6, 1), 8, (), b"i"), Group(Ballot(7, 1), 8, (), b"i")]
    between += [Group(Ballot(7, 1), 8, (), b"i")] * 2  # after each segment that is deleted
    h.write_snapshot(7, *between)  # the oldest snapshot and more of the log are deleted
    h.append(Group(Ballot(7, 1), 8, (entry(9, 7),), b"j"))
    h.store.close()
    h.store = h._start()
    h.synced = len(h.groups)  # a clean start gave it to the replica, so it must stay
    h.write(Group(Ballot(8, 1), 9, (), b"k"))
    h.take_over(20, Ballot(9, 3))  # over a gap in the log, of which nothing is left
    h.write(Group(Ballot(9, 3), 20, (entry(21, 9, 300, 3),), b"l"))
    return h


@pytest.fixture(scope="module")
def history() -> History:
    return take_history()


# -- what may be left ----------------------------------------------------------------------------------------------


def subsets(count: int) -> Iterator[tuple[bool, ...]]:
    """Which of the unsynced sectors are kept: all subsets of a few; of many, up to two kept, or up to two lost, and
    every torn beginning and every torn end."""
    if count <= SECTORS_ALL:
        yield from itertools.product((False, True), repeat=count)
        return
    seen: dict[tuple[bool, ...], None] = {}
    for size in range(3):
        for chosen in itertools.combinations(range(count), size):
            seen[tuple(k in chosen for k in range(count))] = None
            seen[tuple(k not in chosen for k in range(count))] = None
    for cut in range(count + 1):
        seen[tuple(k < cut for k in range(count))] = None
        seen[tuple(k >= cut for k in range(count))] = None
    yield from seen


def subsets_count(count: int) -> int:
    """How many that must be, by arithmetic."""
    if count <= SECTORS_ALL:
        return 2**count
    few = 1 + count + math.comb(count, 2)
    return 2 * few + 2 * (count - 5)  # beginnings and ends of three to count - 3 sectors


def after_cut(point: Point, kept: tuple[bool, ...], names: int) -> MemoryFileSystem:
    fs = point.fs.copy()
    cut_power(fs, kept, names)
    return fs


def check(point: Point, fs: MemoryFileSystem) -> Store:
    """Open what is left of a point, and see that it is what may be left."""
    if not fs.exists(f"{DIRECTORY}/identity.json"):
        assert not point.formatted
        with pytest.raises(DataDirError, match=r"is not formatted|does not exist"):
            open_store(fs)
        formatted(fs)  # half a format is no obstacle to another one
    store = open_store(fs)
    held = store.recovered
    assert store.identity == IDENTITY
    assert store.boot > point.boot, "a boot count comes twice"
    assert not held.unknown
    assert not held.warnings
    assert not [name for name in _names(fs) if name.endswith("-transfer.tmp")]
    assert held.snapshot_slot in (point.snapshot, point.snapshot_maybe)
    assert list(store.snapshot_chunks()) == (snapshot_of(held.snapshot_slot) if held.snapshot_slot else [])
    wanted = []
    for whole in range(point.synced, len(point.groups) + 1):
        state = fold(point.groups[:whole])
        wanted.append((max(state.chosen_mark, held.snapshot_slot), state.after(held.snapshot_slot), state.peers))
    found = (held.chosen_mark, held.entries, held.peers)
    assert found in wanted, "something acknowledged is gone, or something is there by halves"
    whole = point.synced + wanted.index(found)
    # The header of a segment may be durable before its first group: a promise too much hurts nobody.
    assert fold(point.groups[:whole]).promised <= held.promised <= fold(point.groups[: whole + 1]).promised
    read = store.read(store.log_start + 1, 1 << 20)
    assert [one for one in read if one.slot > held.snapshot_slot] == list(held.entries)[: len(read)]
    assert all(one == fold(point.groups).entries[one.slot] for one in read if one.slot <= point.snapshot)
    return store


def go_on(store: Store, fs: MemoryFileSystem) -> None:
    """The life after the crash: what it found and what it syncs outlives the next power cut."""
    more = Group(Ballot(99, 1), store.recovered.chosen_mark, (entry(50, 99, 600),), b"z")
    more.append_to(store)
    store.sync()
    cut_power(fs)
    held, again = store.recovered, open_store(fs).recovered
    assert again.entries == (*held.entries, *more.entries)
    assert (again.promised, again.peers) == (more.promised, b"z")
    assert (again.chosen_mark, again.snapshot_slot) == (held.chosen_mark, held.snapshot_slot)


# -- the tests -----------------------------------------------------------------------------------------------------


def test_every_operation_of_the_history_is_a_point(history: History) -> None:
    """Nothing durable happens between two points; and the history has all that it is there for."""
    assert len(history.points) == history.fs.operations + 1
    assert {point.boot for point in history.points} == {0, 1, 2, 3}
    assert {point.snapshot for point in history.points} == {0, 2, 4, 7, 20}
    names = {name for point in history.points for name in _names(point.fs)}
    gone = names - set(_names(history.fs))
    assert {"log-0000000000000001.seg", "log-0000000000000002.seg", "snapshot-0000000000000002.snap"} <= gone
    assert max(point.fs.unsynced_sectors() for point in history.points) > 3 * BLOCK // SECTOR
    assert max(point.fs.unsynced_names() for point in history.points) >= 2


def _names(fs: MemoryFileSystem) -> list[str]:
    return fs.list_dir(DIRECTORY) if fs.exists(DIRECTORY) else []


def test_nothing_everything_or_a_beginning_is_left_after_every_operation(history: History) -> None:
    """What was acknowledged is there, what was not is whole or absent, after every operation; the quick part."""
    tried = 0
    for point in history.points:
        sectors = point.fs.unsynced_sectors()
        for names in {0, point.fs.unsynced_names()}:
            for kept in {(False,) * sectors, (True,) * (sectors // 2), (True,) * sectors}:
                fs = after_cut(point, kept, names)
                go_on(check(point, fs), fs)
                tried += 1
    assert tried > 2 * len(history.points)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_crash_point_and_every_way_to_tear(history: History) -> None:
    """The same for each bounded subset of the unsynced sectors and each prefix of the unsynced changes of names."""
    tried = expected = 0
    for point in history.points:
        sectors, names_max = point.fs.unsynced_sectors(), point.fs.unsynced_names()
        expected += subsets_count(sectors) * (names_max + 1)
        for kept in subsets(sectors):
            for names in range(names_max + 1):
                fs = after_cut(point, kept, names)
                go_on(check(point, fs), fs)
                tried += 1
    assert tried == expected
    assert tried > 5_000, "the history is too short to mean anything"


def test_a_crash_in_the_middle_of_a_start_is_a_crash_like_any_other(history: History) -> None:
    """A start that is cut off after any of its own operations leaves a directory from which the next one starts."""
    tried = operations = 0
    for point in history.points:
        if not point.formatted:
            continue
        fs = after_cut(point, (True,) * (point.fs.unsynced_sectors() // 2), point.fs.unsynced_names())
        stops: list[MemoryFileSystem] = []
        fs.after = lambda fs=fs, stops=stops: stops.append(fs.copy())
        before = fs.operations
        open_store(fs)
        operations += fs.operations - before
        for stop in stops:
            for all_kept in (False, True):
                left = stop.copy()
                cut_power(left, (all_kept,) * left.unsynced_sectors(), left.unsynced_names() if all_kept else 0)
                check(point, left)
                tried += 1
    assert tried == 2 * operations > 0


def test_what_a_killed_process_left_in_the_kernel_is_durable_once_it_was_read(history: History) -> None:
    """After a kill the next life reads what was never synced, and acts on it: so a power cut must not take it.

    A promise that is repeated out of the kernel's memory and lost afterwards lets two leaders have a quorum.
    """
    for point in history.points:
        if not point.formatted:
            continue
        fs = point.fs.copy()
        first = check(point, fs)
        cut_power(fs)
        assert shown(open_store(fs).recovered) == shown(first.recovered)


def test_the_arithmetic_of_the_subsets() -> None:
    """The number of subsets that is expected does not come from the code that makes them."""
    for count in range(30):
        made = list(subsets(count))
        assert len(made) == len(set(made)) == subsets_count(count)
        assert all(len(one) == count for one in made)
        for cut in range(count + 1):
            assert tuple(k < cut for k in range(count)) in made


def test_the_cell_of_the_tests_is_the_one_that_is_opened(history: History) -> None:
    """The last state of the history is the sum of its groups, when nothing crashes at all."""
    last = history.points[-1]
    store = open_store(last.fs.copy())
    state = fold(history.groups)
    assert store.identity.cell_id == CELL
    assert shown(store.recovered) == (Ballot(9, 3), state.after(20), 20, frozenset(), 20, b"l")
