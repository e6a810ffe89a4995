"""DistributedSystem and its asyncio twin: locks on keys, and requests that run where they should.

Both share what is below: `_Outcome`-building in `RequestOutcome`, the nodes, the sender and the locks. Read
`AsyncDistributedSystem.process_request` first; the blocking one is the same, with handlers run by the caller's
own thread and everything else on one event loop in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import weakref
from collections.abc import Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Final, Self, TypeVar

from synod.balance import Lease, NoEndpoint, Outcome
from synod.base import NotApplied
from synod.client import Cell, connect

from ._default import default_cell, release_default_cell
from ._discovery import Discovery
from ._keys import NAMESPACE_DEFAULT, key_bytes
from ._locks import KeyLock, Locks
from ._nodes import Handler, NodeChoice, Nodes, check_request
from ._router import PolicyChoice, now_micros
from ._sender import REQUEST_TIMEOUT_S, NodeLost, NodeUnreachable, Sender
from ._transport import ATTEMPTS_MAX

T = TypeVar("T")

LOCK_TIMEOUT_S: Final = 10.0

_token: ContextVar[int | None] = ContextVar("synod_fencing_token", default=None)


def fencing_token() -> int | None:
    """Inside a handler: the token of the lock that this write runs under; None in a read.

    Hand it to whatever the handler writes to; that must refuse a token lower than the highest it has seen.
    """
    return _token.get()


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to use; any object with `type` and `key` will do.

    Args:
        type: "write" or "read".
        key: what it is about.
        value: for the handler; this framework does not look at it.
        body: what is sent to a URL: bytes, or anything that JSON can say.
        method: of HTTP; None is PUT for a write and GET for a read.
        path: at the URL; None is "/" and the quoted key.
    """

    type: str
    key: str | bytes
    value: Any = None
    body: Any = None
    method: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What became of a request; true when a node handled it.

    Args:
        handled: whether a node handled it. If not, no node saw it.
        value: what the node returned.
        node: the function or address that handled it.
        fencing_token: of the lock that a write ran under.
        reason: why it was not handled; or that the lock was lost while the node ran.
    """

    handled: bool
    value: Any = None
    node: Handler | str | None = None
    fencing_token: int | None = None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.handled


LOST_MEANWHILE: Final = "the lock was lost while the node ran; what it wrote is fenced by its token"


class AsyncDistributedSystem:
    """The asyncio twin of `DistributedSystem`: the same arguments and methods, awaited.

    Handlers may be coroutine functions; a plain function runs on the loop itself, so it must not block.
    `cell` may also be a started `synod.Cell`, which is then shared and not closed.
    """

    def __init__(
        self,
        nodes: NodeChoice,
        cell: str | Cell | None = None,
        policy: PolicyChoice = "round_robin",
        lock_timeout: float = LOCK_TIMEOUT_S,
        *,
        namespace: str = NAMESPACE_DEFAULT,
        request_timeout: float = REQUEST_TIMEOUT_S,
        http: ModuleType | None = None,
        seed: int | None = None,
    ) -> None:
        self.lock_timeout = lock_timeout
        self._nodes = Nodes(nodes, policy, seed=seed)
        self._sender = Sender(http, request_timeout)
        self._given = cell
        self._namespace = namespace
        self._cell: Cell | None = None
        self._locks: Locks | None = None
        self._discovery: Discovery | None = None
        self._uses_default_cell = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect to the cell, and find the instances of the service.

        Raises:
            NotApplied: no replica took this client in; nothing was done.
        """
        if self._cell is not None:
            return
        if isinstance(self._given, Cell):
            self._cell = self._given
        else:
            hosts = self._given
            if hosts is None:
                hosts = await asyncio.to_thread(default_cell)
                self._uses_default_cell = True
            self._cell = connect(hosts)
            try:
                await self._cell.start()
            except BaseException:
                await self._close_cell()
                raise
        self._locks = Locks(self._cell, self._namespace)
        if self._nodes.service is not None:
            self._discovery = Discovery(self._cell, self._nodes.service, self._nodes.take_view)
            await self._discovery.start()

    async def close(self) -> None:
        """Release every lock, and leave the cell."""
        if self._discovery is not None:
            await self._discovery.close()
        if self._locks is not None:
            await self._locks.close()
        await self._sender.close()
        await self._close_cell()

    async def _close_cell(self) -> None:
        cell, self._cell = self._cell, None
        if cell is not None and cell is not self._given:
            await cell.close()
        if self._uses_default_cell:
            self._uses_default_cell = False
            await asyncio.to_thread(release_default_cell)

    @property
    def locks(self) -> Locks:
        """The locks of this system.

        Raises:
            NotApplied: it is not started, or closed.
        """
        if self._cell is None or self._locks is None:
            raise NotApplied("this system is not started, or closed: use `async with`; nothing was done")
        return self._locks

    async def get_lock(
        self,
        key: str | bytes,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface says so
        *,
        reentrant: bool = False,
    ) -> KeyLock | None:
        """See `DistributedSystem.get_lock`; re-entrant by task."""
        owner = asyncio.current_task()
        if reentrant and (again := self.locks.again(key, owner)) is not None:
            return again
        got = await self.locks.acquire(key, self.lock_timeout if timeout is None else timeout, owner)
        return got if isinstance(got, KeyLock) else None

    async def release_lock(self, key: str | bytes) -> bool:
        """See `DistributedSystem.release_lock`."""
        lock = self.locks.take(key, asyncio.current_task())
        return False if lock is None else await self.locks.release(lock)

    async def process_request(self, request: Any) -> RequestOutcome:  # noqa: ANN401 - any object with type and key
        """See `DistributedSystem.process_request`."""
        is_write, key = check_request(request)
        if not is_write:
            return await self._run(request, key, None)
        lock = await self.locks.acquire(key, self.lock_timeout, object())
        if isinstance(lock, str):
            return RequestOutcome(handled=False, reason=lock)
        try:
            return await self._run(request, key, lock)
        finally:
            self.locks.forget(lock)
            await lock.release()

    async def _run(self, request: Any, key: str | bytes, lock: KeyLock | None) -> RequestOutcome:  # noqa: ANN401
        attempts = Attempts(self._nodes, key, lock)
        while True:
            with attempts.one() as attempt:
                handler = self._nodes.handler(attempt.lease)
                if handler is None:
                    await attempt.send(self._sender, request)
                else:
                    with _token_set(attempt.token):
                        result = handler(request)
                        attempt.value = await result if inspect.isawaitable(result) else result
            if attempts.outcome is not None:
                return attempts.outcome

    async def send(self, attempt: Attempt, request: Any) -> None:  # noqa: ANN401
        """One attempt over HTTP, for the blocking twin."""
        await attempt.send(self._sender, request)


