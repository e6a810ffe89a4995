"""The log gives back what was put into it, and its bytes do not change silently."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import zlib
from pathlib import Path

import pytest
from storage_world import (
    BLOCK,
    CELL,
    DIRECTORY,
    IDENTITY,
    SECTOR,
    SEGMENT_BYTES,
    Group,
    content,
    cut_power,
    entry,
    fold,
    memory,
    open_store,
    path_of,
    reopen,
    shown,
    snapshot_of,
    take_over,
    value,
    write_snapshot,
)

from synod.base import BALLOT_ZERO, Ballot, Entry
from synod.storage import FileSystem, RealFileSystem, format_directory, load_identity, parse_snapshot


@pytest.fixture(params=["memory", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, str]:
    """A formatted directory: of the file system in memory, and of the real one."""
    if request.param == "memory":
        return memory(), DIRECTORY
    directory = str(tmp_path / "data")
    fs = RealFileSystem()
    format_directory(fs, directory, IDENTITY)
    return fs, directory


def segments(fs: FileSystem, directory: str = DIRECTORY) -> list[str]:
    return [name for name in fs.list_dir(directory) if name.endswith(".seg")]


def test_an_empty_directory_has_promised_nothing(place: tuple[FileSystem, str]) -> None:
    """A replica that never wrote anything starts from zero, with boot 1."""
    fs, directory = place
    store = open_store(fs, directory)
    assert shown(store.recovered) == (BALLOT_ZERO, (), 0, frozenset(), 0, b"")
    assert (store.boot, store.log_start, store.recovered.warnings) == (1, 0, ())
    assert list(store.snapshot_chunks()) == []
    assert store.read(1, 100) == []
    store.close()


def test_what_was_appended_and_synced_is_given_back(place: tuple[FileSystem, str]) -> None:
    """Promise, entries, chosen mark and what is known of the peers survive a restart, and the boot count rises."""
    fs, directory = place
    store = open_store(fs, directory)
    groups = [
        Group(Ballot(1, 1), 0, (entry(1), entry(2, size=0), entry(3, size=3 * SECTOR + 1)), b"first"),
        Group(Ballot(4, 2), 1, (), b""),
        Group(Ballot(4, 2), 2, (entry(2, 4, replica=2), entry(4, 4, size=5000, replica=2)), b"second"),
    ]
    for group in groups:
        group.append_to(store)
        store.sync()
    again = reopen(store, fs, directory)
    state = fold(groups)
    assert shown(again.recovered) == (state.promised, state.after(0), 2, frozenset(), 0, b"second")
    assert again.boot == 2
    assert again.read(1, 1 << 20) == list(state.after(0))
    again.close()


def test_a_store_gives_back_the_same_however_often_it_starts() -> None:
    """Starting writes nothing that the next start reads differently."""
    fs = memory()
    store = open_store(fs)
    Group(Ballot(3, 1), 1, (entry(1), entry(2)), b"p").append_to(store)
    store.sync()
    seen = set()
    for boot in range(2, 6):
        store = reopen(store, fs)
        assert store.boot == boot
        seen.add(shown(store.recovered))
    assert len(seen) == 1


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (1, 3, 2)])
@pytest.mark.parametrize("together", [True, False])
def test_the_highest_ballot_of_a_slot_wins(order: tuple[int, ...], together: bool) -> None:
    """Lamport 2001 s2.2 P2c: an acceptor tells of the highest-numbered proposal that it accepted."""
    fs = memory()
    store = open_store(fs)
    if together:
        Group(Ballot(3, 1), 0, tuple(entry(1, round_) for round_ in order)).append_to(store)
    else:
        for round_ in order:
            Group(Ballot(3, 1), 0, (entry(1, round_),)).append_to(store)
    store.sync()
    assert store.read(1, 100) == [entry(1, 3)]
    assert reopen(store, fs).recovered.entries == (entry(1, 3),)


def test_a_promise_never_goes_back() -> None:
    """An append with a lower promise leaves the higher one, in this segment and across segments."""
    fs = memory()
    store = open_store(fs)
    Group(Ballot(9, 2), 5).append_to(store)
    for k in range(6):
        Group(Ballot(1, 1), 0, (entry(k + 1),)).append_to(store)
    store.sync()
    assert len(segments(fs)) > 1
    again = reopen(store, fs)
    assert (again.recovered.promised, again.recovered.chosen_mark) == (Ballot(9, 2), 5)


def test_what_was_not_synced_may_be_gone_after_a_power_cut() -> None:
    """The twin of all the others: the file system of these tests does forget."""
    fs = memory()
    store = open_store(fs)
    Group(Ballot(1, 1), 0, (entry(1),)).append_to(store)
    store.sync()
    Group(Ballot(2, 1), 0, (entry(2),)).append_to(store)
    cut_power(fs)
    assert shown(open_store(fs).recovered)[:2] == (Ballot(1, 1), (entry(1),))


def test_segments_roll_over_and_a_long_group_gets_one_of_its_own(place: tuple[FileSystem, str]) -> None:
    """A group never crosses the end of a segment, whatever its size."""
    fs, directory = place
    store = open_store(fs, directory)
    groups = [Group(Ballot(1, 1), k, (entry(k + 1, size=200),), b"p%d" % k) for k in range(7)]
    groups.append(Group(Ballot(1, 1), 7, (entry(8, size=60_000),), b"long"))
    groups.append(Group(Ballot(2, 1), 8, (entry(9),), b"after"))
    for group in groups:
        group.append_to(store)
        store.sync()
        store.prepare()
    sizes = [fs.open(f"{directory}/{name}").size() for name in segments(fs, directory)]
    assert sizes[:3] == [SEGMENT_BYTES] * 3, "three groups each"
    assert len(sizes) == 4
    assert sizes[3] > 60_000, "made for the long group"
    state = fold(groups)
    assert store.read(1, 1 << 20) == list(state.after(0))
    again = reopen(store, fs, directory)
    assert shown(again.recovered) == (Ballot(2, 1), state.after(0), 8, frozenset(), 0, b"after")
    assert "log-prepared.tmp" not in fs.list_dir(directory)
    again.close()


def test_no_group_is_written_into_a_segment_of_an_earlier_life() -> None:
    """Bytes whose fate is unknown are never written over: after a start a new segment begins."""
    fs = memory()
    store = open_store(fs)
    Group(Ballot(1, 1), 0, (entry(1),)).append_to(store)
    store.sync()
    before = content(fs, path_of(fs, "log-"))
    store = reopen(store, fs)
    Group(Ballot(1, 1), 0, (entry(2),)).append_to(store)
    store.sync()
    assert len(segments(fs)) == 2
    assert content(fs, path_of(fs, "log-", 0)) == before
    assert reopen(store, fs).recovered.entries == (entry(1), entry(2))


def test_reading_stops_at_a_gap_and_at_the_bound_but_gives_at_least_one() -> None:
    """A peer that is behind is served without gaps, in pieces."""
    store = open_store(memory())
    Group(Ballot(1, 1), 0, tuple(entry(s, size=100) for s in (1, 2, 3, 5, 6))).append_to(store)
    store.sync()
    assert [e.slot for e in store.read(1, 1)] == [1]
    assert [e.slot for e in store.read(1, 100)] == [1]
    assert [e.slot for e in store.read(1, 101)] == [1, 2]
    assert [e.slot for e in store.read(2, 1 << 20)] == [2, 3]
    assert store.read(4, 1 << 20) == []
    assert [e.slot for e in store.read(5, 1 << 20)] == [5, 6]
    assert store.read(7, 1 << 20) == []


def test_what_was_not_synced_yet_can_be_read() -> None:
    """A leader serves its followers from the log before its own sync is done."""
    store = open_store(memory())
    Group(Ballot(1, 1), 0, (entry(1, size=1000),)).append_to(store)
    assert store.read(1, 1 << 20) == [entry(1, size=1000)]


def test_two_snapshots_are_kept_and_the_log_reaches_back_to_the_older() -> None:
    """The log behind the older kept snapshot is deleted; nothing past it is, and no promise is forgotten."""
    fs = memory()
    store = open_store(fs)
    groups = [Group(Ballot(7, 1), k, (entry(k, 7),), b"p") for k in range(1, 13)]
    for group in groups:
        group.append_to(store)
        store.sync()
        if group.chosen_mark in (3, 6, 9):
            write_snapshot(store, group.chosen_mark)
    assert [n for n in fs.list_dir(DIRECTORY) if n.endswith(".snap")] == [
        "snapshot-0000000000000006.snap",
        "snapshot-0000000000000009.snap",
    ]
    assert (store.log_start, len(segments(fs))) == (6, 2)
    again = reopen(store, fs)
    assert shown(again.recovered) == (Ballot(7, 1), fold(groups).after(9), 12, frozenset(), 9, b"p")
    assert again.log_start == 6
    assert [e.slot for e in again.read(7, 1 << 20)] == [7, 8, 9, 10, 11, 12]
    assert list(again.snapshot_chunks()) == snapshot_of(9)


def test_the_promise_outlives_the_segment_that_it_was_made_in() -> None:
    """Deleting old segments forgets no promise: the header of each one repeats it."""
    fs = memory()
    store = open_store(fs)
    Group(Ballot(50, 3), 0, (entry(1),)).append_to(store)
    store.sync()
    for slot in range(2, 5):
        Group(BALLOT_ZERO, slot, (entry(slot),)).append_to(store)
        store.sync()
    first = segments(fs)[0]
    write_snapshot(store, 3)
    write_snapshot(store, 4)
    assert first not in segments(fs), "this test needs a trimmed segment"
    assert reopen(store, fs).recovered.promised == Ballot(50, 3)


def test_the_last_segment_stays_when_nothing_was_written_since_the_start() -> None:
    """Trimming without an active segment leaves one that knows the promise."""
    fs = memory()
    store = open_store(fs)
    Group(Ballot(5, 1), 4, tuple(entry(s) for s in range(1, 5)), b"p").append_to(store)
    store.sync()
    store = reopen(store, fs)
    write_snapshot(store, 3)
    write_snapshot(store, 4)
    again = reopen(store, fs)
    assert (again.recovered.promised, again.recovered.peers) == (Ballot(5, 1), b"p")


def test_the_log_is_written_and_read_between_the_steps_of_a_trim() -> None:
    """Each step deletes one segment and forgets its slots alone: a log of many would hold up the replica at once."""
    fs = memory()
    store = open_store(fs)
    for slot in range(1, 31):
        Group(Ballot(1, 1), slot, (entry(slot),)).append_to(store)
    store.sync()
    write_snapshot(store, 24)
    store.snapshot_begin(30)
    for chunk in snapshot_of(30):
        store.snapshot_write(chunk)
    steps, last, forgotten = store.snapshot_commit_steps(), 30, 0
    before = segments(fs)
    for _ in steps:
        gone = len(before) - len(segments(fs))
        here = {number for number in range(1, 31) if store.read(number, 1)}
        assert here == set(range(1 + len(set(range(1, 31)) - here), 31)), "from the front"
        assert gone <= 1, "a segment a step"
        assert 30 - len(here) - forgotten <= 3 * gone, "no more slots than one segment has"
        forgotten = 30 - len(here)
        last += 1
        Group(Ballot(1, 1), last, (entry(last),)).append_to(store)
        store.sync()
        assert [e.slot for e in store.read(last, 1)] == [last]
        before = segments(fs)
    assert forgotten == 24 == store.log_start
    assert [e.slot for e in store.read(25, 1 << 20)] == list(range(25, last + 1))
    again = reopen(store, fs)
    assert [e.slot for e in again.read(25, 1 << 20)] == list(range(25, last + 1))


def test_a_trim_keeps_a_slot_whose_value_came_again_in_a_segment_that_stays() -> None:
    """The old value goes with its segment; the new one is where it was written."""
    fs = memory()
    store = open_store(fs)
    for slot in range(1, 10):
        Group(Ballot(1, 1), slot, (entry(slot),)).append_to(store)
    Group(Ballot(2, 1), 9, (entry(1, 2), entry(10, 2))).append_to(store)
    store.sync()
    store = reopen(store, fs)  # what is found at a start is forgotten as what was written since
    write_snapshot(store, 5)
    write_snapshot(store, 6)
    assert not store.read(2, 1)
    assert [(e.slot, e.ballot) for e in store.read(1, 1)] == [(1, Ballot(2, 1))]


def test_a_trim_waits_for_the_groups_that_repeat_what_it_deletes() -> None:
    """A group that only lies in the kernel's memory is no reason to delete the durable one before it."""
    fs = memory()
    store = open_store(fs)
    for slot in range(1, 4):
        Group(Ballot(1, 1), slot, (entry(slot),), b"known").append_to(store)
    store.sync()
    Group(Ballot(1, 1), 4, (entry(4),), b"known").append_to(store)
    write_snapshot(store, 2)
    write_snapshot(store, 3)
    cut_power(fs)
    again = open_store(fs)
    assert (again.recovered.peers, again.recovered.chosen_mark) == (b"known", 4)


