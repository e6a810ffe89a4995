"""Bytes that were synced and read back wrong are never read as "never written".

An acceptor that forgets what it promised or accepted, and does not know that it forgot, can lose a chosen value.
So damage is refused (`Corruption`, naming the file) or shown (`Recovered.unknown`), and only what was torn before
anybody was told of it is dropped.

Ref: Alagappan et al. 2018 (Protocol-Aware Recovery); Chandra et al. 2007 s5.1.
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Callable

import pytest
from storage_world import (
    BLOCK,
    CELL,
    DIRECTORY,
    SECTOR,
    Group,
    content,
    cut_power,
    damage,
    entry,
    fold,
    memory,
    open_store,
    path_of,
    snapshot_of,
    swap,
    take_over,
    write_snapshot,
    zero,
)

from synod.base import Ballot, Configuration, Corruption, DataDirError, Member
from synod.storage import Identity, MemoryFileSystem, Store, format_directory, verify_directory

GROUPS = (
    Group(Ballot(1, 1), 0, (entry(1, size=700), entry(2)), b"a"),
    Group(Ballot(2, 1), 0, (entry(1, 2, 40), entry(3, 2, 0)), b"b"),
    Group(Ballot(3, 3), 1, (entry(4, 3, 900, 3),), b"c"),
    # -- the second segment
    Group(Ballot(4, 1), 2, (entry(5, 4, 6000), entry(2, 4)), b"d"),
    Group(Ballot(5, 2), 4, (entry(6, 5, 520, 2),), b"e"),
)
STATE = fold(GROUPS)
FIRST = f"{DIRECTORY}/log-0000000000000001.seg"
SECOND = f"{DIRECTORY}/log-0000000000000002.seg"


def written(*, last_proved: bool = False) -> MemoryFileSystem:
    """The groups in two segments, each synced by itself.

    Args:
        last_proved: with another group behind them that was not synced any more, which says that the last one was.
    """
    fs = memory()
    store = open_store(fs, segment_bytes=6 * BLOCK)
    for group in GROUPS:
        group.append_to(store)
        store.sync()
    if last_proved:
        Group(Ballot(5, 2), 4).append_to(store)
    store.close()
    fs.crash(lambda: True)
    assert [name for name in fs.list_dir(DIRECTORY) if name.startswith("log-")] == [FIRST[6:], SECOND[6:]]
    return fs


def verdict(fs: MemoryFileSystem) -> str:
    """What a start says of it: "refused", "unknown" or "whole". Anything else is a forgotten record."""
    try:
        store = open_store(fs)
    except Corruption as refusal:
        return "refused" if "log-" in str(refusal) else "refused without the name of the file"
    held = store.recovered
    assert held.promised == STATE.promised, "a promise is forgotten"
    assert (held.chosen_mark, held.peers) == (STATE.chosen_mark, STATE.peers)
    assert {one.slot for one in held.entries}.isdisjoint(held.unknown)
    assert held.entries == tuple(one for one in STATE.after(0) if one.slot not in held.unknown), "forgotten or mixed"
    assert len(held.warnings) == len(held.unknown)
    assert all("log-" in warning for warning in held.warnings)
    return "unknown" if held.unknown else "whole"


def used_bytes(fs: MemoryFileSystem, path: str) -> list[int]:
    """The offsets of all sectors that were written."""
    data = content(fs, path)
    sectors = [at for at in range(0, len(data), SECTOR) if any(data[at : at + SECTOR])]
    return [at + k for at in sectors for k in range(SECTOR)]


# -- the log -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0x01, 0xFF])
@pytest.mark.parametrize("path", [FIRST, SECOND])
def test_a_flipped_byte_is_never_read_as_nothing(path: str, mask: int) -> None:
    """Every byte of every synced sector, one after the other: refused, unknown, or it did not matter."""
    fs = written()
    verdicts = dict.fromkeys(("refused", "unknown", "whole"), 0)
    for offset in used_bytes(fs, path):
        found = fs.copy()
        found.rot(path, offset, mask)
        verdicts[verdict(found)] += 1
    assert min(verdicts.values()) > 100, verdicts


@pytest.mark.parametrize("path", [FIRST, SECOND])
def test_a_flipped_byte_in_a_place_of_each_kind(path: str) -> None:
    """The quick part of the above: each byte of a tag and some of everything else, the last group among it."""
    fs = written()
    offsets = used_bytes(fs, path)
    for offset in offsets:
        if offset % SECTOR < 4 or offset % 37 == 0:
            found = fs.copy()
            found.rot(path, offset)
            verdict(found)


def test_a_flipped_value_makes_its_slot_unknown_and_leaves_the_others() -> None:
    """The replica tells a proposer that it does not know, so that phase 1 looks for a quorum that does."""
    fs = written()
    at = content(fs, SECOND).index(b"<6@5.2>1")
    fs.rot(SECOND, at)
    store = open_store(fs)
    assert store.recovered.unknown == {6}
    assert store.recovered.entries == STATE.after(0)[:-1]
    assert f"{SECOND}: the value of slot 6" in store.recovered.warnings[0]
    assert store.read(6, 100) == []


def test_a_rotten_value_does_not_bring_the_lower_ballot_back() -> None:
    """A slot that was accepted twice is unknown when the second value rots: the first one is no answer any more."""
    fs = written()
    at = content(fs, FIRST).index(b"<1@2.1>1")
    fs.rot(FIRST, at)
    held = open_store(fs).recovered
    assert held.unknown == {1}
    assert 1 not in {one.slot for one in held.entries}


def test_an_unknown_slot_is_known_again_once_it_is_accepted_again() -> None:
    """A leader that proposes again heals the record, also for the starts that follow."""
    fs = written()
    fs.rot(SECOND, content(fs, SECOND).index(b"<6@5.2>1"))
    store = open_store(fs)
    assert store.recovered.unknown == {6}
    again = Group(Ballot(9, 1), 4, (entry(6, 9),), b"z")
    again.append_to(store)
    store.sync()
    assert store.read(6, 100) == list(again.entries)
    held = open_store(_stopped(store, fs)).recovered
    assert not held.unknown
    assert held.entries[-1] == again.entries[0]


def _stopped(store: Store, fs: MemoryFileSystem) -> MemoryFileSystem:
    store.close()
    return fs


@pytest.mark.parametrize("path", [FIRST, SECOND])
@pytest.mark.parametrize("size", [SECTOR, BLOCK])
def test_zeros_in_a_synced_place_are_never_read_as_nothing(path: str, size: int) -> None:
    """A sector, or a block, that reads as zeros is no torn write where a later write says that it was synced."""
    fs = written(last_proved=True)
    seen = set()
    for offset in range(0, 4 * BLOCK, size):
        found = fs.copy()
        zero(found, path, offset, size)
        seen.add(verdict(found))
    assert seen in ({"refused"}, {"refused", "whole"}), "whole: what was zeros before"


def test_zeros_in_the_very_last_sync_read_as_torn() -> None:
    """The limit of the layout: of the last groups nothing later says that they were synced.

    Zeros at the place of one of their sectors are what a torn write leaves. Any other damage of them shows.
    """
    fs = written()
    last = 3 * BLOCK
    zero(fs, SECOND, last)
    held = open_store(fs).recovered
    assert held.entries == fold(GROUPS[:-1]).after(0)
    fs = written()
    damage(fs, SECOND, last, b"\x01" * SECTOR)
    assert verdict(fs) == "refused"


def test_swapped_blocks_are_never_read_as_each_other() -> None:
    """A block in the place of another, in the same segment or in the other one: checksums know their place."""
    fs = written(last_proved=True)
    places = [(path, at) for path in (FIRST, SECOND) for at in range(0, 6 * BLOCK, BLOCK)]
    swapped = 0
    for (path, at), (other_path, other_at) in itertools.combinations(places, 2):
        if not any(content(fs, path)[at : at + BLOCK]) or not any(content(fs, other_path)[other_at : other_at + BLOCK]):
            continue
        found = fs.copy()
        if path == other_path:
            swap(found, path, at, other_at)
        else:
            one, other = content(fs, path)[at : at + BLOCK], content(fs, other_path)[other_at : other_at + BLOCK]
            damage(found, path, at, other)
            damage(found, other_path, other_at, one)
        assert verdict(found) == "refused", (path, at, other_path, other_at)
        swapped += 1
    assert swapped > 20


def test_swapped_sectors_are_never_read_as_each_other() -> None:
    """Two sectors of one group that changed places."""
    fs = written(last_proved=True)
    for path, at in ((FIRST, 3 * BLOCK), (SECOND, BLOCK)):
        sectors = [s for s in range(at, at + BLOCK, SECTOR) if any(content(fs, path)[s : s + SECTOR])]
        for first, second in itertools.combinations(sectors, 2):
            found = fs.copy()
            swap(found, path, first, second, SECTOR)
            assert verdict(found) in ("refused", "unknown")


@pytest.mark.parametrize("path", [FIRST, SECOND])
def test_a_segment_that_was_cut_short_or_grew_is_refused(path: str) -> None:
    """A copy of a directory that broke off shows, also where it broke off between two groups."""
    whole = content(written(), path)
    for size in (0, 40, SECTOR, BLOCK, 2 * BLOCK, 3 * BLOCK, len(whole) - 1, len(whole) + 1):
        fs = written()
        _replace(fs, path, whole[:size].ljust(size, b"\0"))
        assert verdict(fs) == "refused", size


def _replace(fs: MemoryFileSystem, path: str, data: bytes) -> None:
    fs.unlink(path)
    _put(fs, path, data)


def _put(fs: MemoryFileSystem, path: str, data: bytes) -> None:
    file = fs.append_new(path)
    file.pwrite(0, data)
    file.sync()
    fs.sync_dir(DIRECTORY)


def test_a_segment_that_is_missing_is_missed() -> None:
    """In the middle by the count of groups, at the front by the snapshot that a trim would have left."""
    fs = memory()
    store = open_store(fs)
    for slot in range(1, 10):
        Group(Ballot(1, 1), 0, (entry(slot),)).append_to(store)
        store.sync()
    store.close()
    for which in (0, 1):
        found = fs.copy()
        found.unlink(path_of(found, "log-", which))
        with pytest.raises(Corruption, match=r"was durable and is gone|continues a snapshot"):
            open_store(found)


def test_a_segment_of_another_replica_is_refused() -> None:
    """A file that was put into the wrong directory is no log of this replica."""
    fs = written()
    header = bytearray(content(fs, SECOND)[:92])
    header[34] ^= 1  # the replica
    header[88:] = struct.pack(">I", zlib.crc32(header[:88]))
    damage(fs, SECOND, 0, bytes(header))
    with pytest.raises(Corruption, match=r"log-0000000000000002\.seg belongs to replica 3 of the cell 0123"):
        open_store(fs)


def test_a_torn_tail_is_dropped_and_stays_dropped() -> None:
    """A group of which a sector never arrived was promised to nobody: gone, now and after more was written."""
    for lost in range(3):
        fs = memory()
        store = open_store(fs)
        GROUPS[0].append_to(store)
        store.sync()
        GROUPS[2].append_to(store)
        cut_power(fs, [k != lost for k in range(3)])
        for boot in range(3):
            store = open_store(fs)
            more = [Group(Ballot(7, 1), 0, (entry(9, 7 + k),)) for k in range(boot)]
            assert store.recovered.entries == fold([GROUPS[0], *more]).after(0)
            Group(Ballot(7, 1), 0, (entry(9, 7 + boot),)).append_to(store)
            store.sync()
            cut_power(fs)


def test_of_two_torn_groups_the_second_does_not_stay_alone() -> None:
    """Groups of one sync reach the disk in any order; what stands behind a hole was never acknowledged."""
    fs = memory()
    store = open_store(fs)
    GROUPS[0].append_to(store)
    store.sync()
    GROUPS[1].append_to(store)
    GROUPS[2].append_to(store)
    cut_power(fs, [k >= BLOCK // SECTOR for k in range(2 * BLOCK // SECTOR)])
    held = open_store(fs).recovered
    assert (held.promised, held.entries) == (Ballot(1, 1), fold(GROUPS[:1]).after(0))


def test_reading_a_record_that_rotted_since_the_start_is_refused() -> None:
    """Whatever byte of the group's place rots under a running store: the right value, or Corruption by name."""
    fs = written()
    store = open_store(fs)
    right = STATE.entries[4]
    wrong = harmless = refused = 0
    for offset in range(3 * BLOCK, 3 * BLOCK + 4 * SECTOR):
        for mask in (0x01, 0xFF):
            fs.rot(FIRST, offset, mask)
            try:
                wrong += store.read(4, 1) != [right]
                harmless += 1
            except Corruption as refusal:
                refused += f"{FIRST}: the value of slot 4" in str(refusal)
            fs.rot(FIRST, offset, mask)
    assert wrong == 0
    assert refused + harmless == 2 * 4 * SECTOR, "a refusal does not name the record"
    assert refused > 1800
    assert store.read(4, 1) == [right]


