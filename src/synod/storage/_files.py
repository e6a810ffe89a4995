"""The small file-system interface that everything durable goes through, and the real one.

Small on purpose: what is not here cannot be forgotten by the simulated one (`_memory`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
from collections import deque
from pathlib import Path
from typing import Final, Protocol

from synod.base import DataDirError, NoSpace, StorageError

ZEROS: Final = bytes(1 << 20)

UNLINK_BYTES: Final = 1 << 20
"""A file that is larger takes more than a moment to be deleted: it goes in steps of this size."""

UNLINK_GAP_S: Final = 0.01
"""From one such step to the next. A disk that is told of hundreds of megabytes at once that they are free, as when three
replicas' snapshots end together, lets every sync wait for some ten milliseconds."""


class File(Protocol):
    """An open file of a fixed size; offsets and sizes in bytes."""

    def pread(self, offset: int, size: int) -> bytes:
        """Read; shorter only at the end of the file."""
        ...

    def pwrite(self, offset: int, data: bytes | bytearray) -> None:
        """Write all of it, not durably yet."""
        ...

    def sync(self) -> None:
        """Make every write so far durable (fdatasync). After an error nothing may be assumed, and it is not retried."""
        ...

    def direct(self) -> int:
        """A descriptor for writes past the kernel's cache, for a `Ring`; -1 where there is none. Closed with the file."""
        ...

    def uncache(self, offset: int, size: int) -> None:
        """These bytes are durable, and hardly anybody will read them soon: memory need not hold them. A hint."""
        ...

    def size(self) -> int:
        """The file's length."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class FileSystem(Protocol):
    """Files by their path; a name is durable only after `sync_dir` of its directory."""

    def make_dir(self, path: str) -> None:
        """Make a directory with its parents, durably; nothing when it is there."""
        ...

    def list_dir(self, path: str) -> list[str]: ...

    def exists(self, path: str) -> bool: ...

    def create(self, path: str, size: int) -> File:
        """A new file of `size` zero bytes, really written and not only reserved. Raises NoSpace."""
        ...

    def open(self, path: str) -> File: ...

    def append_new(self, path: str) -> File:
        """A new empty file that may grow. Raises NoSpace from its `pwrite`."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, path: str, *, at_once: bool = False) -> None:
        """Delete a file. `at_once`: its room is there when this returns, which takes longer for a large one."""
        ...

    def sync_dir(self, path: str) -> None: ...

    def lock(self, path: str) -> File:
        """Take the lock that stands for the directory. Raises DataDirError when a running process has it."""
        ...


def join(directory: str, name: str) -> str:
    """A path below a directory."""
    return f"{directory}/{name}"


def read_all(fs: FileSystem, path: str) -> bytes:
    """A whole small file."""
    file = fs.open(path)
    try:
        return file.pread(0, file.size())
    finally:
        file.close()


def write_atomically(fs: FileSystem, directory: str, name: str, data: bytes) -> None:
    """Replace a small file so that a crash leaves either the old or the new content."""
    temporary = join(directory, name + ".tmp")
    if fs.exists(temporary):
        fs.unlink(temporary)
    file = fs.append_new(temporary)
    try:
        file.pwrite(0, data)
        file.sync()
    finally:
        file.close()
    fs.rename(temporary, join(directory, name))
    fs.sync_dir(directory)


def _translate(failure: OSError, what: str) -> StorageError:
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: no space left on the device; free some, what is acknowledged is safe")
    return StorageError(f"{what}: {failure.strerror or failure}")


def _advice(failure: OSError) -> str:
    denied = failure.errno in (errno.EACCES, errno.EPERM)
    return "; run the replica as the owner of the directory" if denied else ""


