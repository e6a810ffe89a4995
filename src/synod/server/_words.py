"""ZooKeeper's four-letter words, sent instead of a connect request: for people, load balancers and clients.

Ref: Apache ZooKeeper 3.8 administrator's guide, "The Four Letter Words".
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from synod import __version__

from ._metrics import Latency

ANSWERED: Final = frozenset({b"ruok", b"srvr", b"mntr", b"stat", b"isro", b"envi", b"synd"})
"""ZooKeeper's, and `synd`, which is ours: what `/status` says, on the port that every client knows."""

STATUS: Final = (
    "id",
    "cell_id",
    "http",
    "role",
    "leader",
    "ballot",
    "readable",
    "read_only",
    "abstaining",
    "damage",
    "applied_slot",
    "chosen_slot",
    "zxid",
    "digest",
    "digest_slot",
    "snapshot_slot",
    "sessions",
    "connections",
    "outstanding",
    "znodes",
    "watches",
    "log_bytes",
    "last_election",
    "measures",
    "feature_level",
    "supported_level",
    "version",
    "compiled",
    "io_uring",
    "uptime_ms",
    "election_timeout_ms",
    "peers",
)
"""What `/status` and the word `synd` tell."""

REFUSED: Final = frozenset(
    {
        b"conf",
        b"cons",
        b"crst",
        b"dirs",
        b"dump",
        b"gtmk",
        b"hash",
        b"srst",
        b"stmk",
        b"wchc",
        b"wchp",
        b"wchs",
    }
)

SPOKEN_VERSION: Final = "3.8.0"
"""The version of the protocol that we speak, where a client parses one out of `envi` or `srvr`."""

VERSION: Final = f"{SPOKEN_VERSION}-synod-{__version__}"


@dataclass(frozen=True, slots=True)
class ClientLine:
    """One connection, as `stat` lists it.

    Args:
        attached: whether it has a session.
        queued: requests without an answer yet.
        received: requests that came.
    """

    address: str
    port: int
    attached: bool
    queued: int
    received: int


def answer(word: bytes, status: Mapping[str, object], clients: Sequence[ClientLine]) -> bytes:
    """What the server says to a word; the connection is closed after it.

    Args:
        word: four bytes, of `ANSWERED` or `REFUSED`.
        status: as `Host.status` gives it.
        clients: who is connected.
    """
    if word == b"ruok":
        return b"imok"
    if word == b"synd":
        return json.dumps(status_document(status)).encode() + b"\n"
    if word == b"isro":
        return b"ro" if status["read_only"] else b"rw" if status["readable"] else b"null"
    if word not in ANSWERED:
        return f"{word.decode()} is not executed because it is not in the whitelist.\n".encode()
    if word == b"envi":
        return _lines(_environment(), "=", "Environment:")
    if not status["readable"]:
        return b"This ZooKeeper instance is not currently serving requests\n"
    mode = {"leader": "leader", "follower": "follower"}.get(str(status["role"]), "observer")
    if status["members"] == 1:
        mode = "standalone"
    if word == b"mntr":
        return _lines(_monitored(status, mode), "\t")
    head = f"Zookeeper version: {VERSION}, built on python\n"
    if word == b"stat":
        head += "Clients:\n" + "".join(
            f" /{c.address}:{c.port}[{int(c.attached)}]"
            f"(queued={c.queued},recved={c.received},sent={c.received - c.queued})\n"
            for c in clients
        )
        head += "\n"
    latency = status["latency"]
    assert isinstance(latency, Latency)
    body = {
        "Latency min/avg/max": f"{latency.min // 1000}/{latency.mean / 1000:.4g}/{latency.max // 1000}",
        "Received": status["received"],
        "Sent": status["sent"],
        "Connections": status["connections"],
        "Outstanding": status["outstanding"],
        "Zxid": f"0x{status['zxid']:x}",
        "Mode": mode,
        "Node count": status["znodes"],
    }
    return head.encode() + _lines(body, ": ")


def status_document(status: Mapping[str, object]) -> dict[str, object]:
    """What a replica says of itself, out of `Host.status`."""
    return {key: status[key] for key in STATUS}


def _monitored(status: Mapping[str, object], mode: str) -> dict[str, object]:
    """The keys of `mntr` that monitoring looks for; all begin with `zk_`, since Telegraf takes no others."""
    latency = status["latency"]
    assert isinstance(latency, Latency)
    found: dict[str, object] = {
        "zk_version": VERSION,
        "zk_server_state": mode,
        "zk_avg_latency": f"{latency.mean / 1000:.4f}",
        "zk_max_latency": latency.max // 1000,
        "zk_min_latency": latency.min // 1000,
        "zk_packets_received": status["received"],
        "zk_packets_sent": status["sent"],
        "zk_num_alive_connections": status["connections"],
        "zk_outstanding_requests": status["outstanding"],
        "zk_znode_count": status["znodes"],
        "zk_watch_count": status["watches"],
        "zk_ephemerals_count": status["ephemerals"],
        "zk_approximate_data_size": status["data_bytes"],
        "zk_open_file_descriptor_count": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "zk_max_file_descriptor_count": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "zk_uptime": status["uptime_ms"],
        "zk_global_sessions": status["sessions"],
        "zk_synod_applied_slot": status["applied_slot"],
        "zk_synod_id": status["id"],
        "zk_synod_http": status["http"],
    }
    if mode == "leader":
        peers, synced = status["peers"], status["synced"]
        assert isinstance(peers, list)
        assert isinstance(synced, dict)
        found["zk_quorum_size"] = status["voters"]
        found["zk_learners"] = len(peers)
        found["zk_synced_followers"] = synced["followers"]
        found["zk_synced_observers"] = synced["observers"]
    return found


def _environment() -> dict[str, object]:
    system = os.uname()
    return {
        "zookeeper.version": f"{VERSION}, built on python",
        "host.name": system.nodename,
        "python.version": platform.python_version(),
        "os.name": system.sysname,
        "os.arch": system.machine,
        "os.version": system.release,
        "user.name": _user(),
    }


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run a process as a user that it does not name
        return str(os.geteuid())


def _lines(values: Mapping[str, object], between: str, head: str = "") -> bytes:
    first = f"{head}\n" if head else ""
    return (first + "".join(f"{key}{between}{value}\n" for key, value in values.items())).encode()