# -- snapshots -----------------------------------------------------------------------------------------------------


def with_snapshots() -> MemoryFileSystem:
    """Snapshots of the slots 2 and 4, and the log from slot 3 on."""
    fs = memory()
    store = open_store(fs)
    for slot in range(1, 7):
        Group(Ballot(1, 1), slot, (entry(slot),), b"p").append_to(store)
        store.sync()
        if slot in (2, 4):
            write_snapshot(store, slot)
    store.close()
    return fs


def test_every_damaged_byte_of_the_newest_snapshot_leads_to_the_older_one() -> None:
    """A snapshot with a damaged byte is not used; the older one and the log from there on give the same state."""
    fs = with_snapshots()
    path = path_of(fs, "snapshot-")
    for offset in range(len(content(fs, path))):
        found = fs.copy()
        found.rot(path, offset, 0x10)
        store = open_store(found)
        assert (store.recovered.snapshot_slot, list(store.snapshot_chunks())) == (2, snapshot_of(2))
        assert [one.slot for one in store.recovered.entries] == [3, 4, 5, 6]
        assert len(store.recovered.warnings) == 1
        assert path in store.recovered.warnings[0]
        if 46 <= offset < 146:
            assert "chunk 0 of this snapshot, at offset 46, is damaged" in store.recovered.warnings[0]


SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short in the header": lambda data: data[:20],
    "cut short in a chunk": lambda data: data[:200],
    "without its trailer": lambda data: data[:-24],
    "cut short in the digest": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "without a chunk": lambda data: data[:38] + data[38 + 8 + 100 :],
    "with a chunk twice": lambda data: data[:146] + data[38:146] + data[146:],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_snapshot_of_another_shape_is_not_used(shape: str) -> None:
    """Each chunk has a checksum, and the file has a digest: pieces that are good one by one are not a snapshot."""
    fs = with_snapshots()
    path = path_of(fs, "snapshot-")
    _replace(fs, path, SHAPES[shape](content(fs, path)))
    store = open_store(fs)
    assert store.recovered.snapshot_slot == 2
    assert path in store.recovered.warnings[0]


def test_a_snapshot_under_another_name_is_not_used() -> None:
    """A file of slot 2 that stands where the one of slot 4 should is not the state at slot 4."""
    fs = with_snapshots()
    older, newest = path_of(fs, "snapshot-", 0), path_of(fs, "snapshot-")
    _replace(fs, newest, content(fs, older))
    held = open_store(fs).recovered
    assert (held.snapshot_slot, held.warnings) == (2, (f"{newest} holds the snapshot of slot 2",))


def without_state() -> MemoryFileSystem:
    """A peer's snapshot went over a gap in the log, and now every snapshot is damaged."""
    source = open_store(memory())
    write_snapshot(source, 20)
    fs = with_snapshots()
    store = open_store(fs)
    take_over(store, 20, source.snapshot_read(20, 0, 1 << 20)[0], Ballot(2, 2))
    store.close()
    for which in (0, 1):
        fs.rot(path_of(fs, "snapshot-", which), 60)
    return fs


