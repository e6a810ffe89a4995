"""`synod up`: a local cell, each replica a process of its own below one directory.

Members may join and leave while it runs: a `replica-N/` that is formatted is started, be it a new one or one that
begins anew on an empty disk, and a replica that was removed from the cell is not missed.
"""

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

from synod.base import SynodError, UserError

from ._operator import operate
from ._output import DONE, REFUSED, UNAVAILABLE, USER, complain, print_json

if TYPE_CHECKING:
    from synod.server import Config

START_S: Final = 30.0
"""Longest wait for the first leader."""

STOP_S: Final = 10.0
RESTART_PAUSE_S: Final = 0.5
LOOK_PAUSE_S: Final = 0.5
"""How often it looks for who joined, and asks who votes."""


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
        self._ids = list(range(1, replicas + 1))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._identities: dict[int, bytes] = {}
        self._left: set[int] = set()
        self._voters: set[int] = set()
        self._told = False

    def run(self) -> int:
        """Run until told to stop; returns the exit code."""
        self._prepare()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell)
        try:
            for i in self._ids:
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
        if len(present) != self._count:
            raise UserError(
                f"{self._data_dir} holds a cell of {len(present)} replicas, not of {self._count}: run it with "
                f"--replicas {len(present)}, or choose another --data-dir"
            )
        port = _port(self._read(present[0])) - present[0] + 1
        if port != self._client_port:
            raise UserError(
                f"{self._data_dir} holds a cell at client port {port}, not {self._client_port}: run it with "
                f"--client-port {port}, or choose another --data-dir"
            )
        self._ids = present
        for i in present:
            if self._identity(i) is None:
                raise UserError(
                    f"{self._directory(i)} holds no data while its siblings have theirs: a replica that lost them must "
                    f"be re-admitted (`synod member replace {i}`, while the others run), and one that joins the cell "
                    f"is made with `synod format`; without it, move the directory away"
                )
            if self._settings:
                self._write(i, self._read(i))
        self._refuse_taken_ports()

    def _refuse_taken_ports(self) -> None:
        """Better now than by a replica that dies while its siblings serve."""
        for i in self._ids:
            port = _port(self._read(i)) if self._config(i).exists() else self._client_port + i - 1
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
            for i in self._ids:
                shutil.rmtree(self._directory(i), ignore_errors=True)
            raise

    def _read(self, i: int) -> dict[str, Any]:
        try:
            return tomllib.loads(self._config(i).read_text())
        except (OSError, tomllib.TOMLDecodeError) as broken:
            raise UserError(f"{self._config(i)} cannot be read: {broken}") from broken

    def _make(self) -> list[Config]:
        """Write the configurations of a new cell; its data directories are still to be formatted."""
        from synod.server import free_ports, load_config

        cell_id = secrets.token_hex(16)
        ports = free_ports(2 * self._count, but=range(self._client_port, self._client_port + self._count))
        peers = [{"id": i, "address": f"127.0.0.1:{ports[i - 1]}"} for i in self._ids]
        for i in self._ids:
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
        return [load_config(str(self._config(i))) for i in self._ids]

    def _write(self, i: int, document: dict[str, Any]) -> None:
        from synod.server import apply_override, parse_config

        for setting in self._settings:
            apply_override(document, setting)
        parse_config(document, str(self._config(i)))
        self._config(i).write_text(_toml(document))

    # -- processes -----------------------------------------------------------------------------------------

    def _start(self, i: int) -> None:
        from synod.server import dying_with_parent

        self._identities[i] = self._identity(i) or b""
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

    def _alive(self) -> set[int]:
        return {i for i, process in self._processes.items() if process.poll() is None}

    def _wait_for_leader(self) -> int | None:
        """Wait until a leader serves; an exit code when none can, or when told to stop."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and not self._told:
            for i in self._ids.copy():
                code = self._processes[i].poll()
                if self._was_removed(i):
                    self._has_left(i)
                elif code is not None:
                    complain(f"replica {i} did not start: {self._last_words(i)}")
                    return USER if code == USER else UNAVAILABLE
            if any(self._ready(i) for i in self._ids):
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

    def _row(self, i: int) -> dict[str, object]:
        """What is said of a replica that runs."""
        listen = self._read(i)["listen"]
        return {
            "id": i,
            "pid": self._processes[i].pid,
            "client": listen["client"],
            "http": listen["http"],
            "data_dir": str(self._directory(i)),
            "config": str(self._config(i)),
        }

    def _announce(self) -> None:
        rows = [self._row(i) for i in self._ids]
        cell = ",".join(str(row["client"]) for row in rows)
        if self._as_json:
            print_json({"cell": cell, "replicas": rows})
            return
        for row in rows:
            print(_line(row))
        print(f"the cell serves at {cell}; Ctrl-C stops it", flush=True)

    def _watch(self) -> int:
        """Look after the replicas until told to stop."""
        reported: set[int] = set()
        died: dict[int, float] = {}
        looked = 0.0
        while not self._told:
            if time.monotonic() - looked >= LOOK_PAUSE_S:
                looked = time.monotonic()
                self._welcome()
                self._voters = self._ask_voters() or self._voters
            alive: set[int] = set()
            for i in self._ids.copy():
                process = self._processes[i]
                if process.poll() is None:
                    alive.add(i)
                elif self._was_removed(i):
                    self._has_left(i)
                elif process.pid not in reported:
                    reported.add(process.pid)
                    died[i] = time.monotonic()
                    complain(f"replica {i} ended with {process.returncode}: {self._last_words(i)}")
                elif self._restart and time.monotonic() - died[i] >= RESTART_PAUSE_S:
                    self._start(i)
            voters = self._voters or set(self._ids)
            # By those of this look: whoever has died since is still to be told of.
            if len(alive & voters) <= len(voters) // 2 and not self._restart:
                complain("the cell has lost its majority for good")
                return UNAVAILABLE
            time.sleep(0.05)
        return DONE

    # -- members -------------------------------------------------------------------------------------------

    def _identity(self, i: int) -> bytes | None:
        """What `format` wrote for a replica; None before."""
        from synod.server import load_config
        from synod.storage import IDENTITY

        try:
            return (Path(load_config(str(self._config(i))).data_dir) / IDENTITY).read_bytes()
        except (OSError, UserError):
            return None

    def _welcome(self) -> None:
        """Start who was formatted since: a replica that joins, or one that begins anew."""
        for i in self._present():
            identity = self._identity(i)
            running = i in self._processes and self._processes[i].poll() is None
            if identity is None or running or identity == self._identities.get(i):
                continue
            self._ids = sorted({*self._ids, i})
            self._start(i)
            sys.stderr.write(f"{_line(self._row(i))}  joins\n")

    def _was_removed(self, i: int) -> bool:
        """By what it said as well: an interpreter that does not come as far as to serve ends with the same code."""
        return self._processes[i].poll() == REFUSED and self._last_words(i).startswith("this replica stops: ")

    def _has_left(self, i: int) -> None:
        complain(f"replica {i} has left the cell: {self._last_words(i)} ({self._directory(i)})")
        self._ids.remove(i)
        self._voters.discard(i)

    def _ask_voters(self) -> set[int]:
        """Who votes, as a replica that runs knows it; nobody when none answers."""
        for i in self._alive():
            try:
                known = operate(self._read(i)["listen"]["http"], "member-list", {}, 1.0)
            except SynodError:
                continue
            return {member["id"] for member in known["members"] if member["role"] == "voter"}
        return set()

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


def _port(document: dict[str, Any]) -> int:
    return int(str(document["listen"]["client"]).rpartition(":")[2])


def _line(row: dict[str, object]) -> str:
    return f"replica {row['id']}  pid {row['pid']}  clients {row['client']}  http://{row['http']}/status"


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
