"""The replicas of a run, each a process of its own, and everything that can be done to one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from synod.base import SynodError

from . import _clocked
from ._network import Network

PR_SET_PDEATHSIG: Final = 1
STATUS_S: Final = 1.0
OPERATE_S: Final = 5.0
STOP_S: Final = 15.0
DISK_BYTES: Final = 2 << 30
"""What a small disk in memory has while it is not full."""

SETTINGS: Final = {
    "session": {"timeout_ms_min": 1_000},
    "limits": {"snapshot_log_bytes": 1 << 20},
}
"""Short sessions, so that some end in every run, and many snapshots."""

EPOCH_NS: Final = 10**17
"""A machine may have been up for three years."""

DRIFT: Final = 30_000
"""Millionths by which the speed of a replica's clock may be off: half of what the margin of a client's lease allows."""

LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

LEADS: Final = re.compile(r" election: replica \d+ leads with ballot ")
REASONS: Final = {
    "silence": re.compile(r" election: replica \d+ was silent$"),
    "closed connection": re.compile(r" election: the connection to replica \d+ closed$"),
    "hand-over": re.compile(r" election: replica \d+ hands over$"),
}
"""What replicas write into their logs of why somebody else should lead."""


def whole_answer(answer: bytes) -> bytes | None:
    """The body of a success over HTTP; None of anything else, and of what a killed replica left unfinished."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    ok = b" 200 " in head.partition(b"\r\n")[0] and length is not None and len(body) == int(length[1])
    return body if ok else None


class NotStarted(SynodError):
    """A process did not come up."""


