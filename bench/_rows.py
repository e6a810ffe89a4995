"""What is measured: the rows of the table, and how one row is run on one system."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

from ._etcd import EtcdClient
from ._load import Client, Measured, drive
from ._proc import servers_cpu_s
from ._zookeeper import ZooKeeperClient
from .peers import Etcd, Peer, SynodCell

VALUE_BYTES = 100
LOCAL_READS = "sequential"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        title: what a reader sees.
        mode: what the clients do.
        connections: spread over all servers.
        pipe: requests on their way on each.
        value_bytes: of what is written.
        reads: the configuration of the cell for this row.
        goal: the ratio to the better peer that the project wants to reach; 0 where it named none.
    """

    title: str
    mode: str
    connections: int
    pipe: int
    value_bytes: int = VALUE_BYTES
    reads: str = "linearizable"
    goal: float = 0.0

    @property
    def has_floor(self) -> bool:
        """Whether it is measured on bare processes as well; see `_floor`."""
        known = ("write", "read", "mixed", "create delete", "multi")
        return self.mode in known and self.value_bytes == VALUE_BYTES


ROWS = (
    Row("write 1:1", "write", 1, 1, goal=1.5),
    Row("write 64:1", "write", 64, 1, goal=4),
    Row("write 16:32", "write", 16, 32, goal=8),
    Row("read, linearizable 1:1", "read linearizable", 1, 1),
    Row("read, linearizable 64:1", "read linearizable", 64, 1, goal=3),
    Row("read, linearizable 16:32", "read linearizable", 16, 32),
    Row("read, local 1:1", "read", 1, 1, reads=LOCAL_READS),
    Row("read, local 64:1", "read", 64, 1, reads=LOCAL_READS, goal=3),
    Row("read, local 16:32", "read", 16, 32, reads=LOCAL_READS, goal=15),
    Row("mixed, 90 % local reads 64:1", "mixed", 64, 1, reads=LOCAL_READS, goal=4),
    Row("create and delete, ephemeral 64:1", "create delete", 64, 1, goal=3),
    Row("transaction of 10 writes 16:1", "multi", 16, 1, goal=3),
    Row("write of 10 KB 64:1", "write", 64, 1, 10_000, goal=2),
    Row("lock cycles 16:1", "lock", 16, 1),
)


@contextlib.contextmanager
def clients_of(system: Peer, row: Row, first: int = 0) -> Iterator[list[Client]]:
    """Connected clients whose nodes exist, on all servers in turn from the `first` on."""
    clients: list[Client] = []
    value = b"x" * row.value_bytes
    # The cell's own reads are linearizable where it is configured so; ZooKeeper's clients must sync first.
    mode = "read" if row.mode == "read linearizable" and isinstance(system, SynodCell) else row.mode
    kind = EtcdClient if isinstance(system, Etcd) else ZooKeeperClient
    try:
        for index in range(row.connections):
            client = kind(system.ports[(first + index) % len(system.ports)], index, value, mode)
            clients.append(client)
            client.prepare()
        yield clients
    finally:
        for client in clients:
            client.close()


def measure(system: Peer, row: Row, *, warm_s: float, measure_s: float) -> Measured:
    """Run one row on one running system.

    A lone connection is put to each server for its share of the time: beside the leader a write has fewer hops.
    """
    places = len(system.ports) if row.connections == 1 else 1
    runs = []
    for first in range(places):
        with clients_of(system, row, first) as clients:
            runs.append(drive(clients, row.pipe, warm_s, measure_s / places, cost=lambda: servers_cpu_s(system)))
    return reduce(add, runs).measured()
