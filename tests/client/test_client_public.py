"""The API as a user has it: what each call does on every system, and what each error says about what happened."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
import uvloop

import synod
from client.client_systems import ManualClock, Relay, expire, wait_for_children, wait_until
from synod.base import (
    MILLISECOND,
    SECOND,
    BadVersion,
    ConfigError,
    ConnectionLoss,
    LockLost,
    NodeExists,
    NoNode,
    NotApplied,
    NotEmpty,
    OperationTimeout,
    OutcomeUnknown,
    SessionExpired,
    SynodError,
    UserError,
)
from synod.client import Cell, Check, Create, Delete, SetData, Unavailable

TIMEOUT_MS = 8_000
LEASE = TIMEOUT_MS * 1_000 * 15 // 16


# -- the ten lines ----------------------------------------------------------------------------------------


async def test_the_api_in_ten_lines(hosts, root):
    """connect, create, get, set, exists, children, watch, multi, lock, elect, delete."""
    async with synod.connect(hosts) as cell:
        assert await cell.create(root, b"1") == root
        data, stat = await cell.get(root)
        assert (data, stat.version) == (b"1", 0)
        assert (await cell.set(root, b"2", version=0)).version == 1
        assert (await cell.exists(root)).data_length == 1
        assert await cell.exists(f"{root}/none") is None
        first, second = await cell.multi([Create(f"{root}/a"), SetData(root, b"3")])
        assert (first, second.version) == (f"{root}/a", 2)
        assert await cell.create(f"{root}/b-", sequential=True, ephemeral=True) == f"{root}/b-0000000001"
        assert await cell.children(root) == ["a", "b-0000000001"]
        change = await anext(cell.watch(root))
        assert (change.data, change.gap) == (b"3", False)
        async with cell.lock(f"{root}/lock") as lock, cell.elect(f"{root}/election", identifier="me") as leadership:
            assert leadership.token > lock.fencing_token > 0
            assert await leadership.leader() == "me"
        await cell.delete(root, recursive=True)
        assert await cell.exists(root) is None


def test_the_api_in_ten_lines_for_threads(hosts, root):
    """The same calls, blocking."""
    with synod.BlockingCell(hosts) as cell:
        assert cell.state == "connected"
        assert cell.create(root, b"1") == root
        data, stat = cell.get(root)
        assert (data, stat.version) == (b"1", 0)
        assert cell.set(root, b"2", version=0).version == 1
        assert cell.exists(f"{root}/none") is None
        first, second = cell.multi([Create(f"{root}/a"), SetData(root, b"3")])
        assert (first, second.version) == (f"{root}/a", 2)
        assert cell.children(root) == ["a"]
        changes = cell.watch(root)
        assert next(changes).data == b"3"
        cell.set(root, b"4")
        assert next(changes).data == b"4"
        changes.close()
        names = cell.watch(root, children=True)
        assert next(names).children == ("a",)
        names.close()
        with cell.lock(f"{root}/lock") as lock, cell.elect(f"{root}/election", identifier="me") as leadership:
            assert leadership.token > lock.fencing_token > 0
            assert lock.is_valid
            assert leadership.leader() == "me"
        cell.delete(root, recursive=True)
        cell.sync(root)
        assert cell.exists(root) is None


def test_the_public_names_are_few_sorted_and_loaded_when_used():
    """`import synod` loads no room; every name that it promises is there."""
    assert synod.__all__ == sorted(synod.__all__)
    assert all(getattr(synod, name) is not None for name in synod.__all__)
    with pytest.raises(AttributeError, match="no attribute 'locl'"):
        _ = synod.locl
    rooms = "import sys, synod; print([name for name in sys.modules if name.startswith('synod.')])"
    loaded = subprocess.run([sys.executable, "-c", rooms], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


# -- znodes -----------------------------------------------------------------------------------------------


async def test_requests_are_carried_out_in_the_order_of_the_calls(hosts, client, root):
    """Without waiting in between: each reads what the one before it wrote."""
    cell = await client(hosts)
    await cell.create(root, b"")
    calls = []
    for n in range(20):
        calls += [cell.set(root, b"%d" % n), cell.get(root)]
    results = await asyncio.gather(*calls)
    assert [data for data, _ in results[1::2]] == [b"%d" % n for n in range(20)]


async def test_a_multi_happens_as_a_whole_or_not_at_all(hosts, client, root):
    """One refused change refuses all; the error says which, and that none was done."""
    cell = await client(hosts)
    await cell.create(root, b"1")
    with pytest.raises(NodeExists, match=r"operation 2 of 3, none of which was done"):
        await cell.multi([SetData(root, b"2"), Create(root), Delete(root)])
    with pytest.raises(BadVersion, match="none of which was done"):
        await cell.multi([Check(root, 7), Delete(root)])
    assert (await cell.get(root))[0] == b"1"
    async with cell.transaction() as transaction:
        transaction.check(root, version=0).set(root, b"2").create(f"{root}/a").delete(f"{root}/a")
    assert [type(result).__name__ for result in transaction.results] == ["NoneType", "Stat", "str", "NoneType"]
    assert (await cell.get(root))[0] == b"2"


async def test_ephemerals_go_with_their_session_and_survive_a_detached_one(hosts, client, root):
    """close ends the session at once; who has what `detach` returns goes on with it."""
    observer, cell = await client(hosts), await client(hosts)
    await observer.create(root)
    await cell.create(f"{root}/e", ephemeral=True)
    resumed = await client(hosts, session=await cell.detach())
    assert await observer.children(root) == ["e"]
    await resumed.close()
    await wait_for_children(observer, root, 0)


async def test_a_client_moves_to_another_replica_by_itself(hosts_of, client, root):
    """The connection to one replica is cut: the session goes on at another one, ephemerals and all."""
    one, other, _ = hosts_of("cell").split(",")
    async with Relay(one) as first, Relay(other) as second:
        cell = await client(f"{first.hosts},{second.hosts}")
        before = cell.session
        await cell.create(root, ephemeral=True)
        (first if before.address == first.hosts else second).cut()
        await wait_until(lambda: cell.state == "connected" and cell.session.address != before.address, "a move")
        assert cell.session_id == before.id
        assert (await cell.exists(root)).ephemeral_owner == before.id
        await cell.close()


# -- watching ---------------------------------------------------------------------------------------------


async def test_a_watch_tells_every_change_or_that_there_were_more(hosts, client, root):
    """Created, changed, deleted, one by one; a change that was not seen is told as a gap."""
    cell, writer = await client(hosts), await client(hosts)
    changes = cell.watch(root)
    assert (await anext(changes)).stat is None
    await writer.create(root, b"1")
    told = await anext(changes)
    assert (told.data, told.gap) == (b"1", False)
    await writer.set(root, b"2")
    told = await anext(changes)
    assert (told.data, told.gap) == (b"2", False)
    for data in (b"3", b"4", b"5"):
        await writer.set(root, data)
    await cell.sync(root)
    told = await anext(changes)
    assert (told.data, told.gap) == (b"5", True)
    await writer.delete(root)
    told = await anext(changes)
    assert (told.data, told.stat, told.gap) == (None, None, False)
    await changes.aclose()
    assert not len(cell._session.watches)


async def test_a_watch_follows_the_names_below(hosts, client, root):
    """With `children`: the names, in order."""
    cell, writer = await client(hosts), await client(hosts)
    await writer.create(root)
    changes = cell.watch(root, children=True)
    assert (await anext(changes)).children == ()
    await writer.create(f"{root}/b")
    told = await anext(changes)
    assert (told.children, told.gap) == (("b",), False)
    await writer.multi([Create(f"{root}/a"), Create(f"{root}/c")])
    await cell.sync(root)
    assert (await anext(changes)).children == ("a", "b", "c")


async def test_a_watch_outlives_its_session_and_ends_with_its_client(local_hosts, client, root):
    """What changed meanwhile is told; closing the client ends the loop instead of letting it wait for ever."""
    cell, writer = await client(local_hosts), await client(local_hosts)
    await writer.create(root, b"1")
    seen = []

    async def follow():
        async for change in cell.watch(root):
            seen.append(change.data)

    following = asyncio.create_task(follow())
    await wait_until(lambda: seen == [b"1"], "the first state")
    await expire(cell, local_hosts)
    await writer.set(root, b"2")
    await wait_until(lambda: seen == [b"1", b"2"], "the change")
    await cell.close()
    await asyncio.wait_for(following, 5)


def test_a_blocking_watch_ends_with_its_client(local_hosts, root):
    """The thread that waits for the next change is let go."""
    cell = synod.BlockingCell(local_hosts)
    begun, seen = threading.Event(), []

    def follow():
        for change in cell.watch(root):
            seen.append(change.data)
            begun.set()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert begun.wait(10)
    cell.close()
    thread.join(10)
    assert not thread.is_alive()
    assert seen == [None]


def test_threads_that_wait_are_told_when_their_client_is_closed(local_hosts, root):
    """Nobody waits for ever for a loop that has stopped, whatever they wait for."""
    with synod.BlockingCell(local_hosts) as holder, holder.lock(root):
        cell = synod.BlockingCell(local_hosts)
        told = []

        def wait(call):
            try:
                call()
            except SynodError as error:
                told.append(error)

        calls = [cell.lock(root).acquire, cell.lock(root).acquire, lambda: cell.run(asyncio.Event().wait())]
        threads = [threading.Thread(target=wait, args=(call,), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        while len(holder.children(root)) < 3:
            pass
        cell.close()
        for thread in threads:
            thread.join(10)
        assert len(told) == 3
        assert len(holder.children(root)) == 1


# -- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda cell, root: cell.get(f"{root}/none"), NoNode),
        (lambda cell, root: cell.set(f"{root}/none", b""), NoNode),
        (lambda cell, root: cell.delete(f"{root}/none"), NoNode),
        (lambda cell, root: cell.children(f"{root}/none"), NoNode),
        (lambda cell, root: cell.create(f"{root}/none/below"), NoNode),
        (lambda cell, root: cell.create(root), NodeExists),
        (lambda cell, root: cell.set(root, b"", version=3), BadVersion),
        (lambda cell, root: cell.delete(f"{root}/a", version=3), BadVersion),
        (lambda cell, root: cell.delete(root), NotEmpty),
    ],
)
async def test_what_the_cell_refuses_was_not_done(hosts, client, root, call, error):
    """A definite error names the operation and the path, says that nothing was changed, and what to do."""
    cell = await client(hosts)
    await cell.create(f"{root}/a", makepath=True)
    with pytest.raises(error, match=rf"{root}.*nothing was changed: ") as raised:
        await call(cell, root)
    assert isinstance(raised.value, NotApplied)


async def test_a_write_that_was_under_way_may_have_happened(local_hosts, relay, client, root):
    """The connection goes between the write and its reply: OutcomeUnknown, and it did happen; reads are repeated."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await direct.create(root, b"1")
    relay.hold_answers()
    write, read = asyncio.create_task(cell.set(root, b"2")), asyncio.create_task(cell.get(root))

    async def written():
        return (await direct.get(root))[0] == b"2"

    await wait_until(written, "the write")
    relay.cut()
    relay.mend()
    with pytest.raises(ConnectionLoss, match="may or may not have happened: read before doing it again") as raised:
        await write
    assert isinstance(raised.value, OutcomeUnknown)
    assert (await read)[0] == b"2"


