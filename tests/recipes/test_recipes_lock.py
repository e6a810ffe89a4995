"""Fenced locks: one holder, rising tokens, first come first served, nothing left behind, and no silent loss."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from client.client_systems import ManualClock, expire, wait_for_children, wait_until
from synod.base import SECOND, LocalProtocolError, LockLost, LockNotAcquired, NotReadOnly
from synod.recipes import Lock

TIMEOUT_MS = 8_000
LEASE = TIMEOUT_MS * 1_000 * 15 // 16
"""What a client counts on of its session timeout: a sixteenth is kept back."""


# -- getting it -------------------------------------------------------------------------------------------


async def test_never_two_holders_and_every_token_is_higher(hosts, client, root):
    """Four clients, five rounds each: mutual exclusion, and tokens in the order of holding."""
    inside, tokens = [], []

    async def work(number):
        cell = await client(hosts)
        for _ in range(5):
            async with cell.lock(root) as lock:
                inside.append(number)
                assert inside == [number]
                tokens.append(lock.fencing_token)
                await asyncio.sleep(0)
                assert inside == [number]
                inside.clear()

    await asyncio.gather(*map(work, range(4)))
    assert len(tokens) == 20
    assert tokens == sorted(set(tokens))


async def test_first_come_first_served(hosts, client, root):
    """The order of holding is the order of joining, whoever is faster at waiting."""
    cell = await client(hosts)
    order = []
    waiters = []

    async def wait(number):
        async with Lock(await client(hosts), root, identifier=str(number)):
            order.append(number)

    async with cell.lock(root, identifier="first"):
        for number in range(4):
            waiters.append(asyncio.create_task(wait(number)))
            await wait_for_children(cell, root, 2 + number)
        assert await cell.lock(root).contenders() == ["first", "0", "1", "2", "3"]
    await asyncio.gather(*waiters)
    assert order == [0, 1, 2, 3]
    assert await cell.children(root) == []


async def test_a_release_wakes_only_the_next_one(local_hosts, client, root):
    """No herd: each contender watches the one before it and no other."""
    cells = [await client(local_hosts) for _ in range(3)]
    held = cells[0].lock(root)
    await held.acquire()
    waiters = [asyncio.create_task(cells[1].lock(root).acquire())]
    await wait_for_children(cells[0], root, 2)
    waiters.append(asyncio.create_task(cells[2].lock(root).acquire()))
    names = sorted(await wait_for_children(cells[0], root, 3), key=lambda name: name[-10:])
    await wait_until(lambda: len(cells[2]._session.watches) == 1, "a watch")
    assert cells[2]._session.watches._tables[0].keys() == {f"{root}/{names[1]}"}
    await held.release()
    assert await waiters[0]
    assert not waiters[1].done()
    waiters[1].cancel()


async def test_a_free_lock_costs_one_create_one_list_and_one_delete(local_hosts, client, root, monkeypatch):
    """The way to the cell is what a lock costs: no request beyond those three, the first two in one round trip."""
    cell = await client(local_hosts)
    await cell.create(root)
    asked = []
    submit = cell._session.submit

    def noting(request, **options):
        asked.append(type(request).__name__)
        return submit(request, **options)

    monkeypatch.setattr(cell._session, "submit", noting)
    async with cell.lock(root):
        assert asked == ["Create", "GetChildren"]
    assert asked == ["Create", "GetChildren", "Delete"]


async def test_a_lock_not_got_in_time_leaves_nothing_behind(hosts, client, root):
    """With a timeout, at once, and in `async with`: nothing is held, and no contender stays."""
    holder, waiter = await client(hosts), await client(hosts)
    async with holder.lock(root):
        assert not await waiter.lock(root).acquire(timeout=0.1)
        assert not await waiter.lock(root).acquire(blocking=False)
        with pytest.raises(LockNotAcquired, match="nothing is held"):
            async with waiter.lock(root, timeout=0.05):
                pass
        assert len(await waiter.children(root)) == 1
    assert await waiter.lock(root).acquire(blocking=False)


async def test_a_contender_leaves_once_the_cell_writes_again(local_hosts, client, root, monkeypatch):
    """A cell whose disks are full refuses for now, and not for good: the session lives on, and others would wait."""
    holder, waiter = await client(local_hosts), await client(local_hosts)
    delete, refused = waiter.delete, []

    async def refuse(path, **options):
        if len(refused) < 2:
            refused.append(path)
            raise NotReadOnly("it can only read at the moment")
        await delete(path, **options)

    monkeypatch.setattr(waiter, "delete", refuse)
    async with holder.lock(root):
        assert not await waiter.lock(root).acquire(timeout=0.1)
        await wait_for_children(holder, root, 1)
    assert len(refused) == 2


async def test_a_cancelled_waiter_leaves_nothing_behind(hosts, client, root):
    """Whoever stood behind it moves up."""
    first, second, third = [await client(hosts) for _ in range(3)]
    async with first.lock(root):
        cancelled = asyncio.create_task(second.lock(root).acquire())
        await wait_for_children(first, root, 2)
        waiting = asyncio.create_task(third.lock(root).acquire())
        await wait_for_children(first, root, 3)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await wait_for_children(first, root, 2)
        assert not waiting.done()
    assert await waiting


async def test_a_waiter_cancelled_before_the_reply_leaves_nothing_behind(local_hosts, relay, client, root):
    """The create has happened, nobody has heard so yet, and nobody waits any more."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await direct.create(root)
    relay.hold_answers()
    task = asyncio.create_task(cell.lock(root).acquire())
    await wait_for_children(direct, root, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    relay.let_answers_go()
    await wait_for_children(direct, root, 0)


async def test_a_contender_whose_reply_was_lost_is_found_again(local_hosts, relay, client, root):
    """The connection goes between the create and its reply: no second contender, no deadlock with oneself."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await direct.create(root)
    relay.hold_answers()
    lock = cell.lock(root)
    task = asyncio.create_task(lock.acquire())
    (name,) = await wait_for_children(direct, root, 1)
    relay.cut()
    relay.mend()
    assert await task
    assert await direct.children(root) == [name]
    stat = await direct.exists(f"{root}/{name}")
    assert lock.fencing_token == stat.czxid
    await lock.release()
    assert await direct.children(root) == []


async def test_a_waiter_whose_session_ends_waits_on(local_hosts, client, root):
    """The place in the queue is lost, the wait is not."""
    holder, waiter = await client(local_hosts), await client(local_hosts)
    async with holder.lock(root):
        lock = waiter.lock(root)
        task = asyncio.create_task(lock.acquire())
        await wait_for_children(holder, root, 2)
        await expire(waiter, local_hosts)
        await wait_for_children(holder, root, 2)
        assert not task.done()
    assert await task
    assert lock.is_valid


async def test_a_lease_that_ended_before_the_reply_was_read_gives_no_lock(local_hosts, relay, client, root):
    """A process that stood still between its request and the reply asks again instead of believing the reply."""
    clock = ManualClock()
    cell = await client(relay.hosts, session_timeout_ms=TIMEOUT_MS, clock=clock)
    direct = await client(local_hosts)
    await direct.create(root)
    relay.hold_answers()
    lock = cell.lock(root)
    task = asyncio.create_task(lock.acquire())
    (first,) = await wait_for_children(direct, root, 1)
    clock.advance(LEASE + 1)
    relay.let_answers_go()
    assert await task
    assert lock.is_valid
    (second,) = await direct.children(root)
    assert second != first


async def test_one_object_is_one_contender(local_hosts, client, root):
    """Not re-entrant, no token without the lock, harmless to release twice."""
    cell = await client(local_hosts)
    lock = cell.lock(root)
    with pytest.raises(LocalProtocolError, match="not held"):
        _ = lock.fencing_token
    with pytest.raises(LocalProtocolError, match="not held"):
        lock.check()
    async with lock:
        lock.check()
        with pytest.raises(LocalProtocolError, match="not re-entrant"):
            await lock.acquire()
        await lock.release()
    await lock.release()
    assert not lock.held
    async with lock:
        assert lock.held


# -- keeping and losing it --------------------------------------------------------------------------------


async def test_jeopardy_passes_when_the_cell_is_heard_again(local_hosts, relay, client, root):
    """The connection goes and comes: the lock is in doubt meanwhile, and still held, with the same token."""
    cell = await client(relay.hosts)
    async with cell.lock(root) as lock:
        token = lock.fencing_token
        relay.cut()
        await lock.jeopardy.wait()
        assert lock.held
        assert lock.is_valid
        relay.mend()
        await wait_until(lambda: not lock.jeopardy.is_set(), "the end of jeopardy")
        assert lock.fencing_token == token
        assert not lock.lost.is_set()


async def test_jeopardy_ends_in_loss_before_the_lock_could_be_somebody_elses(local_hosts, relay, client, root):
    """The body is cancelled at the end of the lease, while the cell still keeps the contender."""
    clock = ManualClock()
    cell = await client(relay.hosts, session_timeout_ms=TIMEOUT_MS, clock=clock)
    direct = await client(local_hosts)
    lock = cell.lock(root)
    held = asyncio.Event()

    async def body():
        async with lock:
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await held.wait()
    relay.cut()
    await lock.jeopardy.wait()
    clock.advance(LEASE - SECOND // 100)
    assert lock.is_valid
    assert not lock.lost.is_set()
    clock.advance(SECOND // 100)
    assert not lock.is_valid
    with pytest.raises(LockLost, match="may be done in part"):
        await asyncio.wait_for(task, 5)
    assert not lock.held
    assert len(await direct.children(root)) == 1
    assert not await direct.lock(root).acquire(blocking=False)


async def test_a_body_that_never_let_the_loop_run_is_told_at_its_end(local_hosts, client, root):
    """It could not be cancelled; `check` refuses meanwhile, and `async with` does not end as if all were well."""
    clock = ManualClock()
    cell = await client(local_hosts, session_timeout_ms=TIMEOUT_MS, clock=clock)
    with pytest.raises(LockLost, match="not heard from in time"):
        async with cell.lock(root):
            clock.advance(LEASE)
    lock = cell.lock(root)
    await lock.acquire()
    clock.advance(LEASE)
    with pytest.raises(LockLost):
        lock.check()


async def test_no_lock_outlives_its_session(hosts, client, root):
    """The session ends at the cell: LockLost for the old holder, a higher token for the next one."""
    old, new = await client(hosts), await client(hosts)
    lock = old.lock(root)
    await lock.acquire()
    token = lock.fencing_token
    waiting = new.lock(root)
    task = asyncio.create_task(waiting.acquire())
    await wait_for_children(new, root, 2)
    await expire(old, hosts)
    assert lock.lost.is_set()
    assert not lock.held
    assert not lock.is_valid
    with pytest.raises(LockLost):
        lock.check()
    assert await task
    assert waiting.fencing_token > token
    await lock.release()
    assert waiting.held
    assert len(await new.children(root)) == 1


async def test_a_lock_that_an_operator_breaks_is_lost(local_hosts, client, root):
    """Its contender is deleted by hand: the holder is told, and the next one holds."""
    holder, operator = await client(local_hosts), await client(local_hosts)
    broken = asyncio.Event()

    async def body():
        async with holder.lock(root):
            broken.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await broken.wait()
    (name,) = await operator.children(root)
    await operator.delete(f"{root}/{name}")
    with pytest.raises(LockLost, match="deleted"):
        await task
    assert await operator.lock(root).acquire(blocking=False)


async def test_what_the_body_raises_comes_out_as_it_is(local_hosts, client, root):
    """An error of its own, and a cancellation that is not ours; the lock is free afterwards."""
    cell = await client(local_hosts)
    with pytest.raises(ZeroDivisionError):
        async with cell.lock(root):
            raise ZeroDivisionError
    held = asyncio.Event()

    async def body():
        async with cell.lock(root):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cell.children(root) == []


async def test_a_body_cancelled_by_the_loss_may_go_on_outside(local_hosts, client, root):
    """LockLost is an error like any other: the task is not left marked as cancelled."""
    cell = await client(local_hosts)

    async def body():
        with contextlib.suppress(LockLost):
            async with cell.lock(root):
                asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(expire(cell, local_hosts)))
                await asyncio.Event().wait()
        await asyncio.sleep(0)
        return asyncio.current_task().cancelling()

    assert await asyncio.create_task(body()) == 0


async def test_releasing_without_a_connection_is_made_good_later(local_hosts, relay, client, root):
    """Release does not wait for ever; the contender goes as soon as the cell can be reached."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    lock = cell.lock(root)
    await lock.acquire()
    cell.timeout = 0.1
    relay.cut()
    await asyncio.wait_for(lock.release(), 5)
    assert len(await direct.children(root)) == 1
    relay.mend()
    await wait_for_children(direct, root, 0)
