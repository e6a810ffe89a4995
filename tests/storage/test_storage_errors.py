"""Directories that must not be used, disks that fail and disks that are full: each is said in a sentence."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from storage_world import (
    BLOCK,
    CELL,
    CONFIGURATION,
    DIRECTORY,
    IDENTITY,
    SEGMENT_BYTES,
    Group,
    content,
    cut_power,
    entry,
    formatted,
    memory,
    open_store,
    path_of,
    reopen,
    snapshot_of,
    write_snapshot,
)

from synod.base import Ballot, Corruption, DataDirError, NoSpace, StorageError
from synod.storage import Identity, MemoryFileSystem, RealFileSystem, Store, format_directory
from synod.storage._files import UNLINK_BYTES, UNLINK_GAP_S
from synod.storage._log import PREPARE_STEP_BYTES, PREPARED_NAME

OTHER_CELL = "f" * 32


def write(store: Store, slot: int, round_: int = 1) -> None:
    Group(Ballot(round_, 1), 0, (entry(slot, round_),), b"p").append_to(store)
    store.sync()


# -- directories that must not be used ------------------------------------------------------------------------------


def test_a_directory_that_was_never_formatted_is_refused() -> None:
    """An empty directory is not a replica that has promised nothing: somebody says so, once, with `synod format`."""
    fs = MemoryFileSystem()
    with pytest.raises(DataDirError, match=rf"{DIRECTORY} does not exist; `synod format CONFIG`"):
        open_store(fs)
    fs.make_dir(DIRECTORY)
    with pytest.raises(DataDirError, match=rf"{DIRECTORY} is not formatted; `synod format CONFIG`"):
        open_store(fs)
    assert fs.list_dir(DIRECTORY) == []


def test_the_directory_of_another_replica_or_cell_is_refused() -> None:
    """A misspelled data_dir must not make one replica speak with the promises of another."""
    fs = memory()
    before = fs.operations
    with pytest.raises(DataDirError, match="belongs to replica 2, the config is that of replica 3"):
        Store.open(fs, DIRECTORY, cell_id=CELL, replica_id=3)
    with pytest.raises(DataDirError, match=f"belongs to the cell {CELL}, the config names the cell {OTHER_CELL}"):
        Store.open(fs, DIRECTORY, cell_id=OTHER_CELL, replica_id=2)
    assert fs.operations == before
    assert open_store(fs).boot == 1


def test_a_directory_is_formatted_once() -> None:
    """Formatting again would forget every promise; formatting something else would destroy it."""
    fs = memory()
    with pytest.raises(DataDirError, match="is formatted already"):
        format_directory(fs, DIRECTORY, Identity(3, 1, CONFIGURATION))
    assert open_store(fs).identity == IDENTITY
    fs = MemoryFileSystem()
    fs.make_dir(DIRECTORY)
    fs.append_new(f"{DIRECTORY}/precious.txt")
    with pytest.raises(DataDirError, match=r"is not empty \(precious\.txt is in it\)"):
        formatted(fs)
    assert fs.list_dir(DIRECTORY) == ["precious.txt"]


def test_the_configuration_file_may_lie_in_the_directory_that_is_formatted() -> None:
    """`synod.toml` beside the data, and what an interrupted format left, are no obstacle."""
    fs = MemoryFileSystem()
    fs.make_dir(DIRECTORY)
    for name in ("synod.toml", "identity.json.tmp"):
        fs.append_new(f"{DIRECTORY}/{name}")
    formatted(fs)
    assert open_store(fs).identity == IDENTITY


def _rewrite(fs: MemoryFileSystem, path: str, data: bytes) -> None:
    fs.unlink(path)
    file = fs.append_new(path)
    file.pwrite(0, data)
    file.sync()
    fs.sync_dir(DIRECTORY)


def test_an_identity_of_a_newer_version_is_refused() -> None:
    """An older synod does not guess what a newer one has written."""
    fs = memory()
    path = f"{DIRECTORY}/identity.json"
    text = content(fs, path).partition(b"\n")[0].replace(b'"format": 1', b'"format": 2')
    _rewrite(fs, path, text + f"\n{zlib.crc32(text):08x}\n".encode())
    with pytest.raises(DataDirError, match=r"written by a newer synod \(format 2, this one knows 1\)"):
        open_store(fs)


def test_a_log_of_a_newer_version_is_refused() -> None:
    """A segment whose header has another version is not read, whatever its groups look like."""
    fs = memory()
    store = open_store(fs)
    write(store, 1)
    store.close()
    path = path_of(fs, "log-")
    data = bytearray(content(fs, path))
    data[8:10] = b"\0\2"
    data[88:92] = struct.pack(">I", zlib.crc32(data[:88]))
    _rewrite(fs, path, bytes(data))
    with pytest.raises(Corruption, match=r"log-.*\.seg was written by a newer synod \(log format 2\)"):
        open_store(fs)


@pytest.mark.parametrize(
    ("place", "new", "said"),
    [(8, b"\0\2", r"newer synod \(snapshot format 2\)"), (10, bytes.fromhex(OTHER_CELL), "belongs to the cell ffff")],
)
def test_a_snapshot_of_a_newer_version_or_another_cell_is_refused(place: int, new: bytes, said: str) -> None:
    """The same for the state that a replica starts from."""
    fs = memory()
    store = open_store(fs)
    write_snapshot(store, 1)
    store.close()
    path = path_of(fs, "snapshot-")
    data = bytearray(content(fs, path))
    data[place : place + len(new)] = new
    data[34:38] = struct.pack(">I", zlib.crc32(data[:34]))
    _rewrite(fs, path, bytes(data))
    with pytest.raises(Corruption, match=said):
        open_store(fs)


def test_a_failed_start_leaves_the_directory_free() -> None:
    """Whoever repairs what the first start complained about can start again, also in the same process."""
    fs = memory()
    store = open_store(fs)
    write(store, 1)
    store.close()
    path = path_of(fs, "log-")
    fs.rot(path, 0)
    with pytest.raises(Corruption):
        open_store(fs)
    fs.rot(path, 0)
    assert open_store(fs).recovered.entries == (entry(1),)


def test_two_stores_in_one_process_do_not_share_a_directory() -> None:
    """The lock of the file system in memory is one too."""
    fs = memory()
    store = open_store(fs)
    with pytest.raises(DataDirError, match="in use by a running process"):
        open_store(fs)
    store.close()
    open_store(fs)


# -- the real file system ------------------------------------------------------------------------------------------

HOLD = """
import sys
from synod.storage._log import PREPARED_NAME, PREPARE_STEP_BYTES
from synod.storage import RealFileSystem, Store
store = Store.open(RealFileSystem(), sys.argv[1], cell_id=sys.argv[2], replica_id=2)
print(store.boot, flush=True)
sys.stdin.read()
"""


def _child(code: str, directory: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory), CELL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_a_directory_of_a_running_process_is_locked_and_is_free_when_that_was_killed(tmp_path: Path) -> None:
    """Two processes never write one log; the lock dies with its holder, however that dies."""
    fs = RealFileSystem()
    formatted(fs, str(tmp_path / "data"))
    with _child(HOLD, tmp_path / "data") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        with pytest.raises(DataDirError, match=rf"in use by a running process \(pid {child.pid}\); stop it first"):
            open_store(fs, str(tmp_path / "data"))
        child.kill()
    store = open_store(fs, str(tmp_path / "data"))
    assert store.boot == 2, "the refused start is not counted"
    store.close()


TRY = """
import os, sys
from synod.base import DataDirError
from synod.storage._log import PREPARED_NAME, PREPARE_STEP_BYTES
from synod.storage import RealFileSystem, Store
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    Store.open(RealFileSystem(), sys.argv[1], cell_id=sys.argv[2], replica_id=2)
except DataDirError as refused:
    print(refused)
