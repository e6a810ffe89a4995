"""DistributedSystem as INTERFACES.md has it: blocking, thread-safe, every lock the cell's; and its asyncio twin."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.client_systems import wait_until
from synod.base import BadArguments, NotApplied, SynodError, UserError
from synod.client import BlockingCell
from synod.recipes import TokenGuard
from synod.service import (
    AsyncDistributedSystem,
    DistributedSystem,
    NodeError,
    NodeLost,
    NodeUnreachable,
    Registration,
    Request,
    fencing_token,
    lock_path,
)


def one(request):
    return "one", request.key


def two(request):
    return "two", request.key


@pytest.fixture
def system(hosts):
    """Two handlers on a synod cell, and on ZooKeeper."""
    with DistributedSystem([one, two], cell=hosts, lock_timeout=60.0) as made:
        yield made


# -- locks -------------------------------------------------------------------------------------------------


def test_get_and_release(system, unique):
    """A lock is true and has a token; the key is free afterwards; tokens rise from holder to holder."""
    lock = system.get_lock(unique)
    assert lock
    assert lock.fencing_token > 0
    assert lock.is_valid
    assert system.release_lock(unique) is True
    assert system.release_lock(unique) is False
    again = system.get_lock(unique)
    assert again.fencing_token > lock.fencing_token
    assert not lock.is_held
    assert system.release_lock(unique) is True


def test_a_lock_that_is_not_got_in_time_is_none_and_leaves_nothing(system, hosts, unique):
    """Held by another system: None after the timeout, at once with 0; and no contender stays behind."""
    with DistributedSystem([one], cell=hosts) as other, BlockingCell(hosts) as cell:
        held = other.get_lock(unique)
        began = time.monotonic()
        assert system.get_lock(unique, timeout=0.2) is None
        assert 0.2 <= time.monotonic() - began < system.lock_timeout / 2
        assert system.get_lock(unique, timeout=0) is None
        assert len(cell.children(lock_path(unique))) == 1
        assert system.release_lock(unique) is False  # another system's lock is not ours to release
        assert held.is_held
        other.release_lock(unique)
        assert system.get_lock(unique, timeout=0)


def test_not_reentrant_unless_asked(system, unique):
    """The same thread waits for itself; with `reentrant` it is counted, and each get wants its release."""
    lock = system.get_lock(unique)
    assert system.get_lock(unique, timeout=0) is None
    assert system.get_lock(unique, reentrant=True) is lock
    assert system.release_lock(unique) is True
    assert lock.is_held
    assert system.release_lock(unique) is True
    assert system.release_lock(unique) is False


def test_reentrancy_is_by_thread(system, unique):
    """Another thread that asks re-entrantly is not the holder."""
    system.get_lock(unique)
    found = []
    thread = threading.Thread(target=lambda: found.append(system.get_lock(unique, timeout=0, reentrant=True)))
    thread.start()
    thread.join()
    assert found == [None]


@pytest.mark.parametrize("key", ["", "a/b", "..", "ключ", b"\x00\xff\xfe", "x" * 10_000, "\ud800"])
def test_any_key_can_be_locked(system, key):
    """Any str or bytes: and what is locked as text is locked as bytes."""
    assert system.get_lock(key)
    raw = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    assert system.get_lock(raw, timeout=0) is None
    assert system.release_lock(raw) is True


def test_closing_gives_every_lock_back(hosts, unique):
    """Not only when the session ends: the next one need not wait."""
    system = DistributedSystem([one], cell=hosts)
    system.get_lock(unique)
    system.close()
    system.close()
    with pytest.raises(NotApplied, match="closed"):
        system.get_lock(unique)
    with DistributedSystem([one], cell=hosts) as other:
        assert other.get_lock(unique, timeout=0)


def test_a_collected_system_gives_its_locks_back(hosts, unique):
    """A system that nobody closed must not keep its locks, its thread or its session."""
    threads = set(threading.enumerate())
    system = DistributedSystem([one], cell=hosts)
    system.get_lock(unique)
    del system
    with DistributedSystem([one], cell=hosts) as other:
        assert other.get_lock(unique, timeout=5)
    assert set(threading.enumerate()) <= threads  # those of earlier tests may end meanwhile


def test_wrong_arguments_are_told_at_once(system):
    """A key without bytes, a timeout before now, no nodes, a node that is none, a policy that does not exist."""
    with pytest.raises(BadArguments, match="str or bytes"):
        system.get_lock(17)
    with pytest.raises(BadArguments, match="number of seconds"):
        system.get_lock("x", timeout=-1)
    with pytest.raises(UserError, match="at least one node"):
        DistributedSystem([])
    with pytest.raises(UserError, match="is no node"):
        DistributedSystem([one, "ftp://x"])
    with pytest.raises(UserError, match="no policy"):
        DistributedSystem([one], policy="best")


def test_a_cell_that_is_not_there_is_told_in_bounded_time(monkeypatch):
    """The first error of every user: wrong address, or the cell is down."""
    from synod.service import _system

    connect = _system.connect
    monkeypatch.setattr(_system, "connect", lambda hosts: connect(hosts, timeout=0.3))
    threads = set(threading.enumerate())
    with pytest.raises(SynodError, match=r"127\.0\.0\.1:1"):
        DistributedSystem([one], cell="127.0.0.1:1")
    assert set(threading.enumerate()) <= threads


def test_systems_without_a_cell_share_one_in_the_process(unique):
    """Two systems of a process that lock the same key must exclude each other; the last one stops the cell."""
    threads = set(threading.enumerate())
    with DistributedSystem([one]) as first, DistributedSystem([two]) as second:
        assert first.get_lock(unique)
        assert second.get_lock(unique, timeout=0) is None
    assert set(threading.enumerate()) <= threads


# -- requests ----------------------------------------------------------------------------------------------


def test_a_write_runs_under_its_lock_and_a_read_without(system, unique):
    """The handler finds the token; the outcome carries value, node and token; the lock is free afterwards."""
    seen = []

    def handler(request):
        lock = None if request.type == "read" else other.get_lock(request.key, timeout=0)
        seen.append((fencing_token(), lock))
        return request.value

    with DistributedSystem([one], cell=",".join(f"{h}:{p}" for h, p in system._twin._cell.hosts)) as other:
        system._nodes._handlers.update(dict.fromkeys(system._nodes._handlers, handler))
        outcome = system.process_request(Request("write", unique, value=5))
        assert outcome
        assert (outcome.value, outcome.node, outcome.fencing_token) == (5, handler, seen[0][0])
        assert outcome.fencing_token > 0
        outcome = system.process_request(Request("read", unique, value=6))
        assert (outcome.value, outcome.fencing_token) == (6, None)
        assert seen == [(seen[0][0], None), (None, None)]
        assert other.get_lock(unique, timeout=0)
    assert fencing_token() is None


def test_requests_are_spread_by_the_policy(system, unique):
    """Round robin by default: even, writes and reads alike."""
    nodes = Counter(system.process_request(Request("read", unique)).node for _ in range(10))
    nodes.update(system.process_request(Request("write", unique)).node for _ in range(10))
    assert nodes == {one: 10, two: 10}


def test_any_object_with_type_and_key_is_a_request(system, unique):
    """The interface asks for two attributes and no class of ours; another type is a ValueError."""
    assert system.process_request(SimpleNamespace(type="write", key=unique)).value[1] == unique
    for wrong in (SimpleNamespace(type="delete", key=unique), SimpleNamespace(key=unique), object()):
        with pytest.raises(ValueError, match='"write" or "read"'):
            system.process_request(wrong)
    with pytest.raises(BadArguments, match="str or bytes"):
        system.process_request(SimpleNamespace(type="write", key=3))


def test_a_lock_not_got_is_a_false_outcome_with_the_reason(hosts, unique):
    """No node saw the request, and the outcome says why."""
    with (
        DistributedSystem([one], cell=hosts) as holder,
        DistributedSystem([one], cell=hosts, lock_timeout=0.1) as system,
    ):
        holder.get_lock(unique)
        outcome = system.process_request(Request("write", unique))
        assert not outcome
        assert (outcome.value, outcome.node) == (None, None)
        assert "not got within 0.1 s" in outcome.reason


def test_a_handlers_own_exception_is_raised_and_frees_the_key(hosts, unique):
    """It is the caller's; the key is not locked afterwards, and the request ran once."""
    calls = []

    def broken(request):
        calls.append(request)
        raise LookupError("its own")

    with DistributedSystem([broken, broken], cell=hosts) as system:
        for kind in ("write", "read"):
            with pytest.raises(LookupError, match="its own"):
                system.process_request(Request(kind, unique))
        assert len(calls) == 2
        assert system.get_lock(unique, timeout=0)