async def test_a_write_without_an_answer_in_time_may_have_happened(local_hosts, relay, client, root):
    """Bounded time, and no promise about what came of it; of a read there is nothing to know."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await direct.create(root, b"1")
    relay.hold_answers()
    with pytest.raises(OperationTimeout, match="may or may not have happened"):
        await cell.set(root, b"2", timeout=0.05)
    with pytest.raises(Unavailable, match="nothing was changed"):
        await cell.get(root, timeout=0.05)
    relay.let_answers_go()
    assert (await cell.get(root))[0] == b"2"


async def test_without_a_replica_nothing_was_sent(local_hosts, relay, client, root):
    """A definite error in bounded time, that says why no replica serves us."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await direct.create(root, b"1")
    relay.cut()
    await wait_until(lambda: cell.state == "suspended", "the loss")
    with pytest.raises(Unavailable, match="nothing was changed") as raised:
        await cell.set(root, b"2", timeout=0.05)
    assert isinstance(raised.value, NotApplied)
    relay.mend()
    await cell.wait_connected(timeout=10)
    assert (await cell.get(root))[0] == b"1"
    relay.cut()
    with pytest.raises(Unavailable, match="nothing was sent: is the cell running"):
        await synod.connect(relay.hosts, timeout=0.2)
    with pytest.raises(Unavailable, match="nothing was sent"):
        await asyncio.to_thread(synod.BlockingCell, relay.hosts, timeout=0.2)