"""


@pytest.mark.parametrize(
    ("mode", "file_mode", "said"),
    [
        (0o555, 0o666, "is not writable: Permission denied"),
        pytest.param(
            0o755, 0o600, "identity.json cannot be opened: Permission denied", marks=pytest.mark.requires("root")
        ),
        pytest.param(
            0o700, 0o600, "identity.json cannot be looked at: Permission denied", marks=pytest.mark.requires("root")
        ),
    ],
)
def test_a_directory_that_cannot_be_written_is_refused_with_a_sentence(mode: int, file_mode: int, said: str) -> None:
    """A start as the wrong user says so, instead of a traceback."""
    # Not below pytest's own temporary directory, which another user may not enter.
    with tempfile.TemporaryDirectory(prefix="synod-test-") as place:
        Path(place).chmod(0o755)
        directory = Path(place) / "data"
        formatted(RealFileSystem(), str(directory))
        (directory / "identity.json").chmod(file_mode)
        directory.chmod(mode)
        try:
            with _child(TRY, directory) as child:
                output, _ = child.communicate(timeout=60)
        finally:
            directory.chmod(0o700)
    assert f"{said}; run the replica as the owner of the directory\n" in output
    assert str(directory) in output
    assert "Traceback" not in output


def test_a_new_directory_and_its_parents_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A formatted directory whose name vanishes with the power would be formatted again, without its promises."""
    synced: list[str] = []
    fs = RealFileSystem()
    real = fs.sync_dir
    monkeypatch.setattr(RealFileSystem, "sync_dir", lambda _, path: (synced.append(path), real(path))[1])
    formatted(fs, str(tmp_path / "a" / "b"))
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= set(synced)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


