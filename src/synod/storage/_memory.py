"""A file system in memory that forgets and tears what was not synced: for the simulator, tests and `local`.

The crash model: what was synced stays. Of the writes since, every 512-byte sector is kept or lost on its own,
so that a write may be torn and writes may reach the disk in any order. Of the changes of names since the
last `sync_dir`, a prefix is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from synod.base import DataDirError, NoSpace, Rng, StorageError

SECTOR = 512


class _Inode:
    """A file's bytes, as read now and as they would be found after a crash, and its present name."""

    __slots__ = ("data", "durable", "path", "unsynced")

    def __init__(self, size: int, path: str) -> None:
        self.path = path
        self.data = bytearray(size)
        self.durable = bytearray(size)
        self.unsynced: list[tuple[int, bytes]] = []


class MemoryFile:
    """A file of a `MemoryFileSystem`."""

    __slots__ = ("_fs", "_inode", "_life")

    def __init__(self, fs: MemoryFileSystem, inode: _Inode) -> None:
        self._fs = fs
        self._inode = inode
        self._life = fs.life

    @property
    def _path(self) -> str:
        # Faults are injected by name, and a segment is renamed while it is open.
        return self._inode.path

    def _alive(self) -> None:
        if self._life != self._fs.life:
            raise StorageError(f"{self._path}: this handle is from before the crash")

    def pread(self, offset: int, size: int) -> bytes:
        """See `File`."""
        self._alive()
        self._fs.inject("read", self._path)
        return bytes(self._inode.data[offset : offset + size])

    def pwrite(self, offset: int, data: bytes | bytearray) -> None:
        """See `File`."""
        self._alive()
        self._fs.inject("write", self._path)
        inode = self._inode
        end = offset + len(data)
        if end > len(inode.data):
            self._fs.grow(end - len(inode.data), self._path)
            inode.data.extend(bytes(end - len(inode.data)))
        inode.data[offset:end] = data
        inode.unsynced.append((offset, bytes(data)))
        self._fs.count()

    def sync(self) -> None:
        """See `File`."""
        self._alive()
        self._fs.inject("sync", self._path)
        inode = self._inode
        for meant, data in inode.unsynced:
            offset = meant if self._fs.misdirect is None else self._fs.misdirect(self._path, meant, len(data))
            end = offset + len(data)
            if end > len(inode.durable):
                inode.durable.extend(bytes(end - len(inode.durable)))
            inode.durable[offset:end] = data
        inode.unsynced.clear()
        self._fs.count()

    def direct(self) -> int:
        """See `File`."""
        self._alive()
        return -1

    def uncache(self, offset: int, size: int) -> None:  # noqa: ARG002 -- memory is all there is
        """See `File`."""
        self._alive()

    def size(self) -> int:
        """See `File`."""
        return len(self._inode.data)

    def close(self) -> None:
        """See `File`."""
        if self._life == self._fs.life:
            self._fs.unlock(self._path)


