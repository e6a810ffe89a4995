"""What the kernel says of processes: CPU time, memory, limits."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any, Final

from .peers import Peer, resident_bytes

_TICKS: Final = os.sysconf("SC_CLK_TCK")
SPARE_FILES: Final = 1_000
"""Descriptors that a process needs besides its sessions."""


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all its threads together, user and system."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()  # the name before may hold anything
    return (int(fields[11]) + int(fields[12])) / _TICKS


def servers_cpu_s(system: Peer) -> float:
    """CPU seconds of all servers that run."""
    return sum(cpu_s(process.pid) for process in system.processes.running if process is not None)


def resident_mib(system: Peer) -> float:
    """Memory of the largest server."""
    return max(resident_bytes(p.pid) for p in system.processes.running if p is not None) / 2**20


def sessions_allowed(wanted: int) -> int:
    """Raise the limit of open files as far as it goes; how many of the wanted sessions fit below it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if hard == resource.RLIM_INFINITY or hard >= needed:
        soft = needed
    else:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
        except (OSError, ValueError):
            soft = hard
        else:
            return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, resource.getrlimit(resource.RLIMIT_NOFILE)[0]), hard))
    return min(wanted, soft - SPARE_FILES)


def disk(directory: Path) -> dict[str, Any]:
    """What the disk below a directory gives: the goals of large writes are set by it."""
    path = directory / "probe"
    with path.open("wb", buffering=0) as file:
        block = bytes(256 << 10)
        began = time.perf_counter()
        for _ in range(128):
            file.write(block)
            os.fdatasync(file.fileno())
        rate = 128 * len(block) / (time.perf_counter() - began)
        took = []
        for number in range(200):
            os.pwrite(file.fileno(), bytes(512), number * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    path.unlink()
    return {"synced_mb_s": round(rate / 1e6, 1), "sync_us": round(1e6 * sorted(took)[len(took) // 2])}
