"""The recipes for threads: the same promises where nothing can be awaited or cancelled."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import synod
from synod.client import BlockingLock
from synod.recipes import BlockingBarrier, BlockingCounter, BlockingDoubleBarrier, BlockingQueue, RWLock, Semaphore


@pytest.fixture
def cells(hosts):
    """Two blocking clients."""
    with synod.BlockingCell(hosts) as one, synod.BlockingCell(hosts) as other:
        yield one, other


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


def test_threads_exclude_each_other(cells, root, pool):
    """One client shared by threads, and another one: each lock object is a contender of its own."""
    inside, tokens = [], []

    def work(cell):
        for _ in range(5):
            with cell.lock(root) as lock:
                inside.append(lock)
                assert inside == [lock]
                tokens.append(lock.fencing_token)
                lock.check()
                inside.clear()

    for call in [pool.submit(work, cell) for cell in (*cells, cells[0])]:
        call.result(30)
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 15


def test_other_kinds_of_locks(cells, root):
    """A semaphore and a read lock through the same facade."""
    one, other = (BlockingLock(cell, Semaphore(cell.cell, f"{root}/s", 1)) for cell in cells)
    with one:
        assert one.held
        assert not other.acquire(blocking=False)
    assert other.acquire(timeout=5)
    readers = [BlockingLock(cell, RWLock(cell.cell, f"{root}/rw").read()) for cell in cells]
    assert all(reader.acquire(timeout=5) for reader in readers)


def test_barriers(cells, root, pool):
    """One that is up or not, and one to enter and leave together."""
    one, other = (BlockingBarrier(cell, f"{root}/barrier") for cell in cells)
    assert one.create()
    assert not other.wait(timeout=0.05)
    waiting = pool.submit(other.wait)
    assert one.remove()
    assert waiting.result(10)
    met = threading.Barrier(2)

    def work(cell):
        with BlockingDoubleBarrier(cell, f"{root}/double", 2) as barrier:
            assert barrier.inside
            met.wait(10)
        return barrier.inside

    assert [call.result(20) for call in [pool.submit(work, cell) for cell in cells]] == [False, False]


def test_a_queue(cells, root, pool):
    """Put, wait, consume, give back."""
    producer, consumer = (BlockingQueue(cell, f"{root}/queue") for cell in cells)
    assert consumer.take(timeout=0.05) is None
    waiting = pool.submit(consumer.take)
    producer.put(b"a")
    item = waiting.result(10)
    assert item.data == b"a"
    assert item.is_valid
    item.release()
    producer.put_all([b"b"])
    done = []
    for item in consumer:
        with item:
            done.append(item.data)
        if len(done) == 2:
            break
    assert done == [b"a", b"b"]
    assert producer.size() == 0


def test_a_counter(cells, root, pool):
    """Threads of two clients count together."""

    def work(cell):
        counter = BlockingCounter(cell, f"{root}/counter")
        for _ in range(10):
            counter.add()

    for call in [pool.submit(work, cell) for cell in (*cells, cells[0])]:
        call.result(30)
    assert BlockingCounter(cells[0], f"{root}/counter").value() == 30