class Replicas:
    """A cell below one directory, in a network.

    Args:
        directory: an empty one.
        count: how many.
        network: not started yet.
        seed: of the replicas' clocks.
        small_disks: these keep their data in a file system of their own, whose size can be changed (needs root).
        python: what runs the replicas.
    """

    def __init__(
        self,
        directory: Path,
        count: int,
        network: Network,
        *,
        seed: int = 0,
        small_disks: Sequence[int] = (),
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        self.ids = list(range(1, count + 1))
        self.small_disks = tuple(small_disks)
        self._directory = directory
        self._network = network
        self._python = tuple(python)
        self._rng = random.Random(f"{seed}/clocks")
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._mounted: list[Path] = []
        self._expected: set[int] = set()
        # One more than there are: its place is for a replica that is added.
        self._places = network.lay([*self.ids, count + 1])
        self._wall_ns = dict.fromkeys(self._places, 0)
        self._cell_id = secrets.token_hex(16)
        self._first = self._peers("peers", self.ids)
        for i in self._places:
            self._home(i).mkdir(mode=0o700, parents=True)
        for i in self.ids:
            self._format(i, 1, "")

    @property
    def spare(self) -> int:
        """Who has a place and is no member."""
        return next(i for i in self._places if i not in self.ids)

    @property
    def threads(self) -> list[int]:
        """Whose log a thread writes: with system calls that strace can delay and refuse. The others use io_uring."""
        return [i for i in self._places if i % 2]

    @property
    def hosts(self) -> str:
        """Where clients reach the cell."""
        return ",".join(place.client_front for place in self._places.values())

    def host(self, i: int) -> str:
        """Where one replica itself listens."""
        return self._places[i].client

    def _home(self, i: int) -> Path:
        return self._directory / f"replica-{i}"

    def _peers(self, section: str, ids: Sequence[int]) -> str:
        return "".join(f'[[{section}]]\nid = {i}\naddress = "{self._places[i].peer_front}"\n' for i in ids)

    def _format(self, i: int, incarnation: int, contacts: str) -> None:
        """Write its config and give it a directory of its own, which has the number of its incarnation."""
        from synod.server import load_config
        from synod.storage import Identity, RealFileSystem, format_directory

        home, place = self._home(i), self._places[i]
        disk = home / "disk"
        if i in self.small_disks and disk not in self._mounted:
            disk.mkdir()
            options = f"size={DISK_BYTES},mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "synod", str(disk)], check=True)
            self._mounted.append(disk)
        settings = "".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for section, keys in SETTINGS.items()
        )
        config = home / "synod.toml"
        config.write_text(
            f'id = {i}\ncell_id = "{self._cell_id}"\nincarnation = {incarnation}\n'
            f"io_uring = {'false' if i in self.threads else 'true'}\n"
            f'data_dir = "{self._data(i, incarnation).relative_to(home)}"\n'
            f'[listen]\nclient = "{place.client}"\npeer = "{place.peer}"\nhttp = "{place.http}"\n'
            f"{settings}{self._first}{contacts}"
        )
        loaded = load_config(str(config))
        identity = Identity(i, incarnation, loaded.configuration, secrets.randbits(62) + 1)
        format_directory(RealFileSystem(), loaded.data_dir, identity)

    def _data(self, i: int, incarnation: int) -> Path:
        return self._home(i) / ("disk" if i in self.small_disks else "") / f"data-{incarnation}"

    # -- one replica ---------------------------------------------------------------------------------------

    def start(self, i: int) -> None:
        """Run it, or run it again; from the main thread, since the child lives no longer than the thread.

        Each start is on a machine of its own, as far as the monotonic clock goes.
        """
        self._expected.discard(i)
        _clocked.write_clock(
            self._clock(i),
            wall_ns=self._wall_ns[i],
            epoch_ns=self._rng.randrange(EPOCH_NS),
            rate=_clocked.MILLION + self._rng.randint(-DRIFT, DRIFT),
        )
        with (self._home(i) / "log").open("ab") as log:
            self._running[i] = subprocess.Popen(
                # -P: what stands beside _clocked.py is no module of the replica.
                [*self._python, "-P", _clocked.__file__, self._clock(i), "serve", self._home(i) / "synod.toml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop them in order
                preexec_fn=functools.partial(_become_child, os.getpid(), self._network.enter(i)),
            )

    def _clock(self, i: int) -> Path:
        return self._home(i) / "clock"

    def jump(self, i: int, seconds: float) -> None:
        """Let its wall clock show so much more than it did."""
        self._wall_ns[i] += round(seconds * 1e9)
        with self._clock(i).open("r+b") as file:
            file.write(self._wall_ns[i].to_bytes(8, "little", signed=True))

    def pid(self, i: int) -> int:
        """Its process id."""
        return self._running[i].pid

    def running(self, i: int) -> bool:
        """Whether its process is there."""
        return i in self._running and self._running[i].poll() is None

    def kill(self, i: int) -> None:
        """SIGKILL."""
        self._expected.add(i)
        self._running[i].kill()
        self._running[i].wait()

    def pause(self, i: int) -> None:
        """SIGSTOP."""
        self._running[i].send_signal(signal.SIGSTOP)

    def resume(self, i: int) -> None:
        """SIGCONT."""
        self._running[i].send_signal(signal.SIGCONT)

    def expect_end(self, i: int) -> None:
        """It may end by itself now."""
        self._expected.add(i)

    def terminate(self, i: int) -> None:
        """SIGTERM."""
        self._expected.add(i)
        self._running[i].terminate()

    async def wait_ended(self, i: int, seconds: float) -> int | None:
        """Its exit code; None when it runs on."""
        until = time.monotonic() + seconds
        while True:
            code = self._running[i].poll()
            if code is not None or time.monotonic() >= until:
                return code
            await asyncio.sleep(0.02)

    def ended(self) -> dict[int, int]:
        """Exit codes of those that ended although nobody made them."""
        codes = {i: process.poll() for i, process in self._running.items() if i not in self._expected}
        return {i: code for i, code in codes.items() if code is not None}

    def last_words(self, i: int) -> str:
        """What it said last."""
        lines = (self._home(i) / "log").read_text(errors="replace").strip().splitlines()
        said = [line.removeprefix("synod: ") for line in lines[-40:] if line.startswith("synod: ")]
        return said[-1] if said else lines[-1] if lines else "nothing"

    def elections(self) -> tuple[int, dict[str, int]]:
        """How often one began to lead, and the reasons that replicas had to hold an election."""
        led = 0
        reasons = dict.fromkeys(REASONS, 0)
        for i in (i for i in self._places if (self._home(i) / "log").exists()):
            for line in (self._home(i) / "log").read_text(errors="replace").splitlines():
                led += LEADS.search(line) is not None
                for reason, pattern in REASONS.items():
                    reasons[reason] += pattern.search(line) is not None
        return led, reasons

    # -- as members ----------------------------------------------------------------------------------------

    def wipe(self, i: int) -> None:
        """It loses its disk; it does not run."""
        for data in (self._home(i) / ("disk" if i in self.small_disks else "")).glob("data-*"):
            shutil.rmtree(data)

    def join(self, i: int, incarnation: int, members: Sequence[int]) -> None:
        """Start it on an empty disk, as the cell has admitted it."""
        if self.running(i):
            self.kill(i)
        self.wipe(i)
        self._format(i, incarnation, self._peers("contacts", [j for j in members if j != i]))
        if i not in self.ids:
            self.ids = sorted([*self.ids, i])
        self.start(i)

    def leave(self, i: int) -> None:
        """It is no member any more; if it has not heard of that, it ends now."""
        if self.running(i):
            self.kill(i)
        self.ids = [j for j in self.ids if j != i]

    async def members(self) -> dict[int, dict[str, Any]] | None:
        """Who belongs to the cell, by id, as the leader says; None when none does."""
        leader = await self.leader()
        body = None if leader is None else await self._ask(leader, "/operator/member-list", {})
        return None if body is None else {member["id"]: member for member in json.loads(body)["members"]}

    async def operate(self, action: str, i: int) -> None:
        """Ask the leader for a change of one member; what became of it, the members show."""
        leader, place = await self.leader(), self._places[i]
        if leader is not None:
            asked = {"id": i, "address": place.peer_front, "client": place.client, "http": place.http}
            await self._ask(leader, f"/operator/{action}", asked, OPERATE_S)

    # -- its disk ------------------------------------------------------------------------------------------

    def fill_disk(self, i: int) -> bool:
        """Leave no room on its small disk; whether that could be done."""
        disk = self._home(i) / "disk"
        for _ in range(5):
            found = os.statvfs(disk)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            if self._resize(disk, used):
                return True
        return False

    def empty_disk(self, i: int) -> None:
        """Give it room again."""
        self._resize(self._home(i) / "disk", DISK_BYTES)

    def _resize(self, disk: Path, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(disk)]
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0

    # -- what they say -------------------------------------------------------------------------------------

    async def status(self, i: int) -> dict[str, Any] | None:
        """What `/status` says; None when it does not answer."""
        body = await self._ask(i, "/status")
        if body is None:
            return None
        found: dict[str, Any] = json.loads(body)
        return found

    async def ready(self, i: int) -> bool:
        """Whether it hears a leader with a quorum."""
        return await self._ask(i, "/readyz") is not None

    async def hand_over(self, i: int) -> bool:
        """Ask it to let another one lead; whether it did."""
        return await self._ask(i, "/operator/transfer-leader", {}, OPERATE_S) is not None

    async def _ask(
        self, i: int, path: str, asked: dict[str, Any] | None = None, seconds: float = STATUS_S
    ) -> bytes | None:
        """The body of an answer; None when there is none, or it is no success. With `asked`, of an operator."""
        host, _, port = self._places[i].http.rpartition(":")
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(host, int(port))
                head = f"{'GET' if asked is None else 'POST'} {path} HTTP/1.0\r\nHost: {host}\r\n"
                body = b""
                if asked is not None:
                    body = json.dumps(asked).encode()
                    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                writer.write(head.encode() + b"\r\n" + body)
                answer = await reader.read()
        except (OSError, TimeoutError):
            return None
        finally:
            if writer is not None:
                writer.transport.abort()
        return whole_answer(answer)

    async def leader(self) -> int | None:
        """Who leads; of two that say so, the one with the higher ballot."""
        found = await asyncio.gather(*(self.status(i) for i in self.ids if self.running(i)))
        leading = [status for status in found if status is not None and status["role"] == "leader"]
        best = max(leading, key=lambda status: tuple(status["ballot"]), default=None)
        return None if best is None else int(best["id"])

    # -- all of them ---------------------------------------------------------------------------------------

    async def wait_ready(self, seconds: float, ids: Sequence[int] | None = None) -> list[int]:
        """Wait until each of them, or of all, is ready; those that are not in time."""
        ids = self.ids if ids is None else ids
        until = time.monotonic() + seconds
        while True:
            found = await asyncio.gather(*(self.ready(i) for i in ids))
            missing = [i for i, ready in zip(ids, found, strict=True) if not ready]
            if not missing or time.monotonic() > until:
                return missing
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """End every process, whatever state it is in, and let go of the disks."""
        for process in self._running.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.terminate()
        until = time.monotonic() + STOP_S
        for process in self._running.values():
            try:
                process.wait(timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        for disk in self._mounted:
            subprocess.run(["umount", "-l", disk], check=False, stderr=subprocess.DEVNULL)
        self._mounted.clear()


def _become_child(parent: int, enter: Callable[[], None] | None) -> None:
    """Ask the kernel for SIGKILL when the parent is gone: a replica that is stopped would not hear SIGTERM."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    if enter is not None:
        enter()
