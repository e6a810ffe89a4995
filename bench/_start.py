"""From nothing to the first acknowledged write: three servers that know each other, with empty directories."""

from __future__ import annotations

import contextlib
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ._etcd import PUT, EtcdClient, put
from ._zookeeper import ZooKeeperClient, create
from .peers import Etcd, Peer, SynodCell, free_ports

RETRY_S: Final = 0.002
GIVE_UP_S: Final = 60.0
STOP_S: Final = 15.0


def first_write_s(system: Peer) -> float:
    """Start a system that was never started; seconds until a write is acknowledged. Its directories are made before.

    ZooKeeper and etcd write theirs within that time, but that takes them a millisecond.
    """
    system.directory.mkdir(parents=True)
    if isinstance(system, SynodCell):
        system.format()
    try:
        began = time.perf_counter()
        system.begin()
        _write(system.ports, etcd=isinstance(system, Etcd))
        return time.perf_counter() - began
    finally:
        system.processes.stop()


def up_s(directory: Path, python: str = sys.executable) -> float:
    """Run `synod up`, which makes the cell as well; seconds until a write is acknowledged."""
    port = next(first for first, _, last in _threes() if last == first + 2)
    command = [python, "-m", "synod", "up", "--replicas", "3", "--client-port", str(port)]
    with (directory / "output").open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--data-dir", str(directory / "cell")], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _write([port, port + 1, port + 2], etcd=False)
            return time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)


def _threes() -> Iterator[list[int]]:
    while True:
        yield free_ports(3)


def _write(ports: list[int], *, etcd: bool) -> None:
    """Write through whichever server takes it first."""
    deadline = time.perf_counter() + GIVE_UP_S
    while time.perf_counter() < deadline:
        for port in ports:
            with contextlib.suppress(OSError, RuntimeError, struct.error):
                if etcd:
                    EtcdClient(port, 0, b"x", "write").ask(PUT, put(b"first", b"x"))
                else:
                    ZooKeeperClient(port, 0, b"x", "write").ask(create("/first", b"x"))
                return
        time.sleep(RETRY_S)  # who is not up yet cannot tell us when it is
    raise RuntimeError(f"no write is acknowledged {GIVE_UP_S:g} s after the start")
