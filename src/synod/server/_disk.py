"""The disk thread: the one place where a replica blocks.

It is fed by a queue and answers on the event loop. Writes that waited together share one sync: that is
group commit. An error of the active segment is reported once and ends the thread; the process stops.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from synod.base import Corruption, NoSpace, Slot, StorageError
from synod.replica import DiskWrite, LogRead, SnapshotInstall, SnapshotRead, SnapshotWrite, TransferWrite
from synod.storage import Store

ROOM_RETRY_S: Final = 0.5
"""With a full disk, so often it is tried whether there is room again."""

Other = LogRead | SnapshotWrite | SnapshotRead | TransferWrite | SnapshotInstall
Job = DiskWrite | Other | None


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


class DiskThread:
    """Runs a `Store`.

    Args:
        store: opened; used by this thread alone from `start` on.
        events: where to report.
        call: runs a function on the event loop, from any thread.
    """

    def __init__(self, store: Store, events: DiskEvents, call: Callable[..., object]) -> None:
        self._store = store
        self._events = events
        self._call = call
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._run, name="synod-disk", daemon=True)
        self._stopping = False
        self._full = False
        self._snapshot_dropped = False
        self._commit: Iterator[None] | None = None
        self.log_bytes = store.log_bytes

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def submit(self, job: Job) -> None:
        """Queue a job; writes are made durable in the order in which they were queued."""
        self._queue.put(job)

    def stop(self) -> None:
        """Finish what is queued, then end; waits for the thread."""
        self._stopping = True
        self._queue.put(None)
        if self._worker.is_alive():
            self._worker.join(timeout=10)

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
                self._commit_on()
                self._prepare()
                continue
            while not self._queue.empty():  # nobody else takes anything out
                jobs.append(self._queue.get())
            writes: list[DiskWrite] = []
            for job in jobs:
                if isinstance(job, DiskWrite):
                    writes.append(job)
                    continue
                self._write(writes)
                writes = []
                if job is None:
                    self._commit_whole()
                    return
                self._other(job)
            self._write(writes)
            self._commit_on()
            self._prepare()

    def _write(self, writes: list[DiskWrite]) -> None:
        """Append and sync once for all writes that waited."""
        if not writes:
            return
        began = time.perf_counter()
        for write in writes:
            self._append(write)
        self._store.sync()
        self._call(self._events.persisted, writes[-1].id, time.perf_counter() - began, len(writes))

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