def test_a_peers_snapshot_replaces_what_is_below_it_and_keeps_what_is_above() -> None:
    """What was accepted past an installed snapshot is still accepted, and the promise is durable before the trim."""
    source = open_store(memory())
    write_snapshot(source, 4)
    file, size = source.snapshot_read(4, 0, 1 << 20)
    assert len(file) == size
    assert source.snapshot_read(5, 0, 1) == (b"", 0)
    fs = memory()
    store = open_store(fs)
    Group(Ballot(1, 1), 0, (entry(1), entry(2), entry(6)), b"p").append_to(store)
    store.sync()
    take_over(store, 4, file, Ballot(8, 2))
    assert list(store.snapshot_chunks()) == snapshot_of(4)
    cut_power(fs)
    again = open_store(fs)
    assert shown(again.recovered) == (Ballot(8, 2), (entry(6),), 4, frozenset(), 4, b"p")
    assert list(again.snapshot_chunks()) == snapshot_of(4)


def test_a_peers_snapshot_may_come_in_pieces_of_any_size() -> None:
    """It is checked as it comes, wherever it is cut; a start in the middle forgets it, and it comes again."""
    source = open_store(memory())
    write_snapshot(source, 4)
    file = source.snapshot_read(4, 0, 1 << 20)[0]
    for piece in (1, 7, 8, 37, 38, 39, SECTOR, len(file) - 1, len(file)):
        fs = memory()
        store = open_store(fs)
        store.transfer_write(4, 0, file[: len(file) // 2])
        assert len(content(fs, f"{DIRECTORY}/snapshot-transfer.tmp")) == len(file) // 2
        store = reopen(store, fs)
        assert not fs.exists(f"{DIRECTORY}/snapshot-transfer.tmp")
        store.snapshot_begin(3)  # one of its own is under way meanwhile
        take_over(store, 4, file, Ballot(8, 2), piece=piece)
        assert reopen(store, fs).recovered.snapshot_slot == 4
        assert content(fs, f"{DIRECTORY}/snapshot-0000000000000004.snap") == file


def test_random_histories_give_back_what_the_slow_twin_holds() -> None:
    """Groups of any shape, restarts and snapshots anywhere: the log and its model agree."""
    for seed in range(25):
        rng = random.Random(seed)
        fs = memory()
        store = open_store(fs)
        groups: list[Group] = []
        snapshot = top = 0
        for _ in range(rng.randrange(5, 40)):
            match rng.randrange(10):
                case 0:
                    store = reopen(store, fs)
                case 1 if groups and top > snapshot:
                    store.sync()
                    snapshot = rng.randrange(snapshot + 1, top + 1)
                    write_snapshot(store, snapshot)
                case 2:
                    store.prepare()
                case 3:
                    store.sync()
                    cut_power(fs)
                    store = open_store(fs)
                case _:
                    ballot = Ballot(rng.randrange(1, 9), rng.randrange(1, 4))
                    # A slot only gets a snapshot after it was chosen; from then on it is not written again.
                    slots = [rng.randrange(snapshot + 1, snapshot + 9) for _ in range(rng.randrange(4))]
                    sizes = (0, 1, 511, 512, 513, 3000, 20_000)
                    entries = tuple(entry(s, ballot.round, rng.choice(sizes), ballot.replica) for s in slots)
                    groups.append(Group(ballot, snapshot, entries, b"p%d" % len(groups)))
                    groups[-1].append_to(store)
                    top = max([top, *slots])
        store.sync()
        state = fold(groups)
        again = reopen(store, fs)
        assert again.recovered.promised == state.promised, seed
        assert again.recovered.entries == state.after(snapshot), seed
        assert (again.recovered.snapshot_slot, again.recovered.peers) == (snapshot, state.peers), seed


# -- golden bytes --------------------------------------------------------------------------------------------------

GOLDEN_IDENTITY = (
    b'{"configuration": "{\\"cell_id\\":\\"0123456789abcdef0123456789abcdef\\",\\"generation\\":0,\\"members\\":['
    b'[1,\\"127.0.0.1:7100\\",1,\\"voter\\",0],[2,\\"127.0.0.2:7100\\",1,\\"voter\\",0],'
    b'[3,\\"127.0.0.3:7100\\",1,\\"voter\\",0]],\\"retired\\":[]}", "disk": 0, "format": 1, "incarnation": 1, "replica_id": 2}\n'
)

GOLDEN_SEGMENT = bytes.fromhex(
    "53594e4f444c4f47"  # "SYNODLOG"
    "0001"  # version
    "0000000000000001"  # index
    "0123456789abcdef0123456789abcdef"  # cell
    "02"  # replica
    "00000001"  # incarnation
    "0000000001000001"  # nonce: boot 1, first draw
    "0000000000000003"  # promised: round
    "02"  # promised: replica
    "0000000000004000"  # size of the file
    "0000000000000000"  # groups before
    "b7353b40907c04b2a9fb13dc0d75fcd0"  # digest of the configuration
    "2fa7b9ae"  # CRC
)

GOLDEN_HEAD = bytes.fromhex(
    "48128874"  # tag
    "0000000000000001"  # group number
    "0000000000000000"  # groups durable before
    "00000000"  # checksum of the group before
    "0000000000000003"  # promised: round
    "02"  # promised: replica
    "0000000000000001"  # chosen mark
    "00000095"  # head bytes
    "00000305"  # body bytes
    "00000003"  # entries
    "00000005"  # bytes about the peers
    "7bf7ba84"  # CRC of the rest of the head
    "41ae5940"  # CRC of the fields above
    "000000000000000200000000000000030200000005e96306f5"  # slot, round, replica, length, CRC
    "00000000000000030000000000000002010000000043229723"
    "000000000000000400000000000000030200000300fe65a1b9"
    "7065657273"  # "peers"
    "68656c6cfbfcfdfe"  # what the tags displace
)


def test_golden_bytes_of_the_identity() -> None:
    """The first file that every directory has; a change of these bytes is a new format version."""
    fs = memory()
    assert content(fs, f"{DIRECTORY}/identity.json") == GOLDEN_IDENTITY + b"398cdf4c\n"
    open_store(fs)
    assert content(fs, f"{DIRECTORY}/boot.json") == b'{"boot": 1}\n9f0cf72a\n'
    assert load_identity(fs, DIRECTORY) == IDENTITY
    assert load_identity(fs, DIRECTORY).cell_id == CELL


def test_golden_bytes_of_a_segment_and_a_group() -> None:
    """The header block and one group with three values; a change of these bytes is a new format version."""
    fs = memory()
    store = open_store(fs)
    body = b"hello" + bytes(range(256)) * 3
    entries = (Entry(2, Ballot(3, 2), body[:5]), Entry(3, Ballot(2, 1), b""), Entry(4, Ballot(3, 2), body[5:]))
    Group(Ballot(3, 2), 1, entries, b"peers").append_to(store)
    store.sync()
    data = content(fs, path_of(fs, "log-0000000000000001.seg"))
    tag = GOLDEN_HEAD[:4]
    assert data[:BLOCK] == GOLDEN_SEGMENT.ljust(BLOCK, b"\0")
    group = data[BLOCK : 2 * BLOCK]
    assert group[:SECTOR] == GOLDEN_HEAD.ljust(SECTOR, b"\0")
    assert group[SECTOR : 2 * SECTOR] == tag + body[4:SECTOR]
    assert group[2 * SECTOR : 3 * SECTOR] == (tag + body[SECTOR + 4 :]).ljust(SECTOR, b"\0")
    assert not any(group[3 * SECTOR :])
    assert not any(data[2 * BLOCK :])
    assert len(data) == SEGMENT_BYTES


def test_golden_bytes_of_a_snapshot() -> None:
    """Header, chunks and trailer; a change of these bytes is a new format version."""
    fs = memory()
    store = open_store(fs)
    write_snapshot(store, 1)
    data = content(fs, path_of(fs, "snapshot-0000000000000001.snap"))
    first, second = snapshot_of(1)
    header = b"SYNODSNP" + bytes.fromhex("0001" + CELL + "0000000000000001" + "60320811")
    body = b"".join(struct.pack(">II", len(chunk), zlib.crc32(chunk)) + chunk for chunk in (first, second))
    before = header + body + bytes(8)
    assert data == before + hashlib.blake2b(before, digest_size=16).digest()
    assert parse_snapshot(data, bytes.fromhex(CELL), "x") == (1, [first, second])


def cached(file: Path, start: int, end: int) -> float:
    """How much of these bytes the kernel has in memory, as a share. A hint to forget them is not always taken for all."""
    with file.open("rb") as opened:
        # Or else a look at one page makes the kernel read those behind it, which the next looks would find in memory.
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        offsets = range(start, end, BLOCK)
        return sum(_is_cached(opened.fileno(), offset) for offset in offsets) / len(offsets)


def _is_cached(fd: int, offset: int) -> bool:
    try:
        return bool(os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT))
    except BlockingIOError:
        return False


def demand_a_cache(directory: Path) -> None:
    """Skip where files are nowhere else than in memory."""
    scratch = directory / "scratch"
    scratch.write_bytes(bytes(BLOCK))
    with scratch.open("r+b") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(scratch, 0, BLOCK):
        pytest.skip("this file system keeps its files in memory")


def test_what_is_durable_and_old_leaves_the_kernels_cache(tmp_path: Path) -> None:
    """A log of gigabytes takes no memory: pages of its older parts go back, and the end stays for peers that fetch."""
    demand_a_cache(tmp_path)
    directory = str(tmp_path / "data")
    fs = RealFileSystem()
    format_directory(fs, directory, IDENTITY)
    store = open_store(fs, directory, segment_bytes=16 << 20)

    def write(slots: range) -> None:
        for slot in slots:
            store.append(promised=Ballot(1, 1), chosen_mark=slot - 1, entries=[entry(slot, size=60_000)])
            store.sync()
            store.prepare()

    write(range(1, 201))  # of 64 KiB each in the log, so that twelve MiB of the segment are used
    (first,) = segments(fs, directory)
    file = Path(directory, first)
    assert cached(file, 1 << 20, 3 << 20) < 0.5
    assert cached(file, 11 << 20, 12 << 20) > 0.5
    write(range(201, 301))
    assert len(segments(fs, directory)) == 2
    assert cached(file, 8 << 20, 12 << 20) < 0.5
    assert [e.slot for e in store.read(1, 150_000)] == [1, 2, 3]


def test_a_peers_snapshot_is_in_the_kernels_cache_until_it_was_read(tmp_path: Path) -> None:
    """Its state is loaded as soon as it is whole: reading it from the disk then would hold up the log of each replica."""
    demand_a_cache(tmp_path)
    fs = RealFileSystem()
    chunks = [value(f"chunk {number},", 256 << 10) for number in range(24)]
    for name in ("peer", "data"):
        format_directory(fs, str(tmp_path / name), IDENTITY)
    peer = open_store(fs, str(tmp_path / "peer"))
    peer.snapshot_begin(7)
    for chunk in chunks:
        peer.snapshot_write(chunk)
    peer.snapshot_commit()
    name = "snapshot-0000000000000007.snap"
    assert cached(tmp_path / "peer" / name, 0, 6 << 20) < 0.5
    store = open_store(fs, str(tmp_path / "data"))
    take_over(store, 7, (tmp_path / "peer" / name).read_bytes(), Ballot(1, 1), piece=100_000)
    assert cached(tmp_path / "data" / name, 0, 6 << 20) > 0.5
    assert list(store.snapshot_chunks()) == chunks
    assert cached(tmp_path / "data" / name, 0, 6 << 20) < 0.5