def test_two_damaged_snapshots_are_named_and_what_they_held_is_to_be_learned_again() -> None:
    """A snapshot holds only what was chosen: the replica has lost no vote, and asks its peers for the state."""
    fs = without_state()
    held = open_store(fs).recovered
    assert (held.snapshot_slot, held.lost_upto) == (0, 20)
    assert re.search(r"snapshot-0000000000000014\.snap.*no older one is complete", held.warnings[-1])


@pytest.mark.parametrize("peers", [b"", b"seen"])
def test_the_only_replica_of_a_cell_with_damaged_snapshots_is_refused(peers: bytes) -> None:
    """There is nobody to ask; or, since the cell has grown, whom to ask is in the state that is lost."""
    fs = memory()
    alone = Configuration(CELL, (Member(1, "127.0.0.1:7100"),))
    fs.wipe()
    format_directory(fs, DIRECTORY, Identity(1, 1, alone))
    store = Store.open(fs, DIRECTORY, cell_id=CELL, replica_id=1)
    Group(Ballot(1, 1), 4, (entry(5),), peers).append_to(store)
    store.sync()
    write_snapshot(store, 4)
    store.close()
    fs.rot(path_of(fs, "snapshot-"), 60)
    with pytest.raises(Corruption, match=r"snapshot-0000000000000004\.snap.*no older one is complete") as refusal:
        Store.open(fs, DIRECTORY, cell_id=CELL, replica_id=1)
    assert "restore the cell from a backup" in str(refusal.value)
    assert ("replace the replica from its peers" in str(refusal.value)) == bool(peers)


