"""Rolling upgrades of real processes, from the frozen copy of the previous release to the code of the working tree.

The copy is in tests/releases, made by freeze.py there. A change of how the log is applied needs a version that has
one: the tests make it from the working tree, by raising the number of its highest feature level.
"""

from __future__ import annotations

import contextlib
import lzma
import re
import shutil
import signal
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError

from _cells import DIGESTS_S, PATIENCE_S, SETTINGS, RealCell, wait_for
from synod.tree import FEATURE_LEVEL

pytestmark = [pytest.mark.slow, pytest.mark.requires("pure"), pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
RELEASES = sorted((ROOT / "tests" / "releases").glob("synod-*.tar.xz"))


@pytest.fixture(scope="module")
def previous(tmp_path_factory) -> Path:
    """Where the previous release can be imported from."""
    directory = tmp_path_factory.mktemp("previous")
    with lzma.open(RELEASES[-1]) as file, tarfile.open(fileobj=file) as archive:
        # Debian's 3.11.2 has no filters yet; the archive is ours.
        archive.extractall(directory, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return directory


@pytest.fixture(scope="module")
def next_one(tmp_path_factory) -> Path:
    """The working tree as a version that knows one more feature level."""
    directory = tmp_path_factory.mktemp("next")
    shutil.copytree(ROOT / "src" / "synod", directory / "synod", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    batch = directory / "synod" / "tree" / "_batch.py"
    text, count = re.subn(
        rf"^FEATURE_LEVEL: Final = {FEATURE_LEVEL}$",
        f"FEATURE_LEVEL: Final = {FEATURE_LEVEL + 1}",
        batch.read_text(),
        flags=re.MULTILINE,
    )
    assert count == 1
    batch.write_text(text)
    return directory


@contextlib.contextmanager
def cell_of(version: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCell]:
    """A cell whose replicas all run one version, formatted by it."""
    monkeypatch.setenv("PYTHONPATH", str(version))
    with RealCell(directory, settings=SETTINGS) as cell:
        monkeypatch.delenv("PYTHONPATH")
        cell.wait_settled()
        try:
            yield cell
        except BaseException as failure:
            failure.add_note("While that release is not out, its copy is made anew: python tests/releases/freeze.py")
            raise
        for number in range(3):
            assert "Traceback" not in cell.whole_output(number), cell.whole_output(number)


def restart(cell: RealCell, number: int, version: Path) -> None:
    """Stop a replica as an operator does, and start it with this version; wait until it is there."""
    stop(cell, number)
    cell.processes.environments[number] = {**cell.processes.environments[number], "PYTHONPATH": str(version)}
    cell.wait_settled()


def stop(cell: RealCell, number: int) -> None:
    process = cell.processes.running[number]
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_S) == 0, cell.whole_output(number)
    cell.processes.running[number] = None


def levels(cell: RealCell) -> list[tuple[object, object]]:
    """(in force, known) of each replica; a release that knows only the first level may not say the second."""
    statuses = [cell.status(number) for number in range(3)]
    return [(status["feature_level"], status.get("supported_level", 1)) for status in statuses]


class Writer:
    """A kazoo client that holds a lock and writes names, one after the other, until it is told to stop."""

    def __init__(self, cell: RealCell, name: str) -> None:
        self._name = name
        self._stop = threading.Event()
        self._client = KazooClient(hosts=cell.hosts, timeout=10.0)
        self._client.start(timeout=PATIENCE_S)
        self._client.ensure_path(f"/{name}")
        self._lock = self._client.Lock(f"/lock-{name}", name)
        assert self._lock.acquire(timeout=PATIENCE_S)
        self._session = self._client.client_id[0]
        self.written: list[str] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                path = f"/{self._name}/{number:06}"
                # An unknown outcome is written again under its name: it is there once, whatever happened.
                with contextlib.suppress(NodeExistsError):
                    self._client.retry(self._client.create, path, b"%d" % number)
                self.written.append(f"{number:06}")
                number += 1
        except BaseException as failure:  # noqa: BLE001 -- told by `finish`, in the thread of the test
            self._failure = failure

    def has_written(self, count: int) -> bool:
        """So many; fails when it has given up."""
        assert self._failure is None, repr(self._failure)
        return len(self.written) >= count

    def finish(self) -> None:
        """Nothing was lost: neither names, nor the session, nor the lock."""
        self._stop.set()
        self._thread.join(timeout=PATIENCE_S)
        try:
            assert not self._thread.is_alive()
            assert self._failure is None
            assert sorted(self._client.retry(self._client.get_children, f"/{self._name}")) == self.written
            assert self._client.client_id[0] == self._session
            assert self._client.retry(self._client.Lock(f"/lock-{self._name}").contenders) == [self._name]
            self._lock.release()
        finally:
            self._client.stop()
            self._client.close()


def progressed(writers: list[Writer], by: int) -> None:
    """Wait until everybody has written more."""
    goals = [(writer, len(writer.written) + by) for writer in writers]
    wait_for(lambda: all(writer.has_written(goal) for writer, goal in goals), f"{by} more writes each")


def test_a_cell_of_the_previous_release_is_upgraded_one_by_one(previous, tmp_path, monkeypatch) -> None:
    """While clients write: the leader last, every step with progress; sessions, locks and names are all there."""
    with cell_of(previous, tmp_path, monkeypatch) as cell:
        writers = [Writer(cell, name) for name in ("one", "two")]
        progressed(writers, 100)
        old = cell.wait_leader()
        for number in [*(n for n in range(3) if n != old), old]:
            restart(cell, number, ROOT / "src")
            progressed(writers, 100)
        wait_for(lambda: {level for level, _ in levels(cell)} == {FEATURE_LEVEL}, "the level of this version")
        # Digests are taken every 1,024 slots: beyond one of them, applied by both versions.
        wait_for(lambda: int(str(cell.status(0)["applied_slot"])) > 1_100, "a digest", DIGESTS_S)
        for writer in writers:
            writer.finish()
        cell.wait_digests()


def test_rolled_back_until_the_level_is_raised_and_refused_afterwards(
    previous, next_one, tmp_path, monkeypatch
) -> None:
    """Nothing of the next version is in force before all run it; then the previous one says why it cannot."""
    before, after = 1, FEATURE_LEVEL + 1
    with cell_of(previous, tmp_path, monkeypatch) as cell:
        writer = Writer(cell, "one")
        restart(cell, 0, next_one)
        restart(cell, 1, next_one)
        progressed([writer], 50)
        assert [level for level, _ in levels(cell)] == [before] * 3
        restart(cell, 0, previous)  # rolled back, with what the next version wrote in its directory
        progressed([writer], 50)
        for number in (0, 2):
            restart(cell, number, next_one)
        wait_for(lambda: levels(cell) == [(after, after)] * 3, "the next level")
        progressed([writer], 50)
        assert f"level: the cell runs at feature level {after} from now on" in cell.whole_output(0)
        # An operator starts the previous version all the same.
        stop(cell, 0)
        cell.processes.environments[0] = {**cell.processes.environments[0], "PYTHONPATH": str(previous)}
        cell.processes.start(0)
        process = cell.processes.running[0]
        assert process is not None
        assert process.wait(timeout=PATIENCE_S) == 3
        last = cell.whole_output(0).splitlines()[-1]
        assert f"the cell runs at feature level {after}, and this version of synod knows the levels 1 to 1" in last
        progressed([writer], 50)
        cell.processes.running[0] = None
        cell.processes.environments[0] = {**cell.processes.environments[0], "PYTHONPATH": str(next_one)}
        cell.wait_settled()
        wait_for(lambda: int(str(cell.status(0)["applied_slot"])) > 1_100, "a digest", DIGESTS_S)
        writer.finish()
        cell.wait_digests()


def test_the_copy_is_of_a_release_and_small() -> None:
    """One at least, with what a replica needs; a few hundred KB each."""
    assert RELEASES
    for path in RELEASES:
        assert path.stat().st_size < 400_000
        with lzma.open(path) as file, tarfile.open(fileobj=file) as archive:
            names = set(archive.getnames())
        assert {"synod/__main__.py", "synod/replica/_replica.py", "synod/server/_run.py"} <= names
        assert not any(name.startswith(("synod/sim/", "synod/demo/")) for name in names)
