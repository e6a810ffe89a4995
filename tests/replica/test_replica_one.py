"""A cell of one replica: it is its own quorum, and no less durable for that."""

from __future__ import annotations

import struct

from replica_alone import started

from synod.base import MILLISECOND, SECOND, Configuration, Member
from synod.replica import DiskWrite, Replica
from synod.storage import Identity, MemoryFileSystem, Store, format_directory
from synod.wire import OP_CREATE, OPEN_ACL, Create, FrameSplitter, frame

ONE = Configuration("c" * 32, (Member(1, "127.0.0.1:1"),))
CONNECT = struct.pack(">iiqiqi", 44, 0, 0, 30_000, 0, 16) + bytes(16)
WRITES = 4


class One:
    """It, from what a disk holds; each step of its disk is a step of its own."""

    def __init__(self, fs: MemoryFileSystem) -> None:
        self.fs = fs
        self.now = SECOND
        self.store: Store
        self.replica: Replica
        self.store, self.replica = started(fs, ONE, self.now)
        self.appended: list[DiskWrite] = []
        self.told: list[int] = []
        self._splitter = FrameSplitter(1 << 20)
        self._greeted = False

    def turn(self) -> bool:
        """What is told is told before anything is written: whoever relies on the order of a driver is found out."""
        ready = self.replica.ready()
        for _, data in ready.client_output:
            for answer in self._splitter.feed(data):
                if self._greeted:
                    self.told.append(struct.unpack_from(">i", answer)[0])
                self._greeted = True
        for write in ready.writes:
            self.store.append(
                promised=write.promised, chosen_mark=write.chosen_mark, entries=write.entries, peers=write.peers
            )
            self.appended.append(write)
        return ready.more

    def sync(self) -> None:
        self.store.sync()
        for write in self.appended:
            self.replica.persisted(write.id, self.now)
        self.appended.clear()

    def run(self, micros: int) -> None:
        for _ in range(micros // (10 * MILLISECOND)):
            self.now += 10 * MILLISECOND
            self.replica.tick(self.now, 0)
            while self.turn() or self.appended:
                self.sync()


def survives(fs: MemoryFileSystem, xids: list[int]) -> None:
    """Power is lost now, and what was not synced with it."""
    after = fs.copy()
    after.crash(lambda: False, lambda _: 0)
    again = One(after)
    again.run(2 * SECOND)
    assert again.replica.paxos.serving
    assert [xid for xid in xids if b"/%d" % xid not in again.replica.tree.nodes] == []


def test_what_a_cell_of_one_has_acknowledged_survives_a_loss_of_power_at_any_moment() -> None:
    """There is no other disk that has it: before its own sync nobody is told (etcd #14370)."""
    fs = MemoryFileSystem()
    format_directory(fs, "/data", Identity(1, 1, ONE))
    one = One(fs)
    one.run(2 * SECOND)
    one.replica.client_opened(1, one.now)
    one.replica.client_data(1, CONNECT, one.now)
    one.run(SECOND)
    assert one.told == []
    for xid in range(1, WRITES + 1):
        one.replica.client_data(1, frame(xid, OP_CREATE, Create(f"/{xid}", b"", OPEN_ACL).encode()), one.now)
        one.now += MILLISECOND
        for step in (one.turn, one.turn, one.sync, one.turn, one.turn):
            step()
            survives(fs, one.told)
    assert one.told == list(range(1, WRITES + 1))
