"""Locks that several may hold: readers beside a writer, and so many leases."""

from __future__ import annotations

import asyncio

import pytest

from client.client_systems import PATIENCE_S, expire, wait_for_children
from synod.recipes import RWLock, Semaphore


async def test_readers_share_and_a_writer_excludes(hosts, client, root):
    """Two readers at once; a writer only when nobody reads, and nobody reads beside it."""
    one, two, three = [RWLock(await client(hosts), root) for _ in range(3)]
    first, second, writer = one.read(), two.read(), three.write()
    assert await first.acquire(blocking=False)
    assert await second.acquire(blocking=False)
    assert not await writer.acquire(blocking=False)
    await first.release()
    assert not await writer.acquire(blocking=False)
    await second.release()
    assert await writer.acquire(blocking=False)
    assert not await first.acquire(blocking=False)
    assert not await one.write().acquire(blocking=False)
    await writer.release()
    assert await first.acquire(blocking=False)


async def test_a_waiting_writer_is_not_starved_by_readers(hosts, client, root):
    """Whoever came first goes first: a reader behind a waiting writer waits for it."""
    cell, other, third = [await client(hosts) for _ in range(3)]
    order = []

    async def hold(lock, name):
        async with lock:
            order.append(name)

    async with RWLock(cell, root).read():
        writing = asyncio.create_task(hold(RWLock(other, root).write(), "writer"))
        await wait_for_children(cell, root, 2)
        reading = asyncio.create_task(hold(RWLock(third, root).read(), "reader"))
        await wait_for_children(cell, root, 3)
        assert order == []
    await asyncio.gather(writing, reading)
    assert order == ["writer", "reader"]


async def test_never_a_writer_beside_anybody(local_hosts, client, root):
    """Readers and writers of four clients in turn."""
    readers, writers = set(), set()

    async def work(number):
        lock = RWLock(await client(local_hosts), root)
        for turn in range(6):
            if (turn + number) % 3:
                async with lock.read():
                    readers.add(number)
                    assert not writers
                    await asyncio.sleep(0.002)
                    assert not writers
                    readers.discard(number)
            else:
                async with lock.write():
                    assert not readers
                    assert not writers
                    writers.add(number)
                    await asyncio.sleep(0.002)
                    assert writers == {number}
                    assert not readers
                    writers.clear()

    await asyncio.gather(*map(work, range(4)))
    both = asyncio.Barrier(2)

    async def read():
        async with RWLock(await client(local_hosts), root).read():
            await both.wait()

    await asyncio.wait_for(asyncio.gather(read(), read()), PATIENCE_S)


async def test_a_semaphore_lets_so_many_in_and_no_more(hosts, client, root):
    """Two of three hold; the third gets in when one leaves; who gives up leaves nothing."""
    cells = [await client(hosts) for _ in range(3)]
    leases = [Semaphore(cell, root, 2, identifier=str(n)) for n, cell in enumerate(cells)]
    assert await leases[0].acquire(blocking=False)
    assert await leases[1].acquire(blocking=False)
    assert not await leases[2].acquire(blocking=False)
    assert not await leases[2].acquire(timeout=0.05)
    assert await leases[0].contenders() == ["0", "1"]
    waiting = asyncio.create_task(leases[2].acquire())
    await wait_for_children(cells[0], root, 3)
    assert not waiting.done()
    await leases[0].release()
    assert await waiting
    assert await leases[2].contenders() == ["1", "2"]


async def test_never_more_holders_than_leases(local_hosts, client, root):
    """Five clients, two leases; a session that ends gives its lease back."""
    inside, most = set(), 0

    async def work(number):
        nonlocal most
        cell = await client(local_hosts)
        for _ in range(4):
            async with Semaphore(cell, root, 2):
                inside.add(number)
                most = max(most, len(inside))
                await asyncio.sleep(0.001)
                inside.discard(number)

    await asyncio.gather(*map(work, range(5)))
    assert most <= 2
    dying, heir = await client(local_hosts), await client(local_hosts)
    held = [Semaphore(dying, root, 2) for _ in range(2)]
    for lease in held:
        assert await lease.acquire(timeout=PATIENCE_S)
    assert all(lease.held for lease in held)
    waiting = asyncio.create_task(Semaphore(heir, root, 2).acquire())
    await wait_for_children(heir, root, 3)
    for _ in range(3):  # answers come in order: by now it has seen who is before it
        await heir.exists(root)
    assert not waiting.done()
    await expire(dying, local_hosts)
    assert await waiting
    assert not any(lease.held for lease in held)


def test_a_semaphore_without_leases_makes_no_sense():
    """It would wait for ever."""
    with pytest.raises(ValueError, match="at least one"):
        Semaphore(None, "/leases", 0)
