"""kazoo's recipes, unmodified, between clients at different replicas: the same on ZooKeeper and on a cell."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import CancelledError, LockTimeout
from kazoo.recipe.cache import TreeCache

pytestmark = pytest.mark.slow

Connect = Callable[..., KazooClient]
WAIT_S = 40.0


class Crowd:
    """Threads whose failures are the test's."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(16)
        self._calls: list[Any] = []

    def run(self, call: Callable[[], object]) -> None:
        self._calls.append(self._pool.submit(call))

    def join(self) -> list[Any]:
        results = [call.result(WAIT_S) for call in self._calls]
        self._pool.shutdown()
        return results


def test_lock_excludes(connect: Connect) -> None:
    """Three clients at three replicas, some rounds each: never two holders."""
    inside, entered = [], []

    def work(replica: int) -> None:
        client = connect(replica=replica)
        lock = client.Lock("/lock", f"client-{replica}")
        for _ in range(10):
            with lock:
                inside.append(replica)
                assert inside == [replica]
                entered.append(replica)
                inside.clear()

    crowd = Crowd()
    for replica in range(3):
        crowd.run(lambda replica=replica: work(replica))
    crowd.join()
    assert len(entered) == 30


def test_lock_names_its_contenders_and_gives_up_in_time(connect: Connect) -> None:
    """A waiting contender is listed; a timed one leaves no trace."""
    holder, waiter = connect(), connect()
    first = holder.Lock("/lock", "holder")
    second = waiter.Lock("/lock", "waiter")
    assert first.acquire(timeout=WAIT_S)
    assert second.acquire(blocking=False) is False
    with pytest.raises(LockTimeout):
        second.acquire(timeout=0.2)
    holder.sync("/lock")
    assert first.contenders() == ["holder"]
    first.release()
    assert second.acquire(timeout=WAIT_S)
    second.release()


def test_a_lock_passes_on_when_its_holder_goes(connect: Connect) -> None:
    """A client that stops without releasing gives its session up, and the next one holds the lock."""
    holder, waiter = connect(replica=0), connect(replica=1)
    assert holder.Lock("/lock", "holder").acquire(timeout=WAIT_S)
    crowd = Crowd()
    second = waiter.Lock("/lock", "waiter")
    crowd.run(lambda: second.acquire(timeout=WAIT_S))
    holder.stop()
    assert crowd.join() == [True]


def test_read_and_write_locks(connect: Connect) -> None:
    """Readers share, a writer excludes, in the order of arrival."""
    one, two, three = connect(replica=0), connect(replica=1), connect(replica=2)
    readers = [one.ReadLock("/rw", "r1"), two.ReadLock("/rw", "r2")]
    writer = three.WriteLock("/rw", "w")
    assert all(reader.acquire(timeout=WAIT_S) for reader in readers)
    assert writer.acquire(blocking=False) is False
    for reader in readers:
        reader.release()
    assert writer.acquire(timeout=WAIT_S)
    assert readers[0].acquire(blocking=False) is False
    writer.release()


def test_semaphore_lets_so_many_in(connect: Connect) -> None:
    """Two leases for three clients: the third waits for one to be given back."""
    clients = [connect(replica=replica) for replica in range(3)]
    leases = [client.Semaphore("/leases", f"c{i}", max_leases=2) for i, client in enumerate(clients)]
    assert leases[0].acquire(timeout=WAIT_S)
    assert leases[1].acquire(timeout=WAIT_S)
    assert leases[2].acquire(blocking=False) is False
    clients[0].sync("/leases")
    assert sorted(leases[0].lease_holders()) == ["c0", "c1"]
    crowd = Crowd()
    crowd.run(lambda: leases[2].acquire(timeout=WAIT_S))
    leases[0].release()
    assert crowd.join() == [True]


def test_election_leads_one_after_the_other(connect: Connect) -> None:
    """Each candidate leads once, never two at a time, and a cancelled one leaves."""
    leading: list[str] = []
    history: list[str] = []

    def lead(name: str) -> None:
        leading.append(name)
        assert leading == [name]
        history.append(name)
        leading.clear()

    crowd = Crowd()
    clients = [connect(replica=replica) for replica in range(3)]
    elections = [client.Election("/election", f"c{replica}") for replica, client in enumerate(clients)]
    for replica in range(3):
        crowd.run(lambda replica=replica: elections[replica].run(lead, f"c{replica}"))
    crowd.join()
    assert sorted(history) == ["c0", "c1", "c2"]
    clients[0].sync("/election")
    assert elections[0].contenders() == []


def test_a_candidate_may_withdraw(connect: Connect) -> None:
    """Cancelling ends the wait; the leader is not disturbed."""
    one, two = connect(replica=0), connect(replica=1)
    begun, done = threading.Event(), threading.Event()
    first, second = one.Election("/election", "first"), two.Election("/election", "second")
    crowd = Crowd()

    def lead() -> None:
        begun.set()
        assert done.wait(WAIT_S)

    crowd.run(lambda: first.run(lead))
    assert begun.wait(WAIT_S)

    def stand() -> None:
        with pytest.raises(CancelledError):
            second.lock.acquire(timeout=WAIT_S)

    crowd.run(stand)
    threading.Event().wait(0.2)
    second.cancel()
    done.set()
    crowd.join()


def test_barrier_opens_for_all(connect: Connect) -> None:
    """Everybody waits while it stands, nobody once it is gone."""
    keeper = connect(replica=0)
    barrier = keeper.Barrier("/barrier")
    barrier.create()
    crowd = Crowd()
    for replica in range(3):
        client = connect(replica=replica)
        client.sync("/")
        crowd.run(lambda client=client: client.Barrier("/barrier").wait(WAIT_S))
    assert barrier.remove()
    assert crowd.join() == [True] * 3
    assert barrier.remove() is False