def test_a_handler_that_was_not_reached_is_passed_over(still, hosts, unique):
    """NodeUnreachable says that the request was not applied: the next node has it, and this one is set aside."""
    calls = Counter()

    def away(request):
        calls["away"] += 1
        raise NodeUnreachable("not here")

    with DistributedSystem([away, one], cell=hosts) as system:
        assert all(system.process_request(Request("write", unique)).node is one for _ in range(6))
        assert calls["away"] == 1
    with DistributedSystem([away], cell=hosts) as system, pytest.raises(NodeUnreachable):
        system.process_request(Request("write", unique))


def test_many_threads_never_run_two_writes_of_a_key(hosts, unique):
    """8 threads, 2 systems, 3 keys: no two writes of a key overlap, no token falls, and nothing is lost."""
    inside: Counter[str] = Counter()
    overlaps, done = [], Counter()
    guard = TokenGuard()

    def handler(request):
        inside[request.key] += 1
        if inside[request.key] > 1:
            overlaps.append(request.key)
        guard.check(request.key, fencing_token())
        done[request.key] += 1
        inside[request.key] -= 1

    with (
        DistributedSystem([handler], cell=hosts, lock_timeout=60.0) as first,
        DistributedSystem([handler] * 2, cell=hosts, lock_timeout=60.0) as second,
    ):

        def work(number: int) -> None:
            for i in range(15):
                system = (first, second)[(number + i) % 2]
                assert system.process_request(Request("write", f"{unique}-{(number * i) % 3}"))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert overlaps == []
    assert sum(done.values()) == 8 * 15