class RealFile:
    """A file of the operating system."""

    __slots__ = ("_direct", "_fd", "_path")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._direct = -1

    def pread(self, offset: int, size: int) -> bytes:
        """See `File`."""
        parts = []
        try:
            while size > 0:
                part = os.pread(self._fd, size, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                size -= len(part)
        except OSError as failure:
            raise _translate(failure, f"reading {self._path}") from failure
        return b"".join(parts)

    def pwrite(self, offset: int, data: bytes | bytearray) -> None:
        """See `File`."""
        try:
            done = os.pwrite(self._fd, data, offset)
            while done < len(data):  # hardly ever
                done += os.pwrite(self._fd, memoryview(data)[done:], offset + done)
        except OSError as failure:
            raise _translate(failure, f"writing {self._path}") from failure

    def sync(self) -> None:
        """See `File`."""
        try:
            os.fdatasync(self._fd)
        except OSError as failure:
            raise StorageError(f"syncing {self._path}: {failure.strerror}; it may have lost what it held") from failure

    def direct(self) -> int:
        """See `File`."""
        if self._direct < 0:
            # By the descriptor, since the file may have another name by now.
            with contextlib.suppress(OSError, AttributeError):
                self._direct = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        return self._direct

    def uncache(self, offset: int, size: int) -> None:
        """See `File`."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)

    def size(self) -> int:
        """See `File`."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """See `File`."""
        if self._direct >= 0:
            os.close(self._direct)
            self._direct = -1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Outgoing:
    """Files that have no name any more, and give their blocks back one after the other, in steps.

    What is left when the process ends is given back by the kernel.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()
        self._runs = False
        self._hurried = threading.Event()

    def add(self, fd: int) -> None:
        """Take over a descriptor that may be written to."""
        with self._lock:
            self._waiting.append(fd)
            if self._runs:
                return
            self._runs = True
        try:
            threading.Thread(target=self._run, name="synod-unlink", daemon=True).start()
        except RuntimeError:  # the system has no thread for us: the caller waits for the disk
            self._hurried.set()
            self._run()

    def hurry(self) -> None:
        """Somebody wants the room: what is still to go goes at once."""
        with self._lock:
            if self._runs:
                self._hurried.set()

    def _run(self) -> None:
        while (fd := self._next()) >= 0:
            with contextlib.suppress(OSError):  # what does not go in steps goes when it is closed
                if _is_ours_alone(fd):
                    self._shrink(fd)
            with contextlib.suppress(OSError):
                os.close(fd)

    def _next(self) -> int:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._runs = False
            self._hurried.clear()
            return -1

    def _shrink(self, fd: int) -> None:
        for size in range((os.fstat(fd).st_size - 1) // UNLINK_BYTES * UNLINK_BYTES, 0, -UNLINK_BYTES):
            if self._hurried.is_set():
                return
            os.ftruncate(fd, size)
            self._hurried.wait(UNLINK_GAP_S)


def _is_ours_alone(fd: int) -> bool:
    """Whether nobody else has the file open, nor another name for it: who has keeps all of it."""
    try:
        if os.fstat(fd).st_nlink:
            return False
        # The kernel grants a lease only while there are no other users, and signals the next one: by default with a
        # SIGIO, which would end the process. A SIGURG does nothing to who does not ask for it.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except (OSError, AttributeError):  # somebody has it, or there are no leases here
        return False
    return True


class RealFileSystem:
    """The operating system's files.

    Args:
        read_only: for who only looks: files are opened for reading, and a lock keeps a replica from starting
            meanwhile, without a trace.
    """

    def __init__(self, *, read_only: bool = False) -> None:
        self._read_only = read_only
        self._outgoing = _Outgoing()

    def make_dir(self, path: str) -> None:
        """See `FileSystem`; only its owner can enter it."""
        made = Path(path)
        try:
            new = [p for p in (made, *made.parents) if not p.exists()]
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as failure:
            raise DataDirError(f"the data directory {path} cannot be made: {failure.strerror}") from failure
        # A directory whose name a power loss takes back is one that somebody formats again, without its promises.
        for directory in new:
            self.sync_dir(str(directory.parent))

    def list_dir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 -- names, not paths
        except OSError as failure:
            raise DataDirError(f"the data directory {path} cannot be read: {failure.strerror}") from failure

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of that name."""
        try:
            return Path(path).exists()
        except OSError as failure:
            raise DataDirError(f"{path} cannot be looked at: {failure.strerror}{_advice(failure)}") from failure

    def create(self, path: str, size: int) -> File:
        """See `FileSystem`."""
        file = self.append_new(path)
        try:
            # Written zeros, not fallocate: a block that was only reserved costs a metadata write at its first
            # use, which makes an fdatasync twice as slow (measured).
            for at in range(0, size, len(ZEROS)):
                file.pwrite(at, ZEROS[: size - at])
            file.sync()
        except StorageError:
            file.close()
            Path(path).unlink(missing_ok=True)
            self._outgoing.hurry()
            raise
        return file

    def open(self, path: str) -> File:
        """See `FileSystem`."""
        try:
            return RealFile(os.open(path, (os.O_RDONLY if self._read_only else os.O_RDWR) | os.O_CLOEXEC), path)
        except OSError as failure:
            raise DataDirError(f"{path} cannot be opened: {failure.strerror}{_advice(failure)}") from failure

    def append_new(self, path: str) -> File:
        """See `FileSystem`."""
        try:
            return RealFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), path)
        except OSError as failure:
            if failure.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _translate(failure, f"creating {path}") from failure
            raise DataDirError(f"{path} cannot be created: {failure.strerror}{_advice(failure)}") from failure

    def rename(self, old: str, new: str) -> None:
        """See `FileSystem`."""
        try:
            os.replace(old, new)  # noqa: PTH105 -- strings throughout
        except OSError as failure:
            raise _translate(failure, f"renaming {old}") from failure

    def unlink(self, path: str, *, at_once: bool = False) -> None:
        """See `FileSystem`.

        The name goes at once; the blocks of a large file are given back beside the caller, who has a log to write.
        """
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.unlink(path)  # noqa: PTH108 -- strings throughout
            large = os.fstat(fd).st_size > UNLINK_BYTES
        except OSError as failure:
            if fd >= 0:
                os.close(fd)
            raise _translate(failure, f"deleting {path}") from failure
        if large and not at_once:
            self._outgoing.add(fd)
            return
        if at_once:
            self._outgoing.hurry()
        os.close(fd)

    def sync_dir(self, path: str) -> None:
        """See `FileSystem`."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as failure:
            raise _translate(failure, f"syncing the directory {path}") from failure

    def lock(self, path: str) -> File:
        """See `FileSystem`."""
        try:
            if self._read_only and not Path(path).exists():
                return RealFile(-1, path)  # no replica has ever run here
            fd = os.open(path, os.O_CLOEXEC | (os.O_RDONLY if self._read_only else os.O_RDWR | os.O_CREAT), 0o600)
        except OSError as failure:
            raise DataDirError(
                f"the data directory of {path} is not writable: {failure.strerror}{_advice(failure)}"
            ) from failure
        try:
            fcntl.flock(fd, fcntl.LOCK_NB | (fcntl.LOCK_SH if self._read_only else fcntl.LOCK_EX))
        except OSError as failure:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise DataDirError(
                f"the data directory of {path} is in use by a running process (pid {holder or 'unknown'}); "
                f"stop it first"
            ) from failure
        if self._read_only:
            return RealFile(fd, path)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        except OSError as failure:
            os.close(fd)
            raise _translate(failure, f"writing {path}") from failure
        return RealFile(fd, path)
