"""The disk of a replica: what blocks is done by a thread, and the log is written without one where the kernel can.

The thread is fed by a queue and answers on the event loop. Writes that waited together share one sync: that is
group commit. An error of the active segment is reported once and ends the thread; the process stops.

With a `Ring` a write of the log goes from the event loop straight to the kernel, past the thread. The store belongs to
one of the two at a time: the thread has it from the first job that it is handed until it says that it has done them
all, and what comes meanwhile waits, so that everything is done in the order in which it was queued. Only the next segment
is prepared beside the loop's writes: that touches nothing of theirs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from synod.base import Corruption, NoSpace, Slot, StorageError
from synod.replica import DiskWrite, LogRead, SnapshotInstall, SnapshotRead, SnapshotWrite, TransferWrite
from synod.storage import Composed, Store

ROOM_RETRY_S: Final = 0.5
"""With a full disk, so often it is tried whether there is room again."""

STOP_S: Final = 10.0
"""A disk that has not answered for so long, when the replica stops, is not waited for."""

Other = LogRead | SnapshotWrite | SnapshotRead | TransferWrite | SnapshotInstall


class _Prepare:
    """The next segment is behind."""

    __slots__ = ()


PREPARE: Final = _Prepare()


class _UnderWay:
    """What the ring writes: writes up to the number `last`, so many of them in so many bytes, to this file, since when."""

    __slots__ = ("began", "bytes", "last", "path", "writes")

    def __init__(self, last: int, writes: int, size: int, path: str) -> None:
        self.last = last
        self.writes = writes
        self.bytes = size
        self.path = path
        self.began = time.perf_counter()


class DiskEvents(Protocol):
    """What the disk thread reports; each is called on the event loop."""

    def persisted(self, write_id: int, seconds: float, writes: int) -> None:
        """Everything up to this write is durable; the sync took `seconds` for `writes` writes."""
        ...

    def log_read(self, request: LogRead, entries: list) -> None:  # type: ignore[type-arg]
        """Entries were read."""
        ...

    def snapshot_saved(self, slot: Slot, log_start: Slot) -> None:
        """Our own snapshot is durable."""
        ...

    def snapshot_read(self, request: SnapshotRead, data: bytes, total: int) -> None:
        """Bytes of a stored snapshot."""
        ...

    def transfer_written(self, slot: Slot, upto: int) -> None:
        """So many bytes of a peer's snapshot are here."""
        ...

    def snapshot_installed(self, slot: Slot, chunks: Iterator[bytes]) -> None:
        """A peer's snapshot is durable here; its chunks are read as they are taken."""
        ...

    def snapshot_refused(self, slot: Slot, upto: int, no_room: bool, reason: str) -> None:
        """A peer's snapshot is damaged, or there is no room for it; what had come is deleted.

        `upto`: the bytes that would have been here; 0 of one that was to be installed.
        """
        ...

    def room(self, has_room: bool, reason: str) -> None:
        """The disk is full, or has room again."""
        ...

    def failed(self, reason: str) -> None:
        """The disk failed: the replica must stop at once."""
        ...


class LogWriter(Protocol):
    """What the loop writes the log with; `storage.Ring` is one."""

    @property
    def room(self) -> int: ...

    def add(self, data: bytes | bytearray) -> None: ...

    def start(self, fd: int, offset: int) -> None: ...

    def result(self) -> int | None: ...

    def wait(self, timeout_s: float) -> int | None: ...

    def close(self) -> None: ...