class Attempt:
    """One try at one node."""

    __slots__ = ("is_write", "lease", "report", "token", "value")

    def __init__(self, lease: Lease, lock: KeyLock | None) -> None:
        self.lease = lease
        self.token = None if lock is None else lock.fencing_token
        self.is_write = lock is not None
        self.value: Any = None
        self.report: Any = None

    async def send(self, sender: Sender, request: Any) -> None:  # noqa: ANN401
        """Ask the instance."""
        self.value, self.report = await sender.send(
            self.lease.endpoint.address, request, is_write=self.is_write, token=self.token
        )


class Attempts:
    """The tries of one request: which node, what its failure means, and when to stop.

    A node that was not reached has not seen the request: the next one is tried. A node that was lost may have
    applied it: a read is tried elsewhere, a write is not. What the node itself raises is the caller's.
    """

    def __init__(self, nodes: Nodes, key: str | bytes, lock: KeyLock | None) -> None:
        self._nodes = nodes
        self._key = key_bytes(key)
        self._lock = lock
        self._tried: set[str] = set()
        self._lost = 0
        self._failure: Exception | None = None
        self.outcome: RequestOutcome | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[Attempt]:
        """Pick a node, let the body run the request there, and judge how it went; then look at `outcome`.

        Raises:
            NodeLost: a node was lost with a write, or too often with a read.
            NoEndpoint: there is no node.
            NodeUnreachable: no node could be reached.
            Exception: what the node's own code raised.
        """
        try:
            lease = self._nodes.pick(self._key, self._tried)
        except NoEndpoint as none:
            raise self._failure or none from none
        attempt = Attempt(lease, self._lock)
        began = now_micros()
        judged = Outcome.CANCELLED
        try:
            yield attempt
            judged = Outcome.SUCCESS
            self._handled(attempt)
        except NodeUnreachable as unreachable:
            judged = Outcome.REFUSED
            self._failure = unreachable
        except NodeLost as lost:
            judged = lost.outcome
            self._lost += 1
            if self._lock is not None or self._lost >= ATTEMPTS_MAX:
                raise
            self._failure = lost
        except Exception:
            judged = Outcome.ERROR
            raise
        finally:
            self._nodes.done(lease, judged, began, attempt.report)

    def _handled(self, attempt: Attempt) -> None:
        is_lost = self._lock is not None and not self._lock.is_held
        self.outcome = RequestOutcome(
            handled=True,
            value=attempt.value,
            node=self._nodes.node(attempt.lease),
            fencing_token=attempt.token,
            reason=LOST_MEANWHILE if is_lost else "",
        )


