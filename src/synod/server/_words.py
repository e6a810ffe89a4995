"""ZooKeeper's four-letter words, sent instead of a connect request: for people, load balancers and clients.

Ref: Apache ZooKeeper 3.8 administrator's guide, "The Four Letter Words".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from synod import __version__

ANSWERED: Final = frozenset({b"ruok", b"srvr", b"mntr", b"stat", b"isro", b"envi"})
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


def answer(word: bytes, status: Mapping[str, object]) -> bytes:
    """What the server says to a word; the connection is closed after it.

    Args:
        word: four bytes, of `ANSWERED` or `REFUSED`.
        status: as `Host.status` gives it.
    """
    if word == b"ruok":
        return b"imok"
    if word == b"isro":
        return b"rw" if status["readable"] else b"null"
    if word not in ANSWERED:
        return f"{word.decode()} is not executed because it is not in the whitelist.\n".encode()
    if word == b"envi":
        return _lines(
            {"zookeeper.version": f"{SPOKEN_VERSION}-synod-{__version__}, built on python"}, "=", "Environment:"
        )
    if not status["readable"]:
        return b"This ZooKeeper instance is not currently serving requests\n"
    mode = {"leader": "leader", "follower": "follower"}.get(str(status["role"]), "observer")
    if status["voters"] == 1:
        mode = "standalone"
    if word == b"mntr":
        return _lines(
            {
                "zk_version": f"{SPOKEN_VERSION}-synod-{__version__}",
                "zk_server_state": mode,
                "zk_num_alive_connections": status["connections"],
                "zk_outstanding_requests": status["outstanding"],
                "zk_znode_count": status["znodes"],
                "zk_watch_count": status["watches"],
                "zk_ephemerals_count": status["ephemerals"],
                "zk_approximate_data_size": status["data_bytes"],
                "zk_packets_received": status["received"],
                "zk_packets_sent": status["sent"],
                "synod_applied_slot": status["applied_slot"],
                "synod_sessions": status["sessions"],
            },
            "\t",
        )
    head = f"Zookeeper version: {SPOKEN_VERSION}-synod-{__version__}, built on python\n"
    clients = "Clients:\n\n" if word == b"stat" else ""
    body = {
        "Latency min/avg/max": "0/0.0/0",
        "Received": status["received"],
        "Sent": status["sent"],
        "Connections": status["connections"],
        "Outstanding": status["outstanding"],
        "Zxid": f"0x{status['zxid']:x}",
        "Mode": mode,
        "Node count": status["znodes"],
    }
    return (head + clients).encode() + _lines(body, ": ")


def _lines(values: Mapping[str, object], between: str, head: str = "") -> bytes:
    first = f"{head}\n" if head else ""
    return (first + "".join(f"{key}{between}{value}\n" for key, value in values.items())).encode()