class MemoryFileSystem:
    """A tree of files in memory.

    Args:
        bytes_max: the room on the device; creating or growing past it raises NoSpace. None is without end.
    """

    def __init__(self, bytes_max: int | None = None) -> None:
        self.life = 0
        self.operations = 0
        self.bytes_max = bytes_max
        self.fail: Callable[[str, str], StorageError | None] | None = None
        """Called with ("read" | "write" | "sync", path); what it returns is raised."""
        self.after: Callable[[], None] | None = None
        """Called after every operation that changes something: a place where power can be lost."""
        self.misdirect: Callable[[str, int, int], int] | None = None
        """Called with (path, offset, length) for each write that a sync makes durable; says where it really lands.
        The kernel's memory still shows it where it was meant to be, until the process ends."""
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._renames: list[tuple[str, str, str, _Inode]] = []
        self._dirs: dict[str, None] = {}
        self._locked: dict[str, None] = {}

    # -- FileSystem ----------------------------------------------------------------------------------------

    def make_dir(self, path: str) -> None:
        """See `FileSystem`."""
        self._dirs[path] = None

    def list_dir(self, path: str) -> list[str]:
        """See `FileSystem`."""
        if path not in self._dirs:
            raise DataDirError(f"the data directory {path} cannot be read: no such directory")
        start = path + "/"
        return sorted(name[len(start) :] for name in self._names if name.startswith(start))

    def exists(self, path: str) -> bool:
        """See `FileSystem`."""
        return path in self._names or path in self._dirs

    def create(self, path: str, size: int) -> MemoryFile:
        """See `FileSystem`."""
        self.inject("write", path)
        self.grow(size, path)
        inode = self._names[path] = _Inode(size, path)
        self._renames.append(("create", path, "", inode))
        self.count()
        return MemoryFile(self, inode)

    def open(self, path: str) -> MemoryFile:
        """See `FileSystem`."""
        inode = self._names.get(path)
        if inode is None:
            raise DataDirError(f"{path} cannot be opened: no such file")
        return MemoryFile(self, inode)

    def append_new(self, path: str) -> MemoryFile:
        """See `FileSystem`."""
        return self.create(path, 0)

    def rename(self, old: str, new: str) -> None:
        """See `FileSystem`."""
        inode = self._names[new] = self._names.pop(old)
        inode.path = new
        self._renames.append(("rename", old, new, inode))
        self.count()

    def unlink(self, path: str, *, at_once: bool = False) -> None:  # noqa: ARG002 -- here it is always at once
        """See `FileSystem`."""
        self._renames.append(("unlink", path, "", self._names.pop(path)))
        self.count()

    def sync_dir(self, path: str) -> None:
        """See `FileSystem`."""
        self.inject("sync", path)
        self._durable_names = dict(self._names)
        self._renames.clear()
        self.count()

    def lock(self, path: str) -> MemoryFile:
        """See `FileSystem`."""
        if path in self._locked:
            raise DataDirError(f"the data directory of {path} is in use by a running process; stop it first")
        if path not in self._names:
            self._names[path] = _Inode(0, path)
            self._durable_names[path] = self._names[path]
        self._locked[path] = None
        return MemoryFile(self, self._names[path])

    def unlock(self, path: str) -> None:
        """A handle was closed; if it was the lock, the lock is free."""
        self._locked.pop(path, None)

    # -- faults --------------------------------------------------------------------------------------------

    def count(self) -> None:
        """An operation that changes something is done."""
        self.operations += 1
        if self.after is not None:
            self.after()

    def inject(self, operation: str, path: str) -> None:
        """Raise what the injected fault wants raised."""
        if self.fail is not None:
            failure = self.fail(operation, path)
            if failure is not None:
                raise failure

    def grow(self, more: int, path: str) -> None:
        """Account for room."""
        if self.bytes_max is not None and self.used_bytes() + more > self.bytes_max:
            raise NoSpace(f"{path}: no space left on the device; free some, what is acknowledged is safe")

    def used_bytes(self) -> int:
        """The lengths of all files together."""
        return sum(len(inode.data) for inode in self._names.values())

    def crash(self, keep: Callable[[], bool], keep_names: Callable[[int], int] | None = None) -> None:
        """Lose power: handles die, and what was not synced is partly lost.

        Args:
            keep: asked once for each unsynced sector, in order: is it kept?
            keep_names: given the number of unsynced changes of names, how many of them, from the first, are
                kept; without it none.
        """
        for inode in self._all_inodes():
            for offset, data in inode.unsynced:
                _tear(inode.durable, offset, data, keep)
            inode.unsynced.clear()
            inode.data = bytearray(inode.durable)
        kept = keep_names(len(self._renames)) if keep_names is not None else 0
        names = dict(self._durable_names)
        for kind, old, new, inode in self._renames[:kept]:
            if kind == "create":
                names[old] = inode
            else:
                names.pop(old, None)
            if kind == "rename":
                names[new] = inode
        for name, inode in names.items():
            inode.path = name
        self._names = names
        self._durable_names = dict(names)
        self._renames.clear()
        self._locked.clear()
        self.life += 1

    def _all_inodes(self) -> list[_Inode]:
        seen: dict[int, _Inode] = {}
        changed = (change[3] for change in self._renames)
        for inode in (*self._names.values(), *self._durable_names.values(), *changed):
            seen[id(inode)] = inode
        return list(seen.values())

    def crash_randomly(self, rng: Rng) -> None:
        """A crash in which chance decides about every unsynced sector."""
        share = rng.randrange(0, 101)
        self.crash(lambda: rng.randrange(0, 100) < share, lambda count: rng.randrange(0, count + 1))

    def rot(self, path: str, offset: int, mask: int = 0xFF) -> None:
        """Flip bits of a byte, durably and without any error."""
        inode = self._names[path]
        inode.data[offset] ^= mask
        inode.durable[offset] ^= mask

    def size(self, path: str) -> int:
        """How long a file is."""
        return len(self._names[path].data)

    def durable_bytes(self, path: str) -> bytes:
        """What a file holds on the disk itself."""
        return bytes(self._names[path].durable)

    def wipe(self) -> None:
        """An empty disk was put in."""
        self._names.clear()
        self._durable_names.clear()
        self._renames.clear()
        self._dirs.clear()
        self._locked.clear()
        self.life += 1

    def copy(self) -> MemoryFileSystem:
        """An independent file system in the same state, as found after a clean stop."""
        other = MemoryFileSystem(self.bytes_max)
        twins: dict[int, _Inode] = {}
        for inode in self._all_inodes():
            twin = twins[id(inode)] = _Inode(0, inode.path)
            twin.data = bytearray(inode.data)
            twin.durable = bytearray(inode.durable)
            twin.unsynced = list(inode.unsynced)
        other._names = {name: twins[id(inode)] for name, inode in self._names.items()}
        other._durable_names = {name: twins[id(inode)] for name, inode in self._durable_names.items()}
        other._renames = [(kind, old, new, twins[id(inode)]) for kind, old, new, inode in self._renames]
        other._dirs = dict(self._dirs)
        return other

    def unsynced_names(self) -> int:
        """How many changes of names a crash could lose now."""
        return len(self._renames)

    def unsynced_sectors(self) -> int:
        """How many decisions a crash would take now."""
        return sum(
            len(list(_sectors(offset, len(data)))) for inode in self._all_inodes() for offset, data in inode.unsynced
        )


def _sectors(offset: int, size: int) -> list[tuple[int, int]]:
    """The pieces of a write, cut at sector borders, as (start, stop) within its data."""
    pieces = []
    at = 0
    while at < size:
        stop = min(size, at + SECTOR - (offset + at) % SECTOR)
        pieces.append((at, stop))
        at = stop
    return pieces


def _tear(durable: bytearray, offset: int, data: bytes, keep: Callable[[], bool]) -> None:
    for start, stop in _sectors(offset, len(data)):
        if not keep():
            continue
        end = offset + stop
        if end > len(durable):
            durable.extend(bytes(end - len(durable)))
        durable[offset + start : end] = data[start:stop]