class Disk:
    """Runs a `Store`.

    Args:
        store: opened; used here alone from `start` on.
        events: where to report.
        call: runs a function on the event loop, from any thread.
        ring: for writes without the thread; `written` is to be called when it is readable.
    """

    def __init__(
        self, store: Store, events: DiskEvents, call: Callable[..., object], ring: LogWriter | None = None
    ) -> None:
        self._store = store
        self._events = events
        self._call = call
        self._ring = ring
        self._queue: queue.SimpleQueue[DiskWrite | Other | _Prepare | None] = queue.SimpleQueue()
        # On the event loop, with a ring: what the thread was handed and has not done, and what waits for the ring.
        self._handed = 0
        self._preparing = False
        self._waiting: deque[DiskWrite | Other] = deque()
        self._under_way: _UnderWay | None = None
        # Of the thread: what it has done while a commit was under way, which it tells with the end of that.
        self._done = 0
        self._worker = threading.Thread(target=self._run, name="synod-disk", daemon=True)
        self._stopping = False
        self._full = False
        self._snapshot_dropped = False
        self._commit: Iterator[None] | None = None
        self.log_bytes = store.log_bytes

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def submit(self, job: DiskWrite | Other) -> None:
        """Queue a job; writes are made durable in the order in which they were queued."""
        if self._ring is None:
            self._hand(job)
            return
        self._waiting.append(job)
        self._go_on()

    def stop(self) -> None:
        """Finish what is queued, then end; waits for the disk, but not for one that hangs."""
        self._stopping = True
        ring, self._ring = self._ring, None
        if ring is not None:
            result = 0 if self._under_way is None else ring.wait(STOP_S)
            if result is not None and (self._under_way is None or self._settle(self._under_way, result)):
                self._hand_all()
        self._queue.put(None)
        if self._worker.is_alive():
            self._worker.join(timeout=STOP_S)
        if ring is not None:
            ring.close()

    # -- on the event loop -----------------------------------------------------------------------------------

    def _hand(self, job: DiskWrite | Other) -> None:
        self._handed += 1
        self._queue.put(job)

    def _go_on(self) -> None:
        """When nothing is under way: write what waits, as far as that is a single write; or hand it all to the thread."""
        ring = self._ring
        if ring is None or self._handed or self._under_way is not None or not self._waiting:
            return
        try:
            started = self._start(ring)
        except StorageError as failure:
            with contextlib.suppress(StorageError):
                self._store.composed(str(failure))  # it is dead: what it calls written is not there
            self._events.failed(str(failure))
            return
        if not started:
            self._hand_all()
        elif self._store.wants_preparing and not self._preparing:
            self._preparing = True
            self._queue.put(PREPARE)

    def _hand_all(self) -> None:
        while self._waiting:
            self._hand(self._waiting.popleft())

    def _start(self, ring: LogWriter) -> bool:
        """Group commit without a thread: what waits, and lies one behind the other in a segment, is one write.

        False when what comes first is none.
        """
        waiting = self._waiting
        first: Composed | None = None
        last = writes = size = 0
        while waiting:
            write = waiting[0]
            if not isinstance(write, DiskWrite):
                break
            group = self._store.compose(
                promised=write.promised,
                chosen_mark=write.chosen_mark,
                entries=write.entries,
                peers=write.peers,
                bytes_max=ring.room,
            )
            if group is None:
                break
            waiting.popleft()
            ring.add(group.data)
            first = first or group
            last, writes, size = write.id, writes + 1, size + len(group.data)
        if first is None:
            return False
        ring.start(first.fd, first.offset)
        self._under_way = _UnderWay(last, writes, size, first.path)
        return True

    def written(self) -> None:
        """The ring is readable: a write is durable, or has failed."""
        ring, under_way = self._ring, self._under_way
        if ring is None or under_way is None:
            return
        result = ring.result()
        if result is not None and self._settle(under_way, result):
            self._go_on()

    def _settle(self, written: _UnderWay, result: int) -> bool:
        """Tell what became of a write. False when it failed."""
        self._under_way = None
        failure = None
        if result < 0:
            failure = f"writing {written.path}: {os.strerror(-result)}; it may have lost what it held"
        elif result != written.bytes:
            failure = f"writing {written.path}: only {result} of {written.bytes} bytes were taken"
        try:
            self._store.composed(failure)
        except StorageError as failed:
            self._events.failed(str(failed))
            return False
        self._events.persisted(written.last, time.perf_counter() - written.began, written.writes)
        return True

    def _persisted(self, last: int, seconds: float, writes: int, done: int) -> None:
        self._handed -= done
        self._events.persisted(last, seconds, writes)
        self._go_on()

    def _returned(self, done: int) -> None:
        """The thread has done so many jobs; the store may be the loop's again.

        None while it commits a snapshot: what waits is for it then, since the log is written between the steps of that.
        """
        self._handed -= done
        if done:
            self._go_on()
        else:
            self._hand_all()

    def _prepared(self) -> None:
        self._preparing = False

    # -- in the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except StorageError as failure:
            self._call(self._events.failed, str(failure))
        except BaseException as failure:  # whatever it is, a replica without its disk must not go on
            self._call(self._events.failed, f"the disk thread died: {failure!r}")
            raise

    def _serve(self) -> None:
        self._prepare()
        while True:
            try:
                committing = self._commit is not None
                jobs = [self._queue.get(block=not committing, timeout=ROOM_RETRY_S if self._full else None)]
            except queue.Empty:
                jobs = []
            while not self._queue.empty():  # nobody else takes anything out
                jobs.append(self._queue.get())
            writes: list[DiskWrite] = []
            prepares = 0
            for job in jobs:
                if isinstance(job, DiskWrite):
                    writes.append(job)
                    continue
                if isinstance(job, _Prepare):
                    prepares += 1
                    continue
                self._write(writes)
                writes = []
                if job is None:
                    self._commit_whole()
                    return
                self._other(job)
            self._done += len(jobs) - prepares
            self._write(writes, at_last=True)
            self._commit_on()
            if self._done:
                self._call(self._returned, self._take_done())
            self._prepare()
            if prepares:
                self._call(self._prepared)

    def _take_done(self) -> int:
        """How many jobs are done that the loop does not know of yet; none while a commit is under way."""
        if self._commit is not None:
            return 0
        done, self._done = self._done, 0
        return done

    def _write(self, writes: list[DiskWrite], *, at_last: bool = False) -> None:
        """Append and sync once for all writes that waited; `at_last`: nothing else has come with them."""
        if not writes:
            return
        began = time.perf_counter()
        for write in writes:
            self._append(write)
        self._store.sync()
        # Together: what the loop does upon this is to find the store its own again.
        done = self._take_done() if at_last else 0
        self._call(self._persisted, writes[-1].id, time.perf_counter() - began, len(writes), done)

    def _append(self, write: DiskWrite) -> None:
        while True:
            try:
                self._store.append(
                    promised=write.promised, chosen_mark=write.chosen_mark, entries=write.entries, peers=write.peers
                )
            except NoSpace as full:
                if self._commit is not None:
                    self._commit_whole()  # it deletes what is outdated, or itself: there may be room then
                    continue
                # Nothing was written, and nothing that rests on it has left: wait for room.
                self._say_room(has_room=False, reason=str(full))
                if self._stopping:
                    raise
                time.sleep(ROOM_RETRY_S)
            else:
                return

    def _prepare(self) -> None:
        try:
            self._store.prepare()
        except NoSpace as full:
            if self._commit is not None:
                return  # which ends by deleting what is outdated: it is tried again after each step
            self._say_room(has_room=False, reason=str(full))
        else:
            self._say_room(has_room=True, reason="")
        self.log_bytes = self._store.log_bytes

    def _say_room(self, *, has_room: bool, reason: str) -> None:
        if self._full == has_room:
            self._full = not has_room
            self._call(self._events.room, has_room, reason)

    def _other(self, job: Other) -> None:
        store, events = self._store, self._events
        if not isinstance(job, LogRead):
            self._commit_whole()
        match job:
            case LogRead():
                self._call(events.log_read, job, store.read(job.from_slot, job.bytes_max))
            case SnapshotWrite(slot, chunk, first, last):
                self._snapshot(slot, chunk, first=first, last=last)
            case SnapshotRead():
                self._call(events.snapshot_read, job, *store.snapshot_read(job.slot, job.offset, job.bytes_max))
            case TransferWrite() | SnapshotInstall():
                try:
                    self._transfer(job)
                except (Corruption, NoSpace) as failure:
                    store.transfer_abort()
                    upto = job.offset + len(job.data) if isinstance(job, TransferWrite) else 0
                    no_room = isinstance(failure, NoSpace)
                    self._call(events.snapshot_refused, job.slot, upto, no_room, str(failure))

    def _transfer(self, job: TransferWrite | SnapshotInstall) -> None:
        store, events = self._store, self._events
        if isinstance(job, TransferWrite):
            store.transfer_write(job.slot, job.offset, job.data)
            self._call(events.transfer_written, job.slot, job.offset + len(job.data))
        else:
            store.transfer_install(job.slot, promised=job.promised)
            self._call(events.snapshot_installed, job.slot, store.snapshot_chunks())

    def _snapshot(self, slot: Slot, chunk: bytes, *, first: bool, last: bool) -> None:
        store = self._store
        try:
            if first:
                self._snapshot_dropped = False
                store.snapshot_begin(slot)
            if not self._snapshot_dropped:
                store.snapshot_write(chunk)
        except NoSpace as full:
            self._drop_snapshot(full)
        if last:
            self._commit = iter(()) if self._snapshot_dropped else store.snapshot_commit_steps()

    def _commit_on(self) -> None:
        """One step of the commit of a snapshot, if one is under way: the log is written between them."""
        if self._commit is None:
            return
        try:
            next(self._commit)
        except NoSpace as full:
            self._drop_snapshot(full)
        except StopIteration:
            pass
        else:
            return
        self._commit = None
        self._call(self._events.snapshot_saved, self._store.snapshot_slot, self._store.log_start)

    def _commit_whole(self) -> None:
        while self._commit is not None:
            self._commit_on()

    def _drop_snapshot(self, full: NoSpace) -> None:
        """A snapshot is a convenience; the log is not. Give the room back and try when the log grows on.

        The walk goes on and its other chunks still come: they are for nobody.
        """
        self._snapshot_dropped = True
        self._store.snapshot_abort()
        self._say_room(has_room=False, reason=str(full))
