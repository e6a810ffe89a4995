"""Writes that are durable when they are done, without a thread: Linux's io_uring and direct I/O.

A thread that writes and syncs costs three waits for the interpreter and two wake-ups each time, and the kernel's cache a
copy and a look through its dirty pages. Here one system call hands a write over, past the cache, and the kernel makes the
descriptor readable when the bytes *and the device's own cache* are on the disk (`RWF_DSYNC`): the same promise as pwrite
and fdatasync, at half of the time (docs/PERFORMANCE.md has the figures). What would have to wait is taken by a thread of
the kernel: the caller never does.

One write is under way at a time. So there is nothing to pick from the completions, and no order of memory to think of:
the system calls themselves are the only place where both sides meet. `open` tries it all once; where something is missing
(another system, an old kernel, a container that forbids it, a file system without direct I/O) there is no ring, and
whoever wanted one syncs in a thread.

Ref: io_uring_setup(2), io_uring_enter(2); Axboe 2019, "Efficient IO with io_uring".
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
import sys
import time
from typing import Final

from synod.base import StorageError

from ._files import RealFile

ALIGNMENT: Final = 4096
"""Direct I/O takes whole blocks at such offsets, out of memory that is aligned as well."""

BUFFER_BYTES: Final = 2 << 20
"""What one write can hold. Memory that was never written to takes none."""

PROBE_S: Final = 1.0
"""A disk that takes longer than this for one block when the replica starts is left to the thread."""

_SETUP: Final = 425
_ENTER: Final = 426
_PARAMETERS_BYTES: Final = 120
_ENTRIES: Final = 8
_FEATURE_SINGLE_MMAP: Final = 1
_AT_SQES: Final = 0x10000000
_MAP_POPULATE: Final = 0x8000

_OP_WRITE: Final = 23
_RWF_DSYNC: Final = 2
_ENTRY: Final = struct.Struct("=BBHiQQIIQQQQ")
"""opcode, flags, priority, descriptor, offset, address, length, RWF flags, our number, and what is zero here"""
_COMPLETION: Final = struct.Struct("=QiI")
_OFFSETS: Final = struct.Struct("=8IQ")
"""Of a ring: head, tail, mask, entries; then flags, dropped and array of the one, overflow and entries of the other."""

_BUSY: Final = (errno.EAGAIN, errno.EBUSY, errno.EINTR)
_TRIES_MAX: Final = 1_000


class Ring:
    """One write at a time. Made by `open`."""

    def __init__(self) -> None:
        """Ask the kernel for a ring.

        Raises:
            OSError: it gives none.
        """
        import ctypes  # a Python without it runs a replica all the same

        library = ctypes.CDLL(None, use_errno=True)
        self._syscall = library.syscall
        self._syscall.restype = ctypes.c_long
        self._errno = ctypes.get_errno
        parameters = bytearray(_PARAMETERS_BYTES)
        given = (ctypes.c_char * _PARAMETERS_BYTES).from_buffer(parameters)
        self._fd = int(self._syscall(_SETUP, _ENTRIES, given))
        if self._fd < 0:
            raise OSError(self._errno(), "io_uring_setup")
        try:
            self._map(parameters)
            self._buffer = mmap.mmap(-1, BUFFER_BYTES)
        except BaseException:
            os.close(self._fd)
            raise
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._filled = 0

    def _map(self, parameters: bytearray) -> None:
        """Map what the kernel shares with us."""
        entries, completions, _flags, _cpu, _idle, features = struct.unpack_from("=6I", parameters)
        sq = _OFFSETS.unpack_from(parameters, 40)
        cq = _OFFSETS.unpack_from(parameters, 80)
        if not features & _FEATURE_SINGLE_MMAP:
            raise OSError(errno.ENOSYS, "this kernel's io_uring is of the first kind")
        flags = mmap.MAP_SHARED | _MAP_POPULATE
        size = max(sq[6] + 4 * entries, cq[5] + _COMPLETION.size * completions)
        self._rings = mmap.mmap(self._fd, size, flags)
        self._entries = mmap.mmap(self._fd, _ENTRY.size * entries, flags, offset=_AT_SQES)
        # Heads and tails are read and written whole, as four bytes that are aligned.
        self._words = memoryview(self._rings).cast("I")
        self._sq_tail, self._sq_mask = sq[1] // 4, entries - 1
        self._cq_head, self._cq_tail, self._cq_mask, self._completions = cq[0] // 4, cq[1] // 4, completions - 1, cq[5]
        for index in range(entries):
            self._words[sq[6] // 4 + index] = index

    @classmethod
    def open(cls, directory: str) -> Ring | None:
        """A ring for files in a directory, after a first write there; None where one of the two cannot be had."""
        if sys.platform != "linux":
            return None
        try:
            ring = cls()
        except (ImportError, OSError, ValueError, AttributeError):
            return None
        try:
            file = RealFile(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), directory)
            try:
                ring.add(bytes(ALIGNMENT))
                ring.start(file.direct(), 0)
                works = ring.wait(PROBE_S) == ALIGNMENT
            finally:
                file.close()
        except (OSError, StorageError):
            works = False
        if not works:
            ring.close()
            return None
        return ring

    def fileno(self) -> int:
        """What becomes readable when the write is done."""
        return self._fd

    @property
    def room(self) -> int:
        """Bytes that `add` still takes."""
        return BUFFER_BYTES - self._filled

    def add(self, data: bytes | bytearray) -> None:
        """Bytes for the next write, behind those that were added before; whole blocks."""
        end = self._filled + len(data)
        self._buffer[self._filled : end] = data
        self._filled = end

    def start(self, fd: int, offset: int) -> None:
        """Write what was added to a descriptor that was opened for direct I/O; the one before must be done.

        Raises:
            StorageError: the kernel does not take it; nothing was written.
        """
        tail = self._words[self._sq_tail]
        at = (tail & self._sq_mask) * _ENTRY.size
        _ENTRY.pack_into(
            self._entries, at, _OP_WRITE, 0, 0, fd, offset, self._address, self._filled, _RWF_DSYNC, 0, 0, 0, 0
        )
        self._words[self._sq_tail] = (tail + 1) & 0xFFFFFFFF
        self._filled = 0
        for _ in range(_TRIES_MAX):
            if self._syscall(_ENTER, self._fd, 1, 0, 0, None, 0) == 1:
                return
            if self._errno() not in _BUSY:
                break
        self._words[self._sq_tail] = tail  # it was not taken: else the next one would take its place
        raise StorageError(f"the kernel takes no write to the log: {os.strerror(self._errno())}")

    def result(self) -> int | None:
        """What became of the write: its bytes, or an error number below zero; None while it is under way."""
        head = self._words[self._cq_head]
        if head == self._words[self._cq_tail]:
            return None
        result: int = _COMPLETION.unpack_from(
            self._rings, self._completions + (head & self._cq_mask) * _COMPLETION.size
        )[1]
        self._words[self._cq_head] = (head + 1) & 0xFFFFFFFF
        return result

    def wait(self, timeout_s: float) -> int | None:
        """The same, after so long at most."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll(0)  # what the kernel has written is seen after a system call
        until = time.monotonic() + timeout_s
        while (result := self.result()) is None and (left := until - time.monotonic()) > 0:
            poll.poll(1_000 * left)
        return result

    def close(self) -> None:
        """Let go of it. A write that is under way may or may not reach the disk.

        The maps stay until nobody knows this object any more: the disk may still read what it was to write.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