# -- over HTTP ---------------------------------------------------------------------------------------------


class Instance:
    """A real HTTP server in a thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[tuple[str, str, bytes, str | None]] = []
        self.answer: Response | None = None
        app = Starlette(routes=[Route("/{path:path}", self.handle, methods=["GET", "PUT", "POST"])])
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen()  # now: who comes before the thread is ready waits, and is not refused
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, args=([self.sock],), daemon=True)
        self.thread.start()

    async def handle(self, request: HttpRequest) -> Response:
        token = request.headers.get("synod-fencing-token")
        self.seen.append((request.method, request.url.path, await request.body(), token))
        return self.answer or JSONResponse({"from": self.name})

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.sock.close()


@pytest.fixture
def instances():
    """Two servers."""
    made = [Instance("a"), Instance("b")]
    yield made
    for instance in made:
        instance.stop()


def test_urls_are_nodes(local_hosts, instances, unique):
    """PUT or GET of the quoted key, the token in a header, JSON in and out; the node is the URL as given."""
    with DistributedSystem([instance.url for instance in instances], cell=local_hosts) as system:
        outcome = system.process_request(Request("write", unique + "/ä", body={"n": 1}))
        instance = next(instance for instance in instances if instance.url == outcome.node)
        assert outcome.value == {"from": instance.name}
        assert instance.seen == [("PUT", f"/{unique}/ä", b'{"n": 1}', str(outcome.fencing_token))]
        other = system.process_request(Request("read", unique, path="/other", method="POST"))
        assert other.node != outcome.node
        assert next(i for i in instances if i is not instance).seen == [("POST", "/other", b"", None)]
        for each in instances:
            each.answer = JSONResponse({"why": "no"}, status_code=409)
        with pytest.raises(NodeError, match="answered 409") as caught:
            system.process_request(Request("write", unique))
        assert (caught.value.status, caught.value.value) == (409, {"why": "no"})


def test_a_url_that_refuses_is_passed_over_and_one_that_is_lost_is_not(local_hosts, instances, unique):
    """Refused: the next node has the write. Lost under the write: the caller is told, and nothing is repeated."""
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as silent:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with DistributedSystem([nobody, instances[0].url], cell=local_hosts) as system:
            for _ in range(4):
                assert system.process_request(Request("write", unique)).node == instances[0].url
        hung = f"http://127.0.0.1:{silent.getsockname()[1]}"
        nodes = [hung, instances[1].url]
        with DistributedSystem(nodes, cell=local_hosts, request_timeout=2.0) as system:
            for _ in range(4):
                assert system.process_request(Request("read", unique)).node == instances[1].url
        with DistributedSystem([hung], cell=local_hosts, request_timeout=2.0) as system:
            with pytest.raises(NodeLost, match="may have been applied"):
                system.process_request(Request("write", unique))
            assert system.get_lock(unique, timeout=0)


async def test_a_service_name_finds_its_instances(cell, local_hosts, instances, unique):
    """Registered instances are the nodes; when one goes, the others have its requests."""
    one_, two_ = instances
    async with AsyncDistributedSystem(unique, cell=local_hosts) as system, Registration(cell, unique, one_.url):
        second = Registration(cell, unique, two_.url)
        await second.start()
        await wait_until(lambda: len(system._discovery.view) == 2, "both instances")
        nodes = Counter([(await system.process_request(Request("write", unique))).node for _ in range(6)])
        assert nodes == {one_.url: 3, two_.url: 3}
        await second.close()
        await wait_until(lambda: len(system._discovery.view) == 1, "the end of one")
        assert (await system.process_request(Request("read", unique))).node == one_.url


# -- the asyncio twin --------------------------------------------------------------------------------------


async def test_the_asyncio_twin(cell, hosts, unique):
    """The same methods, awaited; handlers may be coroutine functions; a started client is shared, not closed."""

    async def handler(request):
        await asyncio.sleep(0)
        return request.value, fencing_token()

    async with AsyncDistributedSystem([handler], cell=hosts, lock_timeout=60.0) as system:
        outcomes = await asyncio.gather(*(system.process_request(Request("write", unique, i)) for i in range(20)))
        assert [outcome.value for outcome in outcomes] == [(i, outcomes[i].fencing_token) for i in range(20)]
        assert len({outcome.fencing_token for outcome in outcomes}) == 20
        lock = await system.get_lock(unique)
        assert await system.get_lock(unique, timeout=0) is None
        assert await system.get_lock(unique, reentrant=True) is lock
        assert [await system.release_lock(unique) for _ in range(3)] == [True, True, False]
        assert (await system.process_request(Request("read", unique, 1))).value == (1, None)
    async with AsyncDistributedSystem([one], cell=cell) as system:
        assert await system.process_request(Request("write", unique))
    assert cell.state == "connected"


async def test_a_system_that_was_not_started_says_so():
    """One sentence instead of an AttributeError."""
    with pytest.raises(NotApplied, match="async with"):
        await AsyncDistributedSystem([one]).get_lock("x")