class DistributedSystem:
    """Locks on keys across machines, and requests that write under them or are balanced over nodes. Blocking.

    Thread-safe: any number of threads may use one system. It starts with its construction, and ends with `close`
    or `with`. It has no lock table of its own: every lock is the cell's.

    Args:
        nodes: functions of one request (in this process), URLs of instances, or the name of a registered service.
        cell: `host:port,...` of a cell or of a ZooKeeper ensemble; None is a cell of one replica in this process,
            shared by all systems of the process.
        policy: how a node is picked: a name of `synod.balance.POLICY_NAMES`, or a function that makes a rule.
        lock_timeout: seconds that `get_lock` and a write wait for a lock.
        namespace: keys of different namespaces never meet.
        request_timeout: seconds that a URL may take to answer.
        http: `httpx2` or `httpx`; None takes the one that is installed. Only URLs and services need it.
        seed: of the policy's chance.

    Raises:
        UserError: nodes, policy or addresses cannot be used.
        NotApplied: no replica took this client in; nothing was done.
    """

    def __init__(
        self,
        nodes: NodeChoice,
        cell: str | None = None,
        policy: PolicyChoice = "round_robin",
        lock_timeout: float = LOCK_TIMEOUT_S,
        *,
        namespace: str = NAMESPACE_DEFAULT,
        request_timeout: float = REQUEST_TIMEOUT_S,
        http: ModuleType | None = None,
        seed: int | None = None,
    ) -> None:
        self._twin = AsyncDistributedSystem(
            nodes,
            cell,
            policy,
            lock_timeout,
            namespace=namespace,
            request_timeout=request_timeout,
            http=http,
            seed=seed,
        )
        self.lock_timeout = lock_timeout
        self._nodes = self._twin._nodes  # noqa: SLF001 - the twin
        self._loop = _LoopThread()
        # A system that nobody closes is closed when it is collected, or when the process ends.
        self._finalizer = weakref.finalize(self, _shut_down, self._loop, self._twin)
        try:
            self._loop.run(self._twin.start())
        except BaseException:
            self._finalizer()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release every lock, and leave the cell. Harmless when done twice."""
        self._finalizer()

    def get_lock(self, key: str | bytes, timeout: float | None = None, *, reentrant: bool = False) -> KeyLock | None:
        """Get the lock on a key.

        Args:
            key: any str or bytes.
            timeout: seconds to wait; None is `lock_timeout`, 0 tries once.
            reentrant: if this thread holds the lock, have it once more; each one is to be released.

        Returns:
            The lock, which has a `fencing_token`; or None when it was not got in time, and then nothing is held.
        """
        owner = threading.get_ident()
        if reentrant and (again := self._twin.locks.again(key, owner)) is not None:
            return again
        seconds = self.lock_timeout if timeout is None else timeout
        got = self._loop.run(self._twin.locks.acquire(key, seconds, owner))
        return got if isinstance(got, KeyLock) else None

    def release_lock(self, key: str | bytes) -> bool:
        """Give the lock on a key back.

        Returns:
            True if this system held it; False if it did not, or had lost it.
        """
        lock = self._twin.locks.take(key, threading.get_ident())
        return False if lock is None else self._loop.run(self._twin.locks.release(lock))

    def process_request(self, request: Any) -> RequestOutcome:  # noqa: ANN401 - any object with type and key
        """Run a request: a write under the lock on its key, a read at once; each on a node that the policy picks.

        Handlers run in the calling thread; they find the token with `synod.service.fencing_token()`. A node that
        cannot be reached is passed over, as long as the request cannot have been applied.

        Args:
            request: has `type`, "write" or "read", and `key`; for URLs also what `Sender` says.

        Returns:
            An outcome, true when a node handled the request; false, with the reason, when the lock was not got.

        Raises:
            ValueError: the type is neither.
            NodeLost: a node was lost with a write: it may or may not have been applied.
            NodeUnreachable, NoEndpoint: no node could be reached; it was not applied.
            Exception: what the handler itself raised.
        """
        is_write, key = check_request(request)
        if not is_write:
            return self._run(request, key, None)
        lock = self._loop.run(self._twin.locks.acquire(key, self.lock_timeout, object()))
        if isinstance(lock, str):
            return RequestOutcome(handled=False, reason=lock)
        try:
            return self._run(request, key, lock)
        finally:
            self._twin.locks.forget(lock)
            self._loop.run(lock.release())

    def _run(self, request: Any, key: str | bytes, lock: KeyLock | None) -> RequestOutcome:  # noqa: ANN401
        attempts = Attempts(self._nodes, key, lock)
        while True:
            with attempts.one() as attempt:
                handler = self._nodes.handler(attempt.lease)
                if handler is None:
                    self._loop.run(self._twin.send(attempt, request))
                else:
                    with _token_set(attempt.token):
                        result = handler(request)
                        if inspect.iscoroutine(result):
                            result = self._loop.run(result)
                        attempt.value = result
            if attempts.outcome is not None:
                return attempts.outcome


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="synod-system", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine on the loop; an interrupt of the waiting thread cancels it."""
        if self.loop.is_closed():
            work.close()
            raise NotApplied("this system is closed; nothing was done")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def _shut_down(loop: _LoopThread, twin: AsyncDistributedSystem) -> None:
    try:
        loop.run(twin.close())
    finally:
        loop.run(loop.loop.shutdown_default_executor())
        loop.stop()


@contextlib.contextmanager
def _token_set(token: int | None) -> Iterator[None]:
    before = _token.set(token)
    try:
        yield
    finally:
        _token.reset(before)
