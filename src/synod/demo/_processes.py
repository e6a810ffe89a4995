"""The processes of the demo: a cell below `synod up`, and the instances of the service."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from synod.base import SynodError

REPLICAS: Final = 3
START_S: Final = 30.0
STOP_S: Final = 10.0
STATUS_S: Final = 2.0
LOOK_PAUSE_S: Final = 0.05  # between two looks for a leader: a replica tells nobody outside that it leads


class NotStarted(SynodError):
    """A process of the demo did not come up."""


class Process:
    """A child that says one JSON line on standard output once it serves, and stops on SIGTERM.

    Args:
        arguments: after the Python interpreter.
        log: takes its standard error.
    """

    def __init__(self, arguments: list[str], log: Path) -> None:
        from synod.server import dying_with_parent

        self._log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the parent, which stops its children in order
                preexec_fn=dying_with_parent(),
            )

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._popen.pid

    def greeting(self) -> dict[str, Any]:
        """Wait for the line.

        Raises:
            NotStarted: the child ended, or said nothing in time; the message holds its last words.
        """
        assert self._popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            line = self._popen.stdout.readline() if selector.select(START_S) else b""
        if not line:
            raise NotStarted(f"a process of the demo did not start: {self._last_words()}")
        greeting: dict[str, Any] = json.loads(line)
        return greeting

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("synod: ") if lines else f"it said nothing within {START_S:g} s"

    def kill(self) -> None:
        """SIGKILL."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self) -> None:
        """SIGTERM; `wait` afterwards."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def wait(self) -> None:
        """Wait for its end, and make one if there is none."""
        try:
            self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._popen.stdout is not None:
            self._popen.stdout.close()


class Replicas:
    """A cell of three below `synod up --restart`, its data in one directory."""

    def __init__(self, directory: Path) -> None:
        from synod.server import free_ports

        port = free_ports(REPLICAS).start
        options = ["--replicas", str(REPLICAS), "--client-port", str(port), "--data-dir", str(directory / "cell")]
        self._process = Process(
            ["-m", "synod", "up", "--json", "--restart", *options],
            directory / "cell.log",
        )
        try:
            announced = self._process.greeting()
        except BaseException:
            self.stop()
            raise
        self.hosts: str = announced["cell"]
        self.urls = [f"http://{row['http']}" for row in announced["replicas"]]
        self._pids: dict[int, int] = {row["id"]: row["pid"] for row in announced["replicas"]}

    def kill_leader(self) -> str:
        """SIGKILL the replica that leads, as soon as one does; `synod up` starts it again. Its name, for people.

        Raises:
            NotStarted: for a long time none leads, or answers.
        """
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            for url in self.urls:
                try:
                    with urlopen(f"{url}/status", timeout=STATUS_S) as answer:  # noqa: S310 - our own children
                        status = json.load(answer)
                except (OSError, ValueError):
                    continue
                if status["role"] == "leader":
                    os.kill(self._pids[status["id"]], signal.SIGKILL)
                    return f"replica {status['id']}, the leader"
            time.sleep(LOOK_PAUSE_S)
        raise NotStarted("no replica leads the cell of the demo")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait()
