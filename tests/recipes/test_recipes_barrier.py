"""Barriers: nobody passes too early, nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from client.client_systems import expire, wait_for_children, wait_until
from synod.base import LocalProtocolError, SessionExpired
from synod.recipes import Barrier, DoubleBarrier

# -- one that is up or not --------------------------------------------------------------------------------


async def test_a_barrier_holds_everybody_until_it_is_removed(hosts, client, root):
    """Several wait; nobody goes on while it is up; all do when it is gone."""
    keeper, *cells = [await client(hosts) for _ in range(3)]
    barrier = Barrier(keeper, f"{root}/deep/barrier")
    assert await barrier.wait()
    assert await barrier.create()
    assert not await barrier.create()
    assert not await barrier.wait(timeout=0.05)
    waiting = [asyncio.create_task(Barrier(cell, barrier.path).wait()) for cell in cells]
    await wait_until(lambda: all(len(cell._session.watches) == 1 for cell in cells), "the watches")
    assert not any(task.done() for task in waiting)
    assert await barrier.remove()
    assert await asyncio.gather(*waiting) == [True, True]
    assert not await barrier.remove()


async def test_waiting_at_a_barrier_outlives_connection_and_session(local_hosts, relay, client, root):
    """Both are lost while one waits; it waits on, and hears of the end, even of one that it was away for."""
    keeper, cell = await client(local_hosts), await client(relay.hosts)
    barrier = Barrier(keeper, root)
    await barrier.create()
    waiting = asyncio.create_task(Barrier(cell, root).wait())
    await wait_until(lambda: len(cell._session.watches) == 1, "the watch")
    await expire(cell, local_hosts)
    await wait_until(lambda: len(cell._session.watches) == 1, "the watch in the new session")
    assert not waiting.done()
    relay.cut()
    await wait_until(lambda: cell.state == "suspended", "the loss")
    await barrier.remove()
    relay.mend()
    assert await waiting


# -- one to enter and to leave together -------------------------------------------------------------------


async def test_members_enter_together_and_leave_together_round_after_round(hosts, client, root):
    """Three members, four rounds, without a pause between: nobody is a round ahead of another one."""
    entered, left = [], []

    async def work(number):
        barrier = DoubleBarrier(await client(hosts), root, 3)
        for turn in range(4):
            assert await barrier.enter()
            assert barrier.inside
            entered.append(turn)
            assert left.count(turn) == 0
            assert entered.count(turn + 1) == 0
            assert await barrier.leave()
            assert entered.count(turn) == 3
            left.append(turn)

    await asyncio.wait_for(asyncio.gather(*map(work, range(3))), 30)
    assert sorted(left) == [turn for turn in range(4) for _ in range(3)]
    assert await (await client(hosts)).children(root) == []


async def test_nobody_is_inside_before_the_last_one_has_come(local_hosts, client, root):
    """Two of three wait; one that gives up does not count any more."""
    cells = [await client(local_hosts) for _ in range(3)]
    members = [DoubleBarrier(cell, root, 3) for cell in cells]
    first = asyncio.create_task(members[0].enter())
    await wait_for_children(cells[0], root, 1)
    assert not await members[1].enter(timeout=0.05)
    assert len(await cells[0].children(root)) == 1
    assert not members[1].inside
    second = asyncio.create_task(members[1].enter())
    await wait_for_children(cells[0], root, 2)
    assert not first.done()
    assert await members[2].enter()
    assert await asyncio.gather(first, second) == [True, True]
    assert not await members[0].leave(timeout=0.05)


async def test_a_member_that_was_away_when_all_were_let_in_still_gets_in(local_hosts, relay, client, root):
    """The others are through and leaving when its connection comes back: it enters, and lets them go."""
    slow, fast = await client(relay.hosts), await client(local_hosts)
    one, other = DoubleBarrier(slow, root, 2), DoubleBarrier(fast, root, 2)
    entering = asyncio.create_task(one.enter())
    await wait_until(lambda: len(slow._session.watches) == 1, "the watch")
    relay.cut()
    await wait_until(lambda: slow.state == "suspended", "the loss")
    assert await other.enter()
    leaving = asyncio.create_task(other.leave())
    await wait_for_children(fast, root, 2)  # the slow member and `ready`: the fast one has left
    assert not leaving.done()
    relay.mend()
    assert await asyncio.wait_for(entering, 10)
    assert await one.leave()
    assert await asyncio.wait_for(leaving, 10)


async def test_what_a_crash_left_behind_lets_nobody_in(local_hosts, client, root):
    """All members of a round died inside: the next round counts from the beginning."""
    dead = [await client(local_hosts) for _ in range(2)]
    await asyncio.gather(*(DoubleBarrier(cell, root, 2).enter() for cell in dead))
    for cell in dead:
        await cell.close()
    cells = [await client(local_hosts) for _ in range(2)]
    assert await cells[0].children(root) == ["ready"]
    members = [DoubleBarrier(cell, root, 2) for cell in cells]
    assert not await members[0].enter(timeout=0.2)
    assert await asyncio.gather(*(member.enter() for member in members)) == [True, True]
    assert await asyncio.gather(*(member.leave() for member in members)) == [True, True]
    assert await cells[0].children(root) == []


async def test_a_member_that_dies_inside_holds_nobody_back(hosts, client, root):
    """Leaving waits for those that are there."""
    dying, cell = await client(hosts), await client(hosts)
    one = DoubleBarrier(cell, root, 2)
    entering = asyncio.create_task(one.enter())
    await DoubleBarrier(dying, root, 2).enter()
    await entering
    leaving = asyncio.create_task(one.leave())
    await asyncio.sleep(0)
    await dying.close()
    assert await asyncio.wait_for(leaving, 10)


async def test_a_member_whose_session_ends_while_it_waits_is_told(local_hosts, client, root):
    """It is not inside, does not count, and may enter again."""
    cell, other = await client(local_hosts), await client(local_hosts)
    barrier = DoubleBarrier(cell, root, 2)
    entering = asyncio.create_task(barrier.enter())
    await wait_until(lambda: len(cell._session.watches) == 1, "the watch")
    await expire(cell, local_hosts)
    with pytest.raises(SessionExpired, match="not inside"):
        await entering
    assert await other.children(root) == []
    again = asyncio.create_task(barrier.enter())
    assert await DoubleBarrier(other, root, 2).enter()
    assert await again


async def test_a_member_enters_once(local_hosts, client, root):
    """Entering twice, or leaving without having entered, is the caller's mistake."""
    barrier = DoubleBarrier(await client(local_hosts), root, 1)
    with pytest.raises(LocalProtocolError, match="not entered"):
        await barrier.leave()
    async with barrier:
        with pytest.raises(LocalProtocolError, match="entered already"):
            await barrier.enter()
    assert not barrier.inside
    with pytest.raises(ValueError, match="at least one"):
        DoubleBarrier(None, root, 0)


async def test_a_cancelled_member_leaves_nothing_behind(local_hosts, client, root):
    """The others go on waiting for a whole round."""
    cell, direct = await client(local_hosts), await client(local_hosts)
    entering = asyncio.create_task(DoubleBarrier(cell, root, 2).enter())
    await wait_for_children(direct, root, 1)
    entering.cancel()
    await wait_for_children(direct, root, 0)
