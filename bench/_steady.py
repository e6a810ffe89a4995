"""What a system costs that does little: memory empty and filled, ten thousand sessions that only ping."""

from __future__ import annotations

import time
from typing import Final

from ._fill import fill
from ._proc import resident_mib, servers_cpu_s
from ._rows import VALUE_BYTES
from ._sessions import Sessions
from .peers import Etcd, Peer

SETTLE_S: Final = 0.5
TIMEOUTS_S: Final = (30, 10)


def steady(system: Peer, *, znodes: int, sessions: int, seconds: float) -> dict[str, tuple[str, float]]:
    """Row titles with unit and figure, of a system that has just started.

    Memory is that of the largest server, CPU in cores is that of all servers. etcd has no sessions.
    """
    found = {}
    time.sleep(SETTLE_S)  # memory has no event to wait for: what a start, or a load, leaves behind is let go meanwhile
    found["memory of a replica, empty"] = ("MiB", resident_mib(system))
    fill(system, 0, znodes, b"x" * VALUE_BYTES)
    time.sleep(SETTLE_S)  # as above
    found[f"memory of a replica, {znodes:,} znodes of {VALUE_BYTES} bytes"] = ("MiB", resident_mib(system))
    if isinstance(system, Etcd):
        return found
    for timeout_s in TIMEOUTS_S:
        with Sessions(system.ports, sessions, 1_000 * timeout_s) as idle:
            idle.idle(timeout_s)  # what a fill, and so many new sessions, leave to be done is done by then
            before, began = servers_cpu_s(system), time.perf_counter()
            idle.idle(seconds)
            cores = (servers_cpu_s(system) - before) / (time.perf_counter() - began)
            if timeout_s == TIMEOUTS_S[0]:
                found[f"memory of a replica, and {sessions:,} idle sessions"] = ("MiB", resident_mib(system))
            found[f"CPU of all replicas, {sessions:,} idle sessions of {timeout_s} s"] = ("cores", cores)
    return found