async def test_a_client_that_outlives_its_session_is_told(local_hosts, relay, client, root):
    """What hung on the session fails with a clear sentence and is not done in the next one, which is opened."""
    cell, direct = await client(relay.hosts), await client(local_hosts)
    await direct.create(root, b"1")
    await cell.create(f"{root}/e", ephemeral=True)
    states = []
    cell.add_listener(states.append)
    old = cell.session
    relay.cut()
    await wait_until(lambda: cell.state == "suspended", "the loss")
    write = asyncio.create_task(cell.set(root, b"2"))
    read = asyncio.create_task(cell.get(root))
    await asyncio.sleep(0)
    async with synod.connect(local_hosts, session=old):
        pass  # the session is ended by its other owner
    relay.mend()
    with pytest.raises(SessionExpired, match="is over and its ephemerals are gone; it was not sent") as raised:
        await write
    assert f"{old.id:#x}" in str(raised.value)
    assert (await read)[0] == b"1"
    assert states == ["suspended", "expired", "connecting", "connected"]
    assert cell.session_id not in (0, old.id)
    assert await direct.children(root) == []


async def test_every_system_ends_a_session_in_the_same_way(hosts, client, root):
    """The client has a new session, its ephemerals are gone, and it works on."""
    cell, direct = await client(hosts), await client(hosts)
    await cell.create(f"{root}/e", ephemeral=True, makepath=True)
    old = cell.session_id
    await expire(cell, hosts)
    assert cell.session_id != old
    await wait_for_children(direct, root, 0)
    await cell.create(f"{root}/e", ephemeral=True)
    assert (await direct.exists(f"{root}/e")).ephemeral_owner == cell.session_id


