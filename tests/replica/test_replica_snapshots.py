"""When a snapshot is due: by what the log takes on the disk."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from replica_alone import new_replica

from synod.base import MILLISECOND, SECOND, Configuration, Member, Micros
from synod.replica import ReplicaOptions
from synod.replica._replica import BUSY_PACES
from synod.wire import OP_CREATE, OP_EXISTS, OPEN_ACL, Create, frame

ONE = Configuration("c" * 32, (Member(1, "127.0.0.1:1"),))
CONNECT = struct.pack(">iiqiqi", 44, 0, 0, 30_000, 0, 16) + bytes(16)
LOG_BYTES = 256 << 10
EXISTS = struct.pack(">i", 2) + b"/1" + b"\0"


class Writer:
    """The only replica of a cell, its disk, and a client that waits for each of its writes."""

    def __init__(self, log_block_bytes: int = 4096, snapshot_pace: Micros = 0) -> None:
        options = ReplicaOptions(
            snapshot_log_bytes=LOG_BYTES,
            snapshot_pace=snapshot_pace,
            snapshot_step_bytes=256,
            log_block_bytes=log_block_bytes,
        )
        self.steps: list[Micros] = []
        self.now = SECOND
        self.snapshots = self.xid = 0
        self.store, self.replica = new_replica(ONE, self.now, options)
        while not self.replica.paxos.serving:
            self.pass_time()
        self.replica.client_opened(1, self.now)
        self.replica.client_data(1, CONNECT, self.now)
        self.pass_time()

    def pass_time(self) -> None:
        self.now += 10 * MILLISECOND
        self.replica.tick(self.now, 0)
        more = True
        while more:
            ready = self.replica.ready()
            more = ready.more
            for write in ready.writes:
                self.store.append(
                    promised=write.promised, chosen_mark=write.chosen_mark, entries=write.entries, peers=write.peers
                )
                self.store.sync()
                self.replica.persisted(write.id, self.now)
                more = True
            for chunk in ready.snapshot_writes:
                self.snapshots += chunk.first
                self.steps.append(self.now)
                if chunk.last:
                    self.replica.snapshot_saved(chunk.slot, 0, self.now)

    def writes_until_snapshot(self, most: int) -> int:
        before = self.snapshots
        for count in range(1, most + 1):
            self.xid += 1
            create = Create(f"/{self.xid}", bytes(10), OPEN_ACL)
            self.replica.client_data(1, frame(self.xid, OP_CREATE, create.encode()), self.now)
            while f"/{self.xid}".encode() not in self.replica.tree.nodes:
                self.pass_time()
            if self.snapshots > before:
                return count
        return most + 1


def test_a_lone_writer_of_small_values_has_a_snapshot_when_its_log_has_grown() -> None:
    """Each of its writes takes a block of the log: counted by their values alone, gigabytes would come first."""
    writer = Writer()
    writer.writes_until_snapshot(100)
    blocks = LOG_BYTES // 4096
    assert blocks // 2 < writer.writes_until_snapshot(100) <= blocks
    assert Writer(log_block_bytes=0).writes_until_snapshot(100) > 100


@pytest.mark.parametrize("writing", [True, False])
def test_a_snapshot_takes_its_time_while_clients_are_served(writing: bool) -> None:
    """Each step holds up those who write or read: while they do there is a longer pause between two of them."""
    writer = Writer(snapshot_pace=10 * MILLISECOND)
    assert writer.writes_until_snapshot(100) <= 100
    begun = len(writer.steps)
    for number in range(3 * BUSY_PACES):
        if writing:
            writer.writes_until_snapshot(1)
        else:
            writer.replica.client_data(1, frame(1_000 + number, OP_EXISTS, EXISTS), writer.now)
            writer.pass_time()
    pauses = [after - before for before, after in pairwise(writer.steps[begun:])]
    assert pauses
    assert min(pauses) >= BUSY_PACES * 10 * MILLISECOND > 10 * MILLISECOND
    writer.pass_time()
    idle = len(writer.steps)
    for _ in range(3 * BUSY_PACES):
        writer.pass_time()
    assert 10 * MILLISECOND in [after - before for before, after in pairwise(writer.steps[idle:])]
