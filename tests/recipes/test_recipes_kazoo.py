"""One layout: a client of kazoo and one of ours take part in the same lock, queue, barrier and counter."""

from __future__ import annotations

import asyncio

import pytest
from kazoo.client import KazooClient

from client.client_systems import PATIENCE_S, wait_for_children
from synod.recipes import Barrier, Counter, DoubleBarrier, Queue, RWLock


@pytest.fixture
def kazoo(local_hosts):
    """A started client of kazoo."""
    client = KazooClient(local_hosts)
    client.start(timeout=PATIENCE_S)
    yield client
    client.stop()
    client.close()


def apart(call, *arguments):
    """Run what blocks in a thread of its own."""
    return asyncio.create_task(asyncio.to_thread(call, *arguments))


async def test_a_lock_is_shared_with_kazoo(kazoo, local_hosts, client, root):
    """Each waits for the other, in the order of joining."""
    cell = await client(local_hosts)
    theirs = kazoo.Lock(root, "kazoo")
    async with cell.lock(root, identifier="synod") as lock:
        waiting = apart(theirs.acquire)
        await wait_for_children(cell, root, 2)
        assert await lock.contenders() == ["synod", "kazoo"]
        assert not waiting.done()
    assert await waiting
    ours = asyncio.create_task(cell.lock(root).acquire())
    await wait_for_children(cell, root, 2)
    assert not ours.done()
    await asyncio.to_thread(theirs.release)
    assert await ours


async def test_read_and_write_locks_are_shared_with_kazoo(kazoo, local_hosts, client, root):
    """Its readers and ours share; its writer and ours exclude."""
    cell = await client(local_hosts)
    lock = RWLock(cell, root)
    async with lock.read():
        theirs = kazoo.ReadLock(root, "kazoo")
        assert await asyncio.to_thread(theirs.acquire, blocking=True, timeout=PATIENCE_S)
        assert not await lock.write().acquire(blocking=False)
        assert not await asyncio.to_thread(kazoo.WriteLock(root, "kazoo").acquire, blocking=False)
        await asyncio.to_thread(theirs.release)
    async with lock.write():
        assert not await asyncio.to_thread(theirs.acquire, blocking=False)


async def test_an_item_is_worked_on_by_kazoo_or_by_us(kazoo, local_hosts, client, root):
    """What one puts the other gets; what one has claimed the other passes over."""
    queue, theirs = Queue(await client(local_hosts), root), kazoo.LockingQueue(root)
    await asyncio.to_thread(theirs.put_all, [b"a", b"b"])
    await queue.put(b"urgent", priority=3)
    async with await queue.take() as item:
        assert item.data == b"urgent"
        assert await asyncio.to_thread(theirs.get, PATIENCE_S) == b"a"
        async with await queue.take() as other:
            assert other.data == b"b"
        assert await queue.take(timeout=0.05) is None
        assert await asyncio.to_thread(theirs.consume)
    assert await queue.size() == 0


async def test_a_counter_is_shared_with_kazoo(kazoo, local_hosts, client, root):
    """Both count at the same time, and nothing is lost."""
    counter = Counter(await client(local_hosts), root)

    def count():
        theirs = kazoo.Counter(root)
        for _ in range(20):
            theirs += 1
        return theirs

    async def ours():
        for _ in range(20):
            await counter.add()

    await asyncio.gather(apart(count), ours())
    assert await counter.value() == 40


async def test_a_barrier_is_shared_with_kazoo(kazoo, local_hosts, client, root):
    """Ours holds theirs up, and the other way round."""
    barrier = Barrier(await client(local_hosts), root)
    theirs = kazoo.Barrier(root)
    await barrier.create()
    assert not await asyncio.to_thread(theirs.wait, 0.05)
    await asyncio.to_thread(theirs.remove)
    assert await barrier.wait(timeout=5)


@pytest.mark.parametrize("kazoo_last", [False, True])
async def test_a_double_barrier_is_shared_with_kazoo(kazoo, local_hosts, client, root, kazoo_last):
    """Two rounds: whoever of them comes last lets the other one in, and both leave."""
    cell = await client(local_hosts)
    for _ in range(2):
        ours, theirs = DoubleBarrier(cell, root, 2), kazoo.DoubleBarrier(root, 2)
        calls = [ours.enter, lambda theirs=theirs: apart(theirs.enter)]
        if not kazoo_last:
            calls.reverse()
        first = asyncio.ensure_future(calls[0]())
        await wait_for_children(cell, root, 1)
        await asyncio.wait_for(asyncio.gather(first, calls[1]()), 10)
        assert theirs.participating
        await asyncio.wait_for(asyncio.gather(ours.leave(), apart(theirs.leave)), 10)
        assert await cell.children(root) == []
