"""A write through the kernel's ring is durable when it is done, and its bytes are those that a thread would have written."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_world import BLOCK, IDENTITY, Group, entry, open_store, reopen, shown

from synod.base import Ballot, StorageError
from synod.storage import RealFileSystem, Ring, Store, format_directory

pytestmark = pytest.mark.requires("io_uring")

ENOUGH_S = 10.0


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    found = Ring.open(str(tmp_path))
    assert found is not None
    yield found
    found.close()


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[int]:
    """A file of four blocks, open for direct I/O."""
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * BLOCK))
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    yield fd
    os.close(fd)


def flushes(directory: Path) -> int:
    """How often the device below a directory was told to empty its cache."""
    device = directory.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if not stat.exists():
        pytest.skip("this file system has no device that counts its flushes")
    return int(stat.read_text().split()[15])


def test_what_is_added_is_in_the_file_one_behind_the_other(ring: Ring, direct: int, tmp_path: Path) -> None:
    """One write for two groups, at their offset; and the next write begins with nothing."""
    ring.add(b"a" * BLOCK)
    ring.add(b"b" * BLOCK)
    ring.start(direct, BLOCK)
    assert ring.wait(ENOUGH_S) == 2 * BLOCK
    assert ring.result() is None
    ring.add(b"c" * BLOCK)
    ring.start(direct, 3 * BLOCK)
    assert ring.wait(ENOUGH_S) == BLOCK
    assert (tmp_path / "file").read_bytes() == bytes(BLOCK) + b"a" * BLOCK + b"b" * BLOCK + b"c" * BLOCK


def test_each_write_empties_the_devices_cache(ring: Ring, direct: int, tmp_path: Path) -> None:
    """Direct I/O alone reaches the device, whose cache a power cut takes: done has to mean durable."""
    writes = 50
    before = flushes(tmp_path)
    with (tmp_path / "other").open("wb") as other:
        other.write(b"x")
        other.flush()
        os.fsync(other.fileno())
    if flushes(tmp_path) == before:
        pytest.skip("this device has no cache that is flushed")
    before = flushes(tmp_path)
    for _ in range(writes):
        ring.add(bytes(BLOCK))
        ring.start(direct, 0)
        assert ring.wait(ENOUGH_S) == BLOCK
    assert flushes(tmp_path) - before >= writes


def test_a_write_that_fails_says_why(ring: Ring, direct: int) -> None:
    """The result is the error's number below zero, and the ring can be used again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * BLOCK, hard))
    try:
        ring.add(bytes(BLOCK))
        ring.start(direct, 2 * BLOCK)
        assert ring.wait(ENOUGH_S) == -errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ring.add(bytes(BLOCK))
    ring.start(direct, 2 * BLOCK)
    assert ring.wait(ENOUGH_S) == BLOCK


def test_many_more_writes_than_it_has_places_go_through(ring: Ring, direct: int) -> None:
    """Its places are used again and again."""
    for k in range(100):
        ring.add(bytes([k]) * BLOCK)
        ring.start(direct, 0)
        assert ring.wait(ENOUGH_S) == BLOCK
    assert os.preadv(direct, [memoryview(block := _aligned())], 0) == BLOCK
    assert bytes(block[:BLOCK]) == bytes([99]) * BLOCK


def _aligned() -> memoryview:
    return memoryview(mmap.mmap(-1, BLOCK))


@pytest.mark.parametrize("directory", ["/proc", "/there/is/nothing"])
def test_where_it_cannot_be_had_there_is_none(directory: str) -> None:
    """No file of its own, no direct I/O: whoever asked takes a thread."""
    assert Ring.open(directory) is None


def test_a_ring_that_is_closed_takes_nothing(tmp_path: Path, direct: int) -> None:
    """An error of ours, and not a write to whatever has its descriptor by then."""
    ring = Ring.open(str(tmp_path))
    assert ring is not None
    ring.close()
    ring.add(bytes(BLOCK))
    with pytest.raises(StorageError, match="takes no write"):
        ring.start(direct, 0)


@pytest.mark.requires("pure")
def test_a_write_that_was_not_taken_is_not_the_next_one(ring: Ring, direct: int, tmp_path: Path, monkeypatch) -> None:
    """The kernel has no memory for a moment: the next write goes to its own place, with its own bytes."""
    real = ring._syscall
    monkeypatch.setattr(ring, "_syscall", lambda *_: -1)
    monkeypatch.setattr(ring, "_errno", lambda: errno.ENOMEM)
    ring.add(b"a" * BLOCK)
    with pytest.raises(StorageError, match="Cannot allocate memory"):
        ring.start(direct, 0)
    monkeypatch.setattr(ring, "_syscall", real)
    ring.add(b"b" * BLOCK)
    ring.start(direct, BLOCK)
    assert ring.wait(ENOUGH_S) == BLOCK
    assert (tmp_path / "file").read_bytes() == bytes(BLOCK) + b"b" * BLOCK + bytes(2 * BLOCK)