def test_a_thread_whose_lock_is_lost_is_told_at_the_end(local_hosts, root):
    """It cannot be cancelled; `check` refuses, and `with` does not end as if all were well."""

    def lose(cell, lock):
        asyncio.run_coroutine_threadsafe(expire(cell.cell, local_hosts), cell._loop).result(20)
        assert not lock.held
        with pytest.raises(LockLost):
            lock.check()

    with synod.BlockingCell(local_hosts) as cell:
        with pytest.raises(LockLost, match="compare fencing tokens"), cell.lock(root) as lock:
            lose(cell, lock)
        with cell.lock(root) as lock:
            lock.release()


async def test_a_client_that_is_not_open_sends_nothing(local_hosts, root):
    """Before it is started, and after it is closed."""
    cell = synod.connect(local_hosts)
    with pytest.raises(UserError, match="not started"):
        await cell.get(root)
    await cell.close()
    async with synod.connect(local_hosts) as cell:
        pass
    with pytest.raises(UserError, match="closed"):
        await cell.get(root)
    await cell.close()


def test_a_blocking_client_that_cannot_be_used_says_why(local_hosts, root):
    """Closed, called from its own thread, or given malformed addresses: an error at once, never a dead-lock."""
    threads = set(threading.enumerate())
    with pytest.raises(ConfigError):
        synod.BlockingCell("127.0.0.1:many")
    assert set(threading.enumerate()) <= threads  # those of earlier tests may end meanwhile
    with synod.BlockingCell(local_hosts) as cell:
        heard = []

        async def block():
            with pytest.raises(UserError, match="own client") as raised:
                cell.get(root)
            heard.append(raised.value)

        cell.run(block())
        assert heard
    with pytest.raises(UserError, match="is closed; nothing was sent"):
        cell.get(root)
    cell.close()


