"""Many znodes or keys, quickly: in transactions, a thousand below each parent."""

from __future__ import annotations

import struct
from typing import Final

from ._etcd import TXN, EtcdClient, field, put
from ._zookeeper import CREATE, MULTI, OPEN_ACL, ZooKeeperClient, create, text
from .peers import Etcd, Peer

ROOT: Final = "/fill"
CHILDREN: Final = 1_000
IN_TRANSACTION: Final = 500
IN_ETCDS_TRANSACTION: Final = 100  # its limit is 128


def path(number: int) -> str:
    """The path of a filled znode."""
    return f"{ROOT}/{number // CHILDREN:04d}/{number % CHILDREN:03d}"


def fill(system: Peer, first: int, until: int, value: bytes) -> None:
    """Create the znodes from `first` up to `until`; before comes what was before."""
    if isinstance(system, Etcd):
        _fill_etcd(system, first, until, value)
        return
    client = ZooKeeperClient(system.ports[0], 0, value, "write")
    if not first:
        client.ask(create(ROOT, b""))
    for start in range(first, until, IN_TRANSACTION):
        writes = []
        for number in range(start, min(start + IN_TRANSACTION, until)):
            if number % CHILDREN == 0:
                writes.append(_create(path(number).rpartition("/")[0], b""))
            writes.append(_create(path(number), value))
        client.ask(struct.pack(">i", MULTI) + b"".join(writes) + struct.pack(">i?i", -1, True, -1))
    client.close()


def _create(name: str, value: bytes) -> bytes:
    return struct.pack(">i?i", CREATE, False, -1) + text(name) + text(value) + OPEN_ACL + struct.pack(">i", 0)


def _fill_etcd(system: Etcd, first: int, until: int, value: bytes) -> None:
    client = EtcdClient(system.ports[0], 0, value, "write")
    for start in range(first, until, IN_ETCDS_TRANSACTION):
        numbers = range(start, min(start + IN_ETCDS_TRANSACTION, until))
        client.ask(TXN, b"".join(field(2, field(2, put(path(number).encode(), value))) for number in numbers))
    client.close()