SYSTEM_CALLS: dict[str, tuple[str, Callable[[RealFileSystem, str], object]]] = {
    "pread": ("reading", lambda fs, path: fs.open(path).pread(0, 10)),
    "pwrite": ("writing", lambda fs, path: fs.open(path).pwrite(0, b"x")),
    "fdatasync": ("syncing", lambda fs, path: fs.open(path).sync()),
    "replace": ("renaming", lambda fs, path: fs.rename(path, path + "2")),
    "unlink": ("deleting", lambda fs, path: fs.unlink(path)),
    "fsync": ("syncing the directory", lambda fs, path: fs.sync_dir(str(Path(path).parent))),
    "ftruncate": ("writing", lambda fs, path: fs.lock(path)),
}


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_an_error_of_the_system_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whatever the kernel says becomes a StorageError with a sentence, and no raw OSError."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    what, use = SYSTEM_CALLS[call]

    def fail(*arguments: object, **more: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match=f"{what} .*Input/output error") as caught:
        use(RealFileSystem(), str(path))
    assert str(tmp_path) in str(caught.value)
    assert not isinstance(caught.value, NoSpace)


def test_a_file_that_cannot_be_deleted_is_not_left_open(
    tmp_path: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each further attempt would cost a descriptor more."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def fail(_path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    opened.clear()
    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", fail)
        with pytest.raises(StorageError, match="deleting"):
            RealFileSystem().unlink(str(path))
    assert len(opened) == 1
    demand_closed(opened)


def test_a_large_file_gives_its_room_back_at_once_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else somebody beside the caller does it, who may be late for what wants the room."""
    beside: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", lambda t: (beside.append(t.name), t.run()))
    for at_once in (True, False):
        path = tmp_path / "file"
        path.write_bytes(bytes(UNLINK_BYTES + 1))
        RealFileSystem().unlink(str(path), at_once=at_once)
        assert not path.exists()
        assert beside == ([] if at_once else ["synod-unlink"])


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The sizes to which files that were deleted shrink; that is done before `unlink` returns here."""
    with (tmp_path / "leased").open("w") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as failure:
            pytest.skip(f"the file system of {tmp_path} has no leases: {failure}")
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    sizes: list[int] = []
    real = os.ftruncate

    def shrink(fd: int, size: int) -> None:
        if threading.current_thread() is threading.main_thread():  # else it is what another test left
            sizes.append(size)
        real(fd, size)

    monkeypatch.setattr(threading.Thread, "start", lambda t: t.run())
    monkeypatch.setattr(os, "ftruncate", shrink)
    return sizes


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors of files that `os.open` opens."""
    found: list[int] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *arguments: (found.append(real(*arguments)), found[-1])[1])
    return found


def demand_closed(fds: list[int]) -> None:
    """Each of these descriptors is closed."""
    assert fds
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_large_file_gives_its_room_back_in_steps(
    tmp_path: Path, shrunk: list[int], opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told of all of it at once, a disk lets the syncs of the log wait; so there is time between two steps."""
    pauses: list[float | None] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _event, timeout=None: pauses.append(timeout))
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * UNLINK_BYTES + 1))
    opened.clear()
    RealFileSystem().unlink(str(path))
    assert shrunk == [3 * UNLINK_BYTES, 2 * UNLINK_BYTES, UNLINK_BYTES]
    assert pauses == [UNLINK_GAP_S] * 3
    demand_closed(opened)