def test_a_damaged_snapshot_stays_until_a_good_one_reaches_as_far() -> None:
    """Its name says up to where this replica must not vote: an older state of a peer does not change that."""
    source = open_store(memory())
    for slot in (10, 30):
        write_snapshot(source, slot)
    fs = without_state()
    store = open_store(fs)
    take_over(store, 10, source.snapshot_read(10, 0, 1 << 20)[0], Ballot(2, 2))
    store.close()
    held = open_store(fs.copy()).recovered
    assert (held.snapshot_slot, held.lost_upto) == (10, 20)
    store = open_store(fs)
    take_over(store, 30, source.snapshot_read(30, 0, 1 << 20)[0], Ballot(2, 2))
    store.close()
    held = open_store(fs).recovered
    assert (held.snapshot_slot, held.lost_upto, held.warnings) == (30, 0, ())


def test_an_older_snapshot_that_the_log_does_not_reach_back_to_is_not_the_whole_state() -> None:
    """A peer's snapshot went over a gap in the log: what lies in the gap is to be learned again."""
    source = open_store(memory())
    write_snapshot(source, 20)
    fs = with_snapshots()
    store = open_store(fs)
    take_over(store, 20, source.snapshot_read(20, 0, 1 << 20)[0], Ballot(2, 2))
    store.close()
    assert open_store(fs.copy()).recovered.snapshot_slot == 20
    fs.rot(path_of(fs, "snapshot-"), 60)
    held = open_store(fs).recovered
    assert held.lost_upto == 20
    assert re.search(r"snapshot-0000000000000014\.snap.*no older one is complete", held.warnings[-1])


def test_a_damaged_snapshot_of_a_peer_changes_nothing() -> None:
    """A transfer that went wrong is refused, and what had come of it is gone."""
    source = open_store(memory())
    write_snapshot(source, 20)
    file = source.snapshot_read(20, 0, 1 << 20)[0]
    fs = with_snapshots()
    store = open_store(fs)
    before = {name: content(fs, f"{DIRECTORY}/{name}") for name in fs.list_dir(DIRECTORY)}
    for offset in range(0, len(file), 7):
        bad = bytearray(file)
        bad[offset] ^= 4
        with pytest.raises(Corruption, match=r"snapshot-0000000000000014|of slot 20"):
            take_over(store, 20, bytes(bad), Ballot(2, 2))
        store.transfer_abort()
    for shape in SHAPES.values():
        with pytest.raises(Corruption):
            take_over(store, 20, shape(file), Ballot(2, 2))
        store.transfer_abort()
    with pytest.raises(Corruption, match="of slot 20 and not of slot 21"):
        take_over(store, 21, file, Ballot(2, 2))
    assert {name: content(fs, f"{DIRECTORY}/{name}") for name in fs.list_dir(DIRECTORY)} == before
    take_over(store, 20, file, Ballot(2, 2))
    assert list(store.snapshot_chunks()) == snapshot_of(20)


def test_what_does_not_continue_a_transfer_is_refused() -> None:
    """A piece that is missing, of another slot, or of a transfer that has ended: it must begin anew, and can."""
    source = open_store(memory())
    write_snapshot(source, 20)
    file = source.snapshot_read(20, 0, 1 << 20)[0]
    store = open_store(with_snapshots())
    for slot, offset in ((20, 50), (20, 150), (21, 100), (20, 99)):
        store.transfer_write(20, 0, file[:100])
        with pytest.raises(Corruption, match="does not continue"):
            store.transfer_write(slot, offset, file[offset : offset + 100])
    store.transfer_write(20, 0, file)
    with pytest.raises(Corruption, match="nothing is here of a peer's snapshot of slot 19"):
        store.transfer_install(19, promised=Ballot(2, 2))
    store.transfer_install(20, promised=Ballot(2, 2))
    with pytest.raises(Corruption, match="nothing is here"):
        store.transfer_install(20, promised=Ballot(2, 2))
    assert list(store.snapshot_chunks()) == snapshot_of(20)