def test_a_ring_that_is_not_given_leaves_nothing_open(tmp_path: Path, monkeypatch) -> None:
    """Neither the ring's descriptor nor that of the file it was tried on."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(mmap, "mmap", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOMEM, "no memory")))
    assert [Ring.open(str(tmp_path)) for _ in range(3)] == [None] * 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before


GROUPS = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 3 * BLOCK), max_size=3), st.sampled_from([b"", b"of the peers"])),
    max_size=12,
)


@settings(max_examples=30)
@given(GROUPS)
def test_what_is_composed_is_what_would_have_been_appended(plan: list[tuple[bool, list[int], bytes]]) -> None:
    """Whoever writes it: the same files byte for byte, and the same state after a restart."""
    with tempfile.TemporaryDirectory() as scratch:
        fs = RealFileSystem()
        stores: list[Store] = []
        for name in ("composed", "appended"):
            format_directory(fs, f"{scratch}/{name}", IDENTITY)
            stores.append(open_store(fs, f"{scratch}/{name}"))
        ring = Ring.open(scratch)
        assert ring is not None
        slot = 0
        for compose, sizes, peers in plan:
            entries = tuple(entry(slot + k, size=size) for k, size in enumerate(sizes, 1))
            group = Group(Ballot(2, 1), slot, entries, peers)
            slot += len(sizes)
            for store, may_compose in zip(stores, (compose, False), strict=True):
                if not (may_compose and composed(store, ring, group)):
                    group.append_to(store)
                    store.sync()
                store.prepare()
        ring.close()
        files = [segments(Path(scratch, name)) for name in ("composed", "appended")]
        assert files[0] == files[1]
        again = [reopen(store, fs, store.directory) for store in stores]
        assert shown(again[0].recovered) == shown(again[1].recovered)
        assert len(again[0].recovered.entries) == slot
        for store in again:
            store.close()


def composed(store: Store, ring: Ring, group: Group) -> bool:
    """Write a group through the ring, if it is a matter of one write."""
    found = store.compose(
        promised=group.promised,
        chosen_mark=group.chosen_mark,
        entries=group.entries,
        peers=group.peers,
        bytes_max=ring.room,
    )
    if found is None:
        return False
    ring.add(found.data)
    ring.start(found.fd, found.offset)
    assert ring.wait(ENOUGH_S) == len(found.data)
    store.composed()
    return True


def segments(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.seg")}


def test_what_is_more_than_one_write_is_not_composed(tmp_path: Path) -> None:
    """Without a segment, past the end of one, or larger than what may be taken: nothing has happened then."""
    fs = RealFileSystem()
    directory = str(tmp_path / "data")
    format_directory(fs, directory, IDENTITY)
    store = open_store(fs, directory)
    ring = Ring.open(directory)
    assert ring is not None
    first, second, third = (Group(Ballot(1, 1), slot - 1, (entry(slot),), b"") for slot in (1, 2, 3))
    assert not composed(store, ring, first)
    first.append_to(store)
    store.sync()
    assert (
        store.compose(promised=Ballot(1, 1), chosen_mark=1, entries=second.entries, peers=b"", bytes_max=4095) is None
    )
    assert composed(store, ring, second)
    assert not composed(store, ring, Group(Ballot(1, 1), 2, (entry(3, size=3 * BLOCK),), b""))
    assert composed(store, ring, third)
    assert not composed(store, ring, Group(Ballot(1, 1), 3, (entry(4),), b""))
    again = reopen(store, fs, directory)
    assert [e.slot for e in again.recovered.entries] == [1, 2, 3]
    again.close()
    ring.close()


def test_a_store_whose_write_has_failed_is_dead(tmp_path: Path) -> None:
    """Nobody knows what the segment holds: no other write may go there."""
    fs = RealFileSystem()
    directory = str(tmp_path / "data")
    format_directory(fs, directory, IDENTITY)
    store = open_store(fs, directory)
    group = Group(Ballot(1, 1), 0, (entry(1),), b"")
    group.append_to(store)
    with pytest.raises(StorageError, match="the ring failed"):
        store.composed("the ring failed")
    with pytest.raises(StorageError, match="the disk failed before"):
        store.compose(promised=Ballot(1, 1), chosen_mark=0, entries=(), peers=b"", bytes_max=1 << 20)
    with pytest.raises(StorageError, match="the disk failed before"):
        group.append_to(store)
    store.close()