@pytest.mark.parametrize("how", ["open", "another name"])
def test_a_deleted_file_that_somebody_else_has_keeps_what_is_in_it(
    how: str, tmp_path: Path, shrunk: list[int], opened: list[int]
) -> None:
    """A peer that fetches a snapshot, or a copy made with links: to shrink the file would spoil it."""
    path, other = tmp_path / "file", tmp_path / "other"
    content = bytes(range(256)) * (3 * UNLINK_BYTES // 256)
    path.write_bytes(content)
    if how == "another name":
        other.hardlink_to(path)
    with (other if how == "another name" else path).open("rb") as reader:
        opened.clear()
        RealFileSystem().unlink(str(path))
        assert reader.read() == content
    assert not path.exists()
    assert not shrunk
    demand_closed(opened)


def test_who_opens_a_deleted_file_that_shrinks_does_not_end_the_process(
    tmp_path: Path, shrunk: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scanner that was told of a file may open it without its name; the kernel signals that to who has a lease."""
    path = tmp_path / "file"
    path.write_bytes(bytes(UNLINK_BYTES + 1))
    told: list[int] = []
    meddled: list[int] = []
    real = fcntl.fcntl

    def meddle(fd: int, command: int, argument: int) -> int:
        result = real(fd, command, argument)
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK):
            meddled.append(fd)
            with contextlib.suppress(BlockingIOError):
                os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))
        return result

    monkeypatch.setattr(fcntl, "fcntl", meddle)
    before = signal.signal(signal.SIGIO, lambda number, _frame: told.append(number))
    try:
        RealFileSystem().unlink(str(path))
    finally:
        signal.signal(signal.SIGIO, before)
    assert len(meddled) == 1
    assert not told
    assert shrunk == [UNLINK_BYTES]


@pytest.mark.parametrize("wanted", ["by a deletion at once", "by a new segment"])
def test_what_is_still_to_go_goes_at_once_when_somebody_wants_the_room(
    wanted: str, tmp_path: Path, shrunk: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps would take seconds, of a disk that is full."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(bytes(4 * UNLINK_BYTES))
    second.write_bytes(b"small")
    fs = RealFileSystem()
    real = os.ftruncate

    def full(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def want(fd: int, size: int) -> None:
        real(fd, size)
        if wanted == "by a new segment":
            with pytest.raises(NoSpace):
                fs.create(str(tmp_path / "third"), BLOCK)
        else:
            fs.unlink(str(second), at_once=True)

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "ftruncate", want)
    fs.unlink(str(first))
    assert shrunk == [3 * UNLINK_BYTES], "and then it is closed"
    assert not first.exists()


def test_without_a_thread_the_caller_gives_the_room_back(
    tmp_path: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on threads is no reason for a replica to stop, nor to keep what it deleted."""
    path = tmp_path / "file"
    path.write_bytes(bytes(UNLINK_BYTES + 1))
    opened.clear()

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    RealFileSystem().unlink(str(path))
    assert not path.exists()
    demand_closed(opened)


def test_a_full_disk_while_a_segment_is_made_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room of a segment that could not be finished is given back."""
    real, room = os.pwrite, 3

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(NoSpace, match="no space left on the device"):
        RealFileSystem().create(str(tmp_path / "new"), 5 << 20)
    assert list(tmp_path.iterdir()) == []


# -- a disk that fails ---------------------------------------------------------------------------------------------


class Faults:
    """Fails chosen operations of a file system in memory, and counts what is tried after the first failure."""

    def __init__(self, fs: MemoryFileSystem, operation: str, end: str, error: type[StorageError] = StorageError):
        self.operation, self.end, self.error = operation, end, error
        self.failed = 0
        self.after: list[tuple[str, str]] = []
        fs.fail = self

    def __call__(self, operation: str, path: str) -> StorageError | None:
        if self.failed and operation != "read":
            self.after.append((operation, path))
        if operation == self.operation and path.endswith(self.end) and not self.failed:
            self.failed += 1
            return self.error(f"{path}: injected")
        return None


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("error", [StorageError, NoSpace])
def test_an_error_of_the_active_segment_ends_the_store_for_good(operation: str, error: type[StorageError]) -> None:
    """After a failed write or sync nothing more is written: a second sync would report success for lost pages.

    Ref: Rebello et al. 2020.
    """
    fs = memory()
    store = open_store(fs)
    write(store, 1)
    faults = Faults(fs, operation, ".seg", error)
    with pytest.raises(StorageError, match="injected") as caught:
        write(store, 2)
    assert not isinstance(caught.value, NoSpace), "nobody may try this again"
    for again in (
        store.sync,
        store.prepare,
        lambda: write(store, 3),
        lambda: store.append(promised=Ballot(9, 1), chosen_mark=0, entries=()),
    ):
        with pytest.raises(StorageError, match=r"the disk failed before .*injected.*; the replica must stop"):
            again()
    assert (faults.failed, faults.after) == (1, [])
    fs.fail = None
    with pytest.raises(StorageError, match="the disk failed before"):
        store.sync()
    cut_power(fs)
    assert open_store(fs).recovered.entries == (entry(1),)


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_an_error_while_the_next_segment_begins_ends_the_store(operation: str) -> None:
    """Also the header of a segment is written once: an error of it is not tried again on the same file."""
    fs = memory()
    store = open_store(fs)
    faults = Faults(fs, operation, "prepared.tmp")
    with pytest.raises(StorageError, match="injected"):
        write(store, 1)
    with pytest.raises(StorageError, match="the disk failed before"):
        write(store, 1)
    assert faults.after == []
    cut_power(fs)
    assert open_store(fs).recovered.entries == ()


@pytest.mark.parametrize("operation", ["read", "sync"])
def test_an_error_while_starting_is_an_error_of_the_start(operation: str) -> None:
    """What cannot be read, or cannot be made durable after it was read, is not started from; the lock is free."""
    fs = memory()
    store = open_store(fs)
    write(store, 1)
    store.close()
    Faults(fs, operation, ".seg")
    with pytest.raises(StorageError, match="injected"):
        open_store(fs)
    fs.fail = None
    assert open_store(fs).recovered.entries == (entry(1),)


def test_an_error_while_reading_does_not_end_the_store() -> None:
    """A record that cannot be read for a peer is no reason not to accept."""
    fs = memory()
    store = open_store(fs)
    write(store, 1)
    Faults(fs, "read", ".seg")
    with pytest.raises(StorageError, match="injected"):
        store.read(1, 100)
    assert store.read(1, 100) == [entry(1)]
    write(store, 2)


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_an_error_of_a_snapshot_keeps_the_log_and_the_older_snapshot(operation: str) -> None:
    """A snapshot is a convenience: without it the log stays as long as it is."""
    fs = memory()
    store = open_store(fs)
    write(store, 1)
    write_snapshot(store, 1)
    Faults(fs, operation, "snapshot-writing.tmp")
    with pytest.raises(StorageError, match="injected"):
        write_snapshot(store, 2)
    store.snapshot_abort()
    assert "snapshot-writing.tmp" not in fs.list_dir(DIRECTORY)
    write(store, 2)
    assert store.snapshot_slot == 1
    again = reopen(store, fs)
    assert (again.recovered.snapshot_slot, again.recovered.entries) == (1, (entry(2),))
    write_snapshot(again, 2)
    assert list(reopen(again, fs).snapshot_chunks()) == snapshot_of(2)


# -- a disk that is full -------------------------------------------------------------------------------------------


def test_without_room_for_the_next_segment_the_store_lives_on_and_recovers() -> None:
    """A full disk shows in `prepare`, before it hurts; what fits the active segment is still accepted; later all is."""
    fs = memory()
    store = open_store(fs)
    write(store, 1)
    fs.bytes_max = fs.used_bytes() + SEGMENT_BYTES - 1
    write(store, 2)
    with pytest.raises(NoSpace, match="no space left on the device"):
        store.prepare()
    write(store, 3)
    for _ in range(2):
        with pytest.raises(NoSpace):
            write(store, 4)
    assert store.read(1, 1 << 20) == [entry(1), entry(2), entry(3)]
    store.sync()
    cut_power(fs.copy())
    fs.bytes_max = None
    store.prepare()
    write(store, 4)
    assert reopen(store, fs).recovered.entries == tuple(entry(s) for s in (1, 2, 3, 4))


def test_the_next_segment_is_prepared_in_steps_and_in_time() -> None:
    """No write waits for the zeros of a whole segment, and the next one is whole once half of this one is used."""
    fs = memory()
    size = 8 * PREPARE_STEP_BYTES
    store = open_store(fs, segment_bytes=size)
    prepared = f"{DIRECTORY}/{PREPARED_NAME}"
    slot = 0
    while len([name for name in fs.list_dir(DIRECTORY) if name.endswith(".seg")]) < 3:
        slot += 1
        Group(Ballot(1, 1), 0, (entry(slot, size=PREPARE_STEP_BYTES // 2),)).append_to(store)
        store.sync()
        before = fs.open(prepared).size() if fs.exists(prepared) else 0
        store.prepare()
        assert 0 <= fs.open(prepared).size() - before <= PREPARE_STEP_BYTES
        used = max(place.at for place in store._log._segments[-1:])
        assert fs.open(prepared).size() >= min(size, 2 * used - 2 * PREPARE_STEP_BYTES)


def test_a_part_of_the_next_segment_is_not_taken_for_room() -> None:
    """Where the steps hit the end of the disk, what they took is given back, and less than a segment is still no room."""
    fs = memory()
    store = open_store(fs, segment_bytes=8 * PREPARE_STEP_BYTES)
    write(store, 1)
    fs.bytes_max = fs.used_bytes() + 2 * PREPARE_STEP_BYTES
    full = fs.used_bytes()

    def fill() -> None:
        for slot in range(2, 16):
            Group(Ballot(1, 1), 0, (entry(slot, size=PREPARE_STEP_BYTES // 2),)).append_to(store)
            store.prepare()

    with pytest.raises(NoSpace):
        fill()
    assert fs.used_bytes() == full
    for _ in range(2):
        with pytest.raises(NoSpace):
            store.prepare()
    fs.bytes_max = None
    store.prepare()
    assert fs.open(f"{DIRECTORY}/{PREPARED_NAME}").size() == 8 * PREPARE_STEP_BYTES


def test_an_append_without_room_has_written_nothing() -> None:
    """NoSpace is definite: the group is not there after a restart, and its promise was not made."""
    fs = memory()
    store = open_store(fs)
    for slot in (1, 2, 3):
        write(store, slot)
    fs.bytes_max = fs.used_bytes()
    with pytest.raises(NoSpace):
        Group(Ballot(50, 1), 0, (entry(4, 50),)).append_to(store)
    store.close()
    fs.bytes_max = None
    fs.crash(lambda: True, lambda count: count)
    held = open_store(fs).recovered
    assert (held.promised, held.entries) == (Ballot(1, 1), tuple(entry(s) for s in (1, 2, 3)))


def test_a_group_too_long_for_the_prepared_segment_waits_for_room_of_its_own() -> None:
    """The segment that was prepared does not count as room for something longer, and is there afterwards or not."""
    fs = memory()
    store = open_store(fs)
    for slot in (1, 2):
        write(store, slot)
    store.prepare()
    fs.bytes_max = fs.used_bytes()
    long = Group(Ballot(1, 1), 0, (entry(3, size=10 * BLOCK),))
    with pytest.raises(NoSpace):
        long.append_to(store)
    write(store, 3)
    write(store, 4)
    fs.bytes_max = None
    long = Group(Ballot(1, 1), 0, (entry(5, size=10 * BLOCK),))
    long.append_to(store)
    store.sync()
    assert reopen(store, fs).recovered.entries == (*(entry(s) for s in (1, 2, 3, 4)), *long.entries)


def test_a_snapshot_without_room_gives_its_room_back() -> None:
    """The log goes first: what was written of the snapshot is deleted when it is aborted, wherever it stopped."""
    size = 38 + 8 + 100 + 8 + 600 + 8 + 16
    for room in (0, 37, 38, 145, 146, 400, size - 17, size - 1):
        fs = memory()
        store = open_store(fs)
        write(store, 1)
        used = fs.used_bytes()
        fs.bytes_max = used + room
        with pytest.raises(NoSpace):
            write_snapshot(store, 1)
        store.snapshot_abort()
        assert fs.used_bytes() == used, room
        write(store, 2)
        fs.bytes_max = used + size
        write_snapshot(store, 1)
        assert store.snapshot_slot == 1