# -- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["identity.json", "boot.json"])
def test_every_damaged_byte_of_a_small_file_is_refused_by_name(name: str) -> None:
    """A directory that may be another replica's, or whose boot count may come twice, is not used."""
    fs = written()
    path = f"{DIRECTORY}/{name}"
    data = content(fs, path)
    for offset in range(len(data)):
        found = fs.copy()
        found.rot(path, offset, 0x02)
        if offset == len(data) - 1:
            continue  # the line end behind the checksum
        with pytest.raises(DataDirError, match=rf"{name} is damaged"):
            open_store(found)
    for size in (0, 1, len(data) // 2, len(data) - 2):
        found = fs.copy()
        _replace(found, path, data[:size])
        with pytest.raises(DataDirError, match=rf"{name} is damaged"):
            open_store(found)


def test_a_sound_file_whose_snapshot_is_no_state_is_not_used_either() -> None:
    """Whoever restores the state says so; the older snapshot and the log give the same, and nothing is lost."""
    fs = with_snapshots()
    store = open_store(fs)
    assert store.recovered.snapshot_slot == 4
    store.snapshot_unusable("its checksum does not fit its bytes")
    held = store.recovered
    assert (held.snapshot_slot, held.lost_upto) == (2, 0)
    assert [e.slot for e in held.entries] == [3, 4, 5, 6]
    assert held.warnings == (f"{path_of(fs, 'snapshot-', 1)}: its checksum does not fit its bytes",)
    assert list(store.snapshot_chunks()) == list(snapshot_of(2))
    write_snapshot(store, 6)
    store.close()
    assert open_store(fs).recovered.snapshot_slot == 6


# -- files of different times ----------------------------------------------------------------------------------------

TIMES = ("none", "older", "newer")


def at_two_times() -> dict[str, MemoryFileSystem]:
    """The directory of one life, twice: the second time nothing of the first is left."""
    fs = memory()
    store = open_store(fs)
    seen: dict[str, MemoryFileSystem] = {}
    for slot in range(1, 19):
        Group(Ballot(slot, 1), slot - 1, (entry(slot, slot),), b"p").append_to(store)
        store.sync()
        if slot % 3 == 0:
            write_snapshot(store, slot - 1)
        if slot in (9, 18):
            seen["older" if slot == 9 else "newer"] = fs.copy()
    return seen


@pytest.mark.parametrize("log", TIMES)
@pytest.mark.parametrize("snapshots", TIMES)
def test_snapshots_and_log_of_different_times_are_refused_or_the_difference_is_known(snapshots: str, log: str) -> None:
    """Nothing that was chosen is passed over, and no slot of which nothing is left counts as never accepted.

    The promise is in the log, so that there is no third file that could be older (ZOOKEEPER-582). That all of it is
    older only peers can know, who have seen more.
    """
    seen = at_two_times()
    fs = seen["newer"].copy()
    for name in fs.list_dir(DIRECTORY):
        if name.endswith((".snap", ".seg")):
            fs.unlink(f"{DIRECTORY}/{name}")
    fs.sync_dir(DIRECTORY)
    for time, end in ((snapshots, ".snap"), (log, ".seg")):
        for name in seen[time].list_dir(DIRECTORY) if time != "none" else ():
            if name.endswith(end):
                _put(fs, f"{DIRECTORY}/{name}", seen[time].durable_bytes(f"{DIRECTORY}/{name}"))
    refused = {("none", "older"), ("none", "newer"), ("older", "none"), ("newer", "none")}
    incomplete = (snapshots, log) in {*refused, ("older", "newer")}
    assert bool(verify_directory(fs, DIRECTORY, list).damage) == incomplete, "who only looks says so as well"
    if (snapshots, log) in refused:
        with pytest.raises(Corruption, match=r"continues a snapshot, and there is none|the log .* is gone"):
            open_store(fs)
        return
    held = open_store(fs).recovered
    last = {"none": 0, "older": 9, "newer": 18}[log]
    assert held.promised == Ballot(last, 1 if last else 0)
    assert held.snapshot_slot == {"none": 0, "older": 8, "newer": 17}[snapshots]
    told = (
        {e.slot for e in held.entries} | set(held.unknown) | set(range(1, max(held.snapshot_slot, held.lost_upto) + 1))
    )
    assert told >= set(range(1, last + 1))
    assert bool(held.lost_upto) == incomplete
    assert bool(held.warnings) == bool(held.lost_upto)
