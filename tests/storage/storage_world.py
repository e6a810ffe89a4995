"""What the tests of storage share: a small store, a model of what it must give back, and damage done to its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from synod.base import BALLOT_ZERO, Ballot, Configuration, Entry, Member, Slot
from synod.storage import FileSystem, Identity, MemoryFileSystem, Recovered, Store, StoreOptions, format_directory

BLOCK = 4096
SECTOR = 512
CELL = "0123456789abcdef" * 2
DIRECTORY = "/data"
SEGMENT_BYTES = 4 * BLOCK
"""A header block and three groups of one block."""

CONFIGURATION = Configuration(CELL, tuple(Member(k, f"127.0.0.{k}:7100") for k in (1, 2, 3)))
IDENTITY = Identity(2, 1, CONFIGURATION)


def formatted(fs: FileSystem | None = None, directory: str = DIRECTORY) -> FileSystem:
    """A file system with a formatted directory."""
    fs = MemoryFileSystem() if fs is None else fs
    format_directory(fs, directory, IDENTITY)
    return fs


def memory() -> MemoryFileSystem:
    """A formatted directory in memory."""
    fs = MemoryFileSystem()
    formatted(fs)
    return fs


def open_store(fs: FileSystem, directory: str = DIRECTORY, *, segment_bytes: int = SEGMENT_BYTES) -> Store:
    """Open the store of the replica that all tests are about."""
    return Store.open(
        fs,
        directory,
        cell_id=CELL,
        replica_id=IDENTITY.replica_id,
        options=StoreOptions(segment_bytes=segment_bytes),
    )


def reopen(store: Store, fs: FileSystem, directory: str = DIRECTORY) -> Store:
    """A clean stop and a start."""
    store.close()
    return open_store(fs, directory)


def value(text: str, size: int) -> bytes:
    """`size` bytes without zeros that tell whose they are; no two sectors of them are equal."""
    return "".join(f"{text}{k}" for k in range(size // len(text) + 1)).encode()[:size]


def entry(slot: Slot, round_: int = 1, size: int = 64, replica: int = 1) -> Entry:
    """An entry whose value names its slot and ballot, so that a mixture cannot pass for either."""
    return Entry(slot, Ballot(round_, replica), value(f"<{slot}@{round_}.{replica}>", size))


@dataclass(frozen=True)
class Group:
    """The arguments of one `Store.append`."""

    promised: Ballot
    chosen_mark: Slot
    entries: tuple[Entry, ...] = ()
    peers: bytes = b""

    def append_to(self, store: Store) -> None:
        """Append it."""
        store.append(promised=self.promised, chosen_mark=self.chosen_mark, entries=list(self.entries), peers=self.peers)


@dataclass
class State:
    """What a log holds after some groups: the slow twin of `Log`."""

    promised: Ballot = BALLOT_ZERO
    chosen_mark: Slot = 0
    entries: dict[Slot, Entry] = field(default_factory=dict)
    peers: bytes = b""

    def take(self, group: Group) -> None:
        """Apply a group."""
        self.promised = max(self.promised, group.promised)
        self.chosen_mark = max(self.chosen_mark, group.chosen_mark)
        self.peers = group.peers or self.peers
        for one in group.entries:
            held = self.entries.get(one.slot)
            if held is None or held.ballot <= one.ballot:
                self.entries[one.slot] = one

    def after(self, slot: Slot) -> tuple[Entry, ...]:
        """The entries past a slot, rising."""
        return tuple(self.entries[s] for s in sorted(self.entries) if s > slot)


def fold(groups: Iterable[Group]) -> State:
    """The state after groups."""
    state = State()
    for group in groups:
        state.take(group)
    return state


def snapshot_of(slot: Slot) -> list[bytes]:
    """The chunks of the snapshot of a slot: one that fits a sector, and one that does not."""
    return [value(f"state {slot},", 100), value(f"more {slot},", 600)]


def take_over(store: Store, slot: Slot, file: bytes, promised: Ballot, *, piece: int = 100) -> None:
    """A peer's snapshot file, which comes in pieces."""
    for offset in range(0, len(file), piece):
        store.transfer_write(slot, offset, file[offset : offset + piece])
    store.transfer_install(slot, promised=promised)


def write_snapshot(store: Store, slot: Slot) -> None:
    """A whole snapshot."""
    store.snapshot_begin(slot)
    for chunk in snapshot_of(slot):
        store.snapshot_write(chunk)
    store.snapshot_commit()


def shown(recovered: Recovered) -> tuple[object, ...]:
    """Everything that a replica goes on from."""
    return (
        recovered.promised,
        recovered.entries,
        recovered.chosen_mark,
        recovered.unknown,
        recovered.snapshot_slot,
        recovered.peers,
    )


# -- damage --------------------------------------------------------------------------------------------------------


def path_of(fs: MemoryFileSystem, start: str, which: int = -1) -> str:
    """The path of one of the files whose name starts so, the last one unless told."""
    return f"{DIRECTORY}/{[name for name in fs.list_dir(DIRECTORY) if name.startswith(start)][which]}"


def content(fs: MemoryFileSystem, path: str) -> bytes:
    """A file's bytes."""
    file = fs.open(path)
    return file.pread(0, file.size())


def damage(fs: MemoryFileSystem, path: str, offset: int, wanted: bytes) -> None:
    """Put other bytes there, durably and without any error."""
    present = content(fs, path)[offset : offset + len(wanted)]
    for k, (old, new) in enumerate(zip(present, wanted, strict=True)):
        if old != new:
            fs.rot(path, offset + k, old ^ new)


def zero(fs: MemoryFileSystem, path: str, offset: int, size: int = SECTOR) -> None:
    """Make zeros of a piece of a file."""
    damage(fs, path, offset, bytes(size))


def swap(fs: MemoryFileSystem, path: str, first: int, second: int, size: int = BLOCK) -> None:
    """Exchange two blocks of a file."""
    whole = content(fs, path)
    damage(fs, path, first, whole[second : second + size])
    damage(fs, path, second, whole[first : first + size])


def cut_power(fs: MemoryFileSystem, kept: Sequence[bool] = (), names: int = 0) -> None:
    """Lose power: of the unsynced sectors those marked in `kept` survive, of the changes of names the first `names`."""
    bits = iter(kept)
    keep: Callable[[], bool] = lambda: next(bits, False)  # noqa: E731 -- one decision after the other
    fs.crash(keep, lambda _: names)
