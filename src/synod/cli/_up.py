"""`synod up`: a local cell, each replica a process of its own below one directory."""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.error import URLError
from urllib.request import urlopen

from synod.base import UserError

from ._output import DONE, UNAVAILABLE, USER, complain, print_json

if TYPE_CHECKING:
    from synod.server import Config

START_S: Final = 30.0
"""Longest wait for the first leader."""

STOP_S: Final = 10.0
RESTART_PAUSE_S: Final = 0.5


class Up:
    """One run of `synod up`.

    Args:
        replicas: how many.
        client_port: of the first; replica i gets this plus i - 1.
        data_dir: holds `replica-i/` with config, data and log.
        restart: start a replica that died again.
        settings: `section.key=value` to be written into every config.
    """

    def __init__(
        self,
        *,
        replicas: int,
        client_port: int,
        data_dir: Path,
        restart: bool,
        settings: list[str],
        as_json: bool,
    ) -> None:
        self._count = replicas
        self._client_port = client_port
        self._data_dir = data_dir.resolve()
        self._restart = restart
        self._settings = settings
        self._as_json = as_json
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._told = False

    def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        self._prepare()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell)
        try:
            for i in self._ids():
                self._start(i)
            code = self._wait_for_leader()
            if code is not None:
                return code
            self._announce()
            return self._watch()
        finally:
            self._stop()

    def _tell(self, _number: int, _frame: object) -> None:
        self._told = True

    def _ids(self) -> range:
        return range(1, self._count + 1)

    def _directory(self, i: int) -> Path:
        return self._data_dir / f"replica-{i}"

    def _config(self, i: int) -> Path:
        return self._directory(i) / "synod.toml"

    # -- directories ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the cell when there is none; refuse a directory that holds another one.

        Raises:
            UserError: the directory was made with other numbers, or a replica of it is missing.
        """
        present = self._present()
        if not present:
            from synod.storage import Identity, RealFileSystem, format_directory

            self._refuse_taken_ports()
            with self._whole_or_not_at_all():
                for config in self._make():
                    identity = Identity(config.id, 1, config.configuration, secrets.randbits(62) + 1)
                    format_directory(RealFileSystem(), config.data_dir, identity)
            return
        if present != list(self._ids()):
            raise UserError(
                f"{self._data_dir} holds a cell of {len(present)} replicas, not of {self._count}: run it with "
                f"--replicas {len(present)}, or choose another --data-dir"
            )
        for i in present:
            document = self._read(i)
            port = int(str(document["listen"]["client"]).rpartition(":")[2])
            if port != self._client_port + i - 1:
                raise UserError(
                    f"{self._data_dir} holds a cell at client port {port - i + 1}, not {self._client_port}: run it with "
                    f"--client-port {port - i + 1}, or choose another --data-dir"
                )
            if not (self._directory(i) / "data" / "identity.json").exists():
                raise UserError(
                    f"{self._directory(i)} has lost its data while its siblings have theirs: it must be re-admitted, "
                    f"not formatted; restore the directory, or begin a new cell in another --data-dir"
                )
            if self._settings:
                self._write(i, document)
        self._refuse_taken_ports()

    def _refuse_taken_ports(self) -> None:
        """Better now than by a replica that dies while its siblings serve."""
        for i in self._ids():
            port = self._client_port + i - 1
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sock.bind(("127.0.0.1", port))
                except OSError as failure:
                    why = "is in use by another process" if failure.errno == errno.EADDRINUSE else "cannot be used"
                    raise UserError(
                        f"the address 127.0.0.1:{port} {why}, and replica {i} would listen there; nothing was started: "
                        f"stop that process, perhaps another `synod up`, or take another --client-port and --data-dir"
                    ) from failure

    def _present(self) -> list[int]:
        """The replicas that have a directory here.

        Raises:
            UserError: the directory above cannot be made.
        """
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as failure:
            raise UserError(f"{self._data_dir} cannot be made: {failure.strerror}") from failure
        return sorted(int(p.name[8:]) for p in self._data_dir.glob("replica-*") if p.name[8:].isdecimal())

    def make_from(self, file: str) -> None:
        """Make the cell with a backup as its first state, to be run by `synod up` later.

        Raises:
            UserError: there is a cell, or the file is no backup; nothing was changed.
            Damaged: the file is not as it was written; nothing was changed.
        """
        from ._backup import opened_backup
        from ._restore import begin_from

        with opened_backup(file) as (reader, _):
            if self._present():
                raise UserError(f"{self._data_dir} holds a cell already; choose another --data-dir")
            with self._whole_or_not_at_all():
                for config in self._make():
                    begin_from(reader, file, config)

    @contextlib.contextmanager
    def _whole_or_not_at_all(self) -> Iterator[None]:
        """Half a cell would be in the way of the next try."""
        try:
            yield
        except BaseException:
            for i in self._ids():
                shutil.rmtree(self._directory(i), ignore_errors=True)
            raise

    def _read(self, i: int) -> dict[str, Any]:
        try:
            return tomllib.loads(self._config(i).read_text())
        except (OSError, tomllib.TOMLDecodeError) as broken:
            raise UserError(f"{self._config(i)} cannot be read: {broken}") from broken

    def _make(self) -> list[Config]:
        """Write the configurations of a new cell; its data directories are still to be formatted."""
        from synod.server import load_config

        cell_id = secrets.token_hex(16)
        ports = _free_ports(2 * self._count)
        peers = [{"id": i, "address": f"127.0.0.1:{ports[i - 1]}"} for i in self._ids()]
        for i in self._ids():
            self._directory(i).mkdir(mode=0o700)
            document = {
                "id": i,
                "cell_id": cell_id,
                "data_dir": "data",
                "listen": {
                    "client": f"127.0.0.1:{self._client_port + i - 1}",
                    "peer": f"127.0.0.1:{ports[i - 1]}",
                    "http": f"127.0.0.1:{ports[self._count + i - 1]}",
                },
                "peers": peers,
            }
            self._write(i, document)
        return [load_config(str(self._config(i))) for i in self._ids()]

    def _write(self, i: int, document: dict[str, Any]) -> None:
        from synod.server import apply_override, parse_config

        for setting in self._settings:
            apply_override(document, setting)
        parse_config(document, str(self._config(i)))
        self._config(i).write_text(_toml(document))

    # -- processes -----------------------------------------------------------------------------------------

    def _start(self, i: int) -> None:
        from synod.server import dying_with_parent

        with (self._directory(i) / "log").open("ab") as log:
            self._processes[i] = subprocess.Popen(
                [sys.executable, "-m", "synod", "serve", str(self._config(i))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop them in order
                preexec_fn=dying_with_parent(),
            )

    def _last_words(self, i: int) -> str:
        lines = (self._directory(i) / "log").read_text(errors="replace").splitlines()
        said = [line for line in lines[-5:] if line.startswith("synod: ")]
        return said[-1].removeprefix("synod: ") if said else f"see {self._directory(i) / 'log'}"

    def _alive(self) -> list[int]:
        return [i for i, process in self._processes.items() if process.poll() is None]

    def _wait_for_leader(self) -> int | None:
        """Wait until a leader serves; an exit code when none can, or when told to stop."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and not self._told:
            for i in self._ids():
                code = self._processes[i].poll()
                if code is not None:
                    complain(f"replica {i} did not start: {self._last_words(i)}")
                    return USER if code == USER else UNAVAILABLE
            if any(self._ready(i) for i in self._ids()):
                return None
            time.sleep(0.02)
        if self._told:
            return DONE
        complain(f"no leader serves after {START_S:g} s; see the logs below {self._data_dir}")
        return UNAVAILABLE

    def _ready(self, i: int) -> bool:
        try:
            with urlopen(f"http://{self._read(i)['listen']['http']}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _announce(self) -> None:
        rows = []
        for i in self._ids():
            listen = self._read(i)["listen"]
            rows.append(
                {
                    "id": i,
                    "pid": self._processes[i].pid,
                    "client": listen["client"],
                    "http": listen["http"],
                    "data_dir": str(self._directory(i)),
                    "config": str(self._config(i)),
                }
            )
        cell = ",".join(str(row["client"]) for row in rows)
        if self._as_json:
            print_json({"cell": cell, "replicas": rows})
            return
        for row in rows:
            print(f"replica {row['id']}  pid {row['pid']}  clients {row['client']}  http://{row['http']}/status")
        print(f"the cell serves at {cell}; Ctrl-C stops it", flush=True)

    def _watch(self) -> int:
        """Look after the replicas until told to stop."""
        reported: set[int] = set()
        died: dict[int, float] = {}
        while not self._told:
            for i in self._ids():
                process = self._processes[i]
                if process.poll() is None:
                    continue
                if process.pid not in reported:
                    reported.add(process.pid)
                    died[i] = time.monotonic()
                    complain(f"replica {i} ended with {process.returncode}: {self._last_words(i)}")
                elif self._restart and time.monotonic() - died[i] >= RESTART_PAUSE_S:
                    self._start(i)
            if len(self._alive()) <= self._count // 2 and not self._restart:
                complain("the cell has lost its majority for good")
                return UNAVAILABLE
            time.sleep(0.05)
        return DONE

    def _stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + STOP_S
        for process in self._processes.values():
            try:
                process.wait(timeout=max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _toml(document: dict[str, Any]) -> str:
    """The document as TOML; JSON's strings, numbers and booleans are TOML's as well."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in document.items() if not isinstance(value, (dict, list))]
    for key, value in document.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {json.dumps(entry)}" for name, entry in value.items())]
        elif isinstance(value, list):
            for table in value:
                lines += ["", f"[[{key}]]", *(f"{name} = {json.dumps(entry)}" for name, entry in table.items())]
    return "\n".join(lines) + "\n"