def test_double_barrier_enters_and_leaves_together(connect: Connect) -> None:
    """Nobody is inside before all have come, nobody outside before all have left."""
    entered, left = [], []

    def work(replica: int) -> None:
        barrier = connect(replica=replica).DoubleBarrier("/double", 3, f"c{replica}")
        barrier.enter()
        entered.append(replica)
        barrier.leave()
        assert len(entered) == 3
        left.append(replica)

    crowd = Crowd()
    for replica in range(3):
        crowd.run(lambda replica=replica: work(replica))
    crowd.join()
    assert sorted(left) == [0, 1, 2]


def test_queue_keeps_its_order_and_gives_each_item_once(connect: Connect) -> None:
    """First in, first out, by priority; two consumers share without overlap."""
    producer = connect(replica=0)
    queue = producer.Queue("/queue")
    for i in range(20):
        queue.put(b"%02d" % i)
    queue.put(b"urgent", priority=1)
    assert queue.get() == b"urgent"
    got: list[bytes] = []

    def consume(replica: int) -> None:
        client = connect(replica=replica)
        client.sync("/queue")
        mine = client.Queue("/queue")
        while (item := mine.get()) is not None:
            got.append(item)

    crowd = Crowd()
    for replica in (1, 2):
        crowd.run(lambda replica=replica: consume(replica))
    crowd.join()
    assert sorted(got) == [b"%02d" % i for i in range(20)]


def test_locking_queue_holds_an_item_until_it_is_consumed(connect: Connect) -> None:
    """An item whose consumer dies comes back."""
    one, two = connect(replica=0), connect(replica=1)
    producer = one.LockingQueue("/lq")
    producer.put_all([b"a", b"b"])
    dying = two.LockingQueue("/lq")
    held = dying.get(WAIT_S)
    other = one.LockingQueue("/lq")
    second = other.get(WAIT_S)
    assert {held, second} == {b"a", b"b"}
    assert other.consume()
    two.stop()
    third = connect(replica=2).LockingQueue("/lq")
    assert third.get(WAIT_S) == held
    assert third.holds_lock()
    assert third.consume()


def test_counter_counts_every_increment(connect: Connect) -> None:
    """Optimistic versions: what collides is tried again, nothing is lost."""

    def work(replica: int) -> None:
        counter = connect(replica=replica).Counter("/counter")
        for _ in range(20):
            counter += 1

    crowd = Crowd()
    for replica in range(3):
        crowd.run(lambda replica=replica: work(replica))
    crowd.join()
    final = connect().Counter("/counter")
    assert final.value == 60
    final -= 10
    assert final.value == 50


def test_party_knows_its_members(connect: Connect) -> None:
    """A member is present while its session is."""
    clients = [connect(replica=replica) for replica in range(3)]
    parties = [client.Party("/party", f"c{i}") for i, client in enumerate(clients)]
    for party in parties:
        party.join()
    clients[0].sync("/party")
    assert sorted(parties[0]) == ["c0", "c1", "c2"]
    parties[1].leave()
    clients[2].stop()
    clients[0].sync("/party")
    assert list(parties[0]) == ["c0"]
    assert len(clients[0].ShallowParty("/party", "watcher")) == 1


def test_partitioner_divides_a_set(connect: Connect) -> None:
    """Two workers hold disjoint parts that make up the whole."""
    things = tuple(range(7))
    parts: dict[int, list[int]] = {}

    def work(replica: int) -> None:
        partitioner = connect(replica=replica).SetPartitioner(
            "/parts", set=things, identifier=f"c{replica}", time_boundary=0.5
        )
        while not partitioner.acquired or len(list(partitioner)) == len(things):
            assert not partitioner.failed
            if partitioner.release:
                partitioner.release_set()  # the other one has come
            elif not partitioner.acquired:
                partitioner.wait_for_acquire(1)
            else:
                threading.Event().wait(0.05)
        parts[replica] = list(partitioner)
        both.wait(WAIT_S)
        partitioner.finish()

    both = threading.Barrier(2)
    crowd = Crowd()
    for replica in (0, 1):
        crowd.run(lambda replica=replica: work(replica))
    crowd.join()
    assert sorted(parts[0] + parts[1]) == sorted(things)


def test_tree_cache_follows_a_subtree(connect: Connect) -> None:
    """kazoo's TreeCache sees what is made, changed and deleted below its root."""
    writer, follower = connect(replica=0), connect(replica=1)
    writer.create("/tree/a/b", b"1", makepath=True)
    follower.sync("/tree")
    cache = TreeCache(follower, "/tree")
    told = threading.Condition()

    def heard(_event: object) -> None:
        with told:
            told.notify_all()

    cache.listen(heard)
    cache.start()

    def wait(fact: Callable[[], bool]) -> None:
        with told:
            assert told.wait_for(fact, WAIT_S)

    wait(lambda: cache.get_data("/tree/a/b") is not None)
    writer.set("/tree/a/b", b"2")
    wait(lambda: cache.get_data("/tree/a/b").data == b"2")
    writer.create("/tree/a/c")
    wait(lambda: cache.get_children("/tree/a") == {"b", "c"})
    writer.delete("/tree/a", recursive=True)
    wait(lambda: cache.get_data("/tree/a") is None)
    cache.close()


def test_a_nonblocking_lease_is_held_by_one(connect: Connect) -> None:
    """kazoo's lease is taken by whoever comes first."""
    one, two = connect(replica=0), connect(replica=1)
    span = dt.timedelta(minutes=5)
    assert one.NonBlockingLease("/lease", span, identifier="one")
    two.sync("/lease")
    assert not two.NonBlockingLease("/lease", span, identifier="two")