# -- the lease --------------------------------------------------------------------------------------------


async def test_a_lease_counts_from_the_send_time_of_the_last_answered_ping(relay, client, root, monkeypatch):
    """Answers to requests do not prolong it, nor does the time at which the ping's answer comes."""
    clock = ManualClock()
    begun = clock.monotonic()
    cell = await client(relay.hosts, session_timeout_ms=TIMEOUT_MS, clock=clock)
    lease = cell.lease("the test")
    assert cell.lease_deadline == begun + LEASE
    clock.advance(SECOND)
    assert await cell.exists(root) is None
    assert cell.lease_deadline == begun + LEASE
    relay.hold_answers()
    clock.advance(SECOND)
    sent = clock.monotonic()
    await wait_until(lambda: cell._session._pings, "a ping")
    clock.advance(3 * SECOND)
    assert cell.lease_deadline == begun + LEASE
    deadlines = []
    prolong = type(cell._session)._prolong

    def recorded(session, since, now):
        prolong(session, since, now)
        deadlines.append(session.lease_deadline)

    # On a busy machine the next ping, which is due by now, is answered as well before anybody looks.
    monkeypatch.setattr(type(cell._session), "_prolong", recorded)
    relay.let_answers_go()
    await wait_until(lambda: deadlines, "its answer")
    assert deadlines[0] == sent + LEASE
    left = cell.lease_deadline - clock.monotonic()
    assert lease.left == left / SECOND
    clock.advance(left)
    assert lease.left == 0
    with pytest.raises(LockLost, match="not heard from in time"):
        lease.check()
    assert lease.lost.is_set()


def test_a_deadline_that_has_passed_is_met_on_uvloop_too(local_hosts):
    """The handle that uvloop gives for a timer that is due at once does not know its time."""

    async def rely_twice_on_an_overdue_session() -> None:
        clock = ManualClock()
        async with Cell(local_hosts, session_timeout_ms=TIMEOUT_MS, clock=clock) as cell:
            clock.advance(TIMEOUT_MS * MILLISECOND // 2)
            first, second = cell.lease("one"), cell.lease("another")
            await wait_until(lambda: cell.lease_deadline > clock.monotonic() + LEASE // 2, "the answer to a ping")
            assert not first.lost.is_set()
            assert not second.lost.is_set()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(rely_twice_on_an_overdue_session())


async def test_a_lease_that_lapsed_stays_lost_though_the_session_lives(local_hosts, relay, client):
    """The cell is heard again too late: the old lease is over for good, a new one is good."""
    clock = ManualClock()
    cell = await client(relay.hosts, session_timeout_ms=TIMEOUT_MS, clock=clock)
    lease, session_id = cell.lease("the test"), cell.session_id
    relay.cut()
    await wait_until(lease.jeopardy.is_set, "jeopardy")
    clock.advance(LEASE)
    await wait_until(lease.lost.is_set, "the loss")
    assert cell.lease("what begins now").lost.is_set()
    relay.mend()
    # Hardly faster than real time: an attempt to connect, which has half of the timeout, is to come to its end.
    await wait_until(lambda: clock.advance(SECOND // 50) or cell.state == "connected", "the cell again")
    assert cell.session_id == session_id
    assert lease.lost.is_set()
    assert not cell.lease("what begins later").lost.is_set()
