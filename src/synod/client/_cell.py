"""The asyncio client of a cell: `connect` and `Cell`.

Every method sends its request at once, in the order of the calls, and waits for the answer. Read
`Cell.get`, then `_call`, then `_watch.watch`; the session below is `_session`, its connections `_driver`.
"""

# ruff: noqa: ASYNC109 - a request's deadline goes with the request, also when it waits for a connection
from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from synod.base import (
    MILLISECOND,
    SECOND,
    BadArguments,
    Clock,
    Micros,
    NodeExists,
    NoNode,
    NotEmpty,
    UserError,
)
from synod.wire import (
    ACL,
    CREATE_CONTAINER,
    CREATE_EPHEMERAL,
    CREATE_SEQUENTIAL,
    CREATE_TTL,
    CREATE_TTL_SEQUENTIAL,
    ERR_RUNTIME_INCONSISTENCY,
    OK,
    OP_WHO_AM_I,
    OPEN_ACL,
    VERSION_ANY,
    Bare,
    Create,
    Delete,
    Exists,
    GetACL,
    GetChildren,
    GetData,
    Id,
    Multi,
    MultiResult,
    Reader,
    Request,
    SetACL,
    SetData,
    Stat,
    Sync,
    WatcherEvent,
    take_acl,
    take_children_stat,
    take_data,
    take_ids,
    take_multi,
    take_path,
    take_path_stat,
    take_stat,
    validate_path,
)
from synod.wire import (
    Change as WireChange,
)

from ._clock import clock_here, rng_here
from ._driver import Driver
from ._errors import Unavailable
from ._explain import refused
from ._hosts import parse_hosts
from ._lease import Lease
from ._session import Changed, Event, Fired, Lapsed, Session, SessionOptions, State
from ._transaction import Transaction
from ._watch import Change, watch
from ._watches import CHILD, DATA, Watcher

if TYPE_CHECKING:
    from synod.recipes import Election, Lock

T = TypeVar("T")

Listener = Callable[[State], None]
"""Is told of every change of the session's state, on the event loop."""


class SessionInfo(NamedTuple):
    """A session as its client knows it. Whoever has `id` and `password` may resume it."""

    id: int
    password: bytes
    timeout_ms: int
    state: State
    address: str
    last_zxid: int


class Cell:
    """A connection to a cell, or to an Apache ZooKeeper ensemble, that keeps itself up.

    It moves to another replica when its own fails; what cannot be known then is said (`OutcomeUnknown`), reads
    are repeated by themselves. When the session is over a new one is opened: ephemerals, locks and watches of
    the old one end with a clear error or a `gap`, never silently.

    Not thread-safe: it belongs to the event loop on which it was made.

    Args:
        hosts: `host:port,host:port`.
        timeout: seconds that a request waits for its answer, unless it says otherwise.
        session_timeout_ms: how long the cell keeps the session without a word from it; the cell may adjust it.
        auth: (scheme, credentials) pairs, sent before anything else.
        tls: for cells that ask for it.
        session: of `SessionInfo`: resume this session instead of opening one.
    """

    def __init__(
        self,
        hosts: str,
        *,
        timeout: float = 10.0,
        session_timeout_ms: int = 10_000,
        auth: Iterable[tuple[str, str | bytes]] = (),
        tls: ssl.SSLContext | None = None,
        session: SessionInfo | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.hosts = parse_hosts(hosts)
        self.timeout = timeout
        self._clock = clock or clock_here()
        self._rng = rng or rng_here()
        self._session = Session(
            self.hosts,
            options=SessionOptions(
                session_timeout_ms=session_timeout_ms, last_zxid_seen=session.last_zxid if session else 0
            ),
            rng=self._rng,
            now=self._clock.monotonic(),
            session_id=session.id if session else 0,
            password=session.password if session else b"",
        )
        self._session.is_gone = _is_gone
        self._tls = tls
        self._driver: Driver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Listener] = []
        self._leases: list[Lease] = []
        self._background: set[asyncio.Task[Any]] = set()
        self._state_waiters: list[asyncio.Future[None]] = []
        for scheme, credentials in auth:
            self._session.add_auth(scheme, _bytes(credentials), sink=None)

    # -- opening and closing --------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and wait until a replica serves the session; `async with` and `await` do this.

        Raises:
            Unavailable: none did within the cell's timeout; nothing was done.
        """
        if self._driver is None:
            self._loop = asyncio.get_running_loop()
            self._driver = Driver(self._session, self._clock, self._tls, self._heard)
            self._driver.start()
        try:
            await self.wait_connected(timeout=self.timeout)
        except BaseException:
            await self.close()
            raise

    def __await__(self) -> Generator[Any, Any, Self]:
        """Connect."""
        yield from self.start().__await__()
        return self

    async def __aenter__(self) -> Self:
        """Connect."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session."""
        await self.close()

    async def close(self) -> None:
        """End the session at the cell: its ephemerals and locks go at once. May be called again."""
        await self._stop_background()
        if self._driver is None or self._loop is None:
            self._session.abandon()
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._session.close(future, self.now())
        self._driver.touched()
        try:
            await future
        finally:
            self._driver.shut()

    async def detach(self) -> SessionInfo:
        """Leave without ending the session: whoever has what is returned may resume it within its timeout."""
        info = self.session
        await self._stop_background()
        self._session.abandon()
        if self._driver is not None:
            self._driver.start()
            self._driver.shut()
        return info

    async def _stop_background(self) -> None:
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    # -- the session ----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the session stands; `suspended` is jeopardy: it may be kept, or be over soon."""
        return self._session.state

    @property
    def session(self) -> SessionInfo:
        """The session as it is now."""
        s = self._session
        address = str(s.address) if s.address and s.state == "connected" else ""
        return SessionInfo(s.session_id, s.password, s.timeout // MILLISECOND, s.state, address, s.last_zxid)

    @property
    def session_id(self) -> int:
        """The session's id; another one after an expiry, 0 while there is none."""
        return self._session.session_id

    @property
    def session_timeout_ms(self) -> int:
        """What the cell granted; before it did, what is asked for."""
        return self._session.timeout // MILLISECOND

    @property
    def lease_deadline(self) -> Micros:
        """Until when the session is safe if nothing more is heard; microseconds of `now`."""
        return self._session.lease_deadline

    def now(self) -> Micros:
        """The session's clock, which goes on during suspend."""
        return self._clock.monotonic()

    def draw_name(self) -> str:
        """32 hexadecimal digits that nobody else draws."""
        return f"{self._rng.getrandbits(128):032x}"

    def lease(self, what: str, *, session_id: int | None = None) -> Lease:
        """Watch over the session's lease, on which `what` depends.

        Args:
            what: for error messages, such as "the lock /a".
            session_id: of the session meant; when it is over by now, so is the lease.
        """
        lease = Lease(self, what, self.session_id if session_id is None else session_id)
        self._leases.append(lease)
        self._guard(1)
        lease.begin()
        return lease

    def let_go(self, lease: Lease) -> None:
        """Watch over this lease no more; for `Lease` itself."""
        if lease in self._leases:
            self._leases.remove(lease)
            self._guard(-1)

    def _guard(self, change: int) -> None:
        if self._driver is not None:
            self._driver.guard(change)

    def add_listener(self, listener: Listener) -> None:
        """Tell this callable of every change of the session's state."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Tell it no more; it may be unknown."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    async def wait_connected(self, *, timeout: float | None = None) -> None:
        """Wait until a replica serves the session.

        Args:
            timeout: in seconds; None is without end.

        Raises:
            Unavailable: none did in time, or the cell is closed.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.state not in ("connected", "closed"):
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._state_waiters.append(waiter)
                    await waiter
        except TimeoutError:
            why = self._session.failure or "no attempt has ended yet"
            raise Unavailable(
                f"no replica of {self._addresses} serves us ({why}); nothing was sent: is the cell running, and has it a "
                "majority?"
            ) from None
        if self.state == "closed":
            raise Unavailable(f"the cell {self._addresses} was closed: nothing was sent")

    @property
    def _addresses(self) -> str:
        return ",".join(str(address) for address in self.hosts)

    def run_in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this until it is done or the cell is closed, whatever becomes of the caller."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # -- znodes ---------------------------------------------------------------------------------------

    async def get(self, path: str, *, watch: Watcher | None = None, timeout: float | None = None) -> tuple[bytes, Stat]:
        """A znode's data and stat.

        Args:
            path: of the znode.
            watch: is called once, when the data changes or the znode goes, or when the session ends.
            timeout: in seconds; the cell's own if None.

        Raises:
            NoNode: there is none.
        """
        validate_path(path)
        request = GetData(path, watch is not None)
        return await self._call(request, path, take_data, timeout, watcher=watch, repeatable=True)

    async def exists(self, path: str, *, watch: Watcher | None = None, timeout: float | None = None) -> Stat | None:
        """A znode's stat, or None where there is none; `watch` is set in both cases."""
        validate_path(path)
        request = Exists(path, watch is not None)
        try:
            return await self._call(request, path, take_stat, timeout, watcher=watch, repeatable=True)
        except NoNode:
            return None

    async def children(self, path: str, *, watch: Watcher | None = None, timeout: float | None = None) -> list[str]:
        """The names below a znode, sorted.

        Raises:
            NoNode: there is no such znode.
        """
        return (await self.children_stat(path, watch=watch, timeout=timeout))[0]

    async def children_stat(
        self, path: str, *, watch: Watcher | None = None, timeout: float | None = None
    ) -> tuple[list[str], Stat]:
        """The names below a znode, sorted, and the znode's own stat.

        Raises:
            NoNode: there is no such znode.
        """
        validate_path(path)
        request = GetChildren(path, watch is not None, with_stat=True)
        names, stat = await self._call(
            request, path, take_children_stat, timeout, watcher=watch, kind=CHILD, repeatable=True
        )
        return sorted(names), stat

    async def set(self, path: str, data: bytes, *, version: int = VERSION_ANY, timeout: float | None = None) -> Stat:
        """Replace a znode's data.

        Args:
            path: of the znode.
            data: the new content.
            version: that the znode must have; -1 is any.
            timeout: in seconds; the cell's own if None.

        Raises:
            NoNode, BadVersion: nothing was changed.
            OutcomeUnknown: it may have happened.
        """
        validate_path(path)
        return await self._call(SetData(path, data, version), path, take_stat, timeout)

    async def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        container: bool = False,
        ttl_ms: int | None = None,
        makepath: bool = False,
        acl: Sequence[ACL] = OPEN_ACL,
        timeout: float | None = None,
    ) -> str:
        """Create a znode and return its path, which a sequential one is told only now.

        Args:
            path: of the znode; of a sequential one the part before the number.
            data: its content.
            ephemeral: goes when the session ends.
            sequential: the cell appends a rising number of ten digits.
            container: goes by itself some time after its last child did.
            ttl_ms: goes by itself when unchanged and without children for so long.
            makepath: create what is missing above it.
            acl: who may do what with it, and with parents made.
            timeout: in seconds; the cell's own if None.

        Raises:
            NodeExists, NoNode: nothing was created.
            OutcomeUnknown: it may have been created.
        """
        path, _ = await self.create_stat(
            path,
            data,
            ephemeral=ephemeral,
            sequential=sequential,
            container=container,
            ttl_ms=ttl_ms,
            makepath=makepath,
            acl=acl,
            timeout=timeout,
        )
        return path

    async def create_stat(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        container: bool = False,
        ttl_ms: int | None = None,
        makepath: bool = False,
        acl: Sequence[ACL] = OPEN_ACL,
        timeout: float | None = None,
    ) -> tuple[str, Stat]:
        """As `create`, but the new znode's stat is returned as well."""
        validate_path(path, sequential=sequential)
        flags = _flags(ephemeral=ephemeral, sequential=sequential, container=container, ttl_ms=ttl_ms)
        request = Create(path, data, tuple(acl), flags, with_stat=True, ttl_ms=ttl_ms)
        while True:
            try:
                return await self._call(request, path, take_path_stat, timeout)
            except NoNode:
                if not makepath:
                    raise
            await self.ensure_path(path.rpartition("/")[0], acl=acl, timeout=timeout)

    async def ensure_path(self, path: str, *, acl: Sequence[ACL] = OPEN_ACL, timeout: float | None = None) -> None:
        """Create the znode and all above it, where they are missing."""
        if path in ("", "/"):
            return
        validate_path(path)
        try:
            await self._call(Create(path, b"", tuple(acl)), path, take_path, timeout)
        except NodeExists:
            return
        except NoNode:
            await self.ensure_path(path.rpartition("/")[0], acl=acl, timeout=timeout)
            await self.ensure_path(path, acl=acl, timeout=timeout)

    async def delete(
        self, path: str, *, version: int = VERSION_ANY, recursive: bool = False, timeout: float | None = None
    ) -> None:
        """Delete a znode; with everything below it when `recursive` (one by one, not at once).

        Raises:
            NoNode, BadVersion, NotEmpty: the znode was not deleted.
            OutcomeUnknown: it may have been deleted.
        """
        validate_path(path)
        while True:
            try:
                await self._call(Delete(path, version), path, None, timeout)
            except NotEmpty:
                if not recursive:
                    raise
            else:
                return
            await self._delete_children(path, timeout)

    async def _delete_children(self, path: str, timeout: float | None) -> None:
        """Try all children at once, and go down only where that does not do."""
        try:
            names = await self.children(path, timeout=timeout)
        except NoNode:
            return
        below = [_join(path, name) for name in names]
        tries: list[asyncio.Future[None]] = [
            self.submit(Delete(child), child, None, timeout=timeout) for child in below
        ]
        for child, outcome in zip(below, await asyncio.gather(*tries, return_exceptions=True), strict=True):
            if isinstance(outcome, NotEmpty):
                await self._delete_children(child, timeout)
                tries.append(self.submit(Delete(child), child, None, timeout=timeout))
                outcome = (await asyncio.gather(tries[-1], return_exceptions=True))[0]
            if isinstance(outcome, BaseException) and not isinstance(outcome, NoNode | NotEmpty):
                raise outcome

    async def sync(self, path: str = "/", *, timeout: float | None = None) -> None:
        """Wait until the replica knows everything that any client was told before this was called."""
        validate_path(path)
        await self._call(Sync(path), path, take_path, timeout, repeatable=True)

    # -- several at once ------------------------------------------------------------------------------

    async def multi(self, changes: Sequence[WireChange], *, timeout: float | None = None) -> list[str | Stat | None]:
        """All of these changes, or none.

        Returns:
            Of each the path of a create, the stat of a set, or None.

        Raises:
            NotApplied: one was refused: the error is that one's, and none was done.
            OutcomeUnknown: they may have been done, all or none.
        """
        for change in changes:
            validate_path(change.path, sequential=isinstance(change, Create) and bool(change.flags & CREATE_SEQUENTIAL))
        results = await self._call(Multi(tuple(changes)), "", take_multi, timeout)
        for index, (change, result) in enumerate(zip(changes, results, strict=False)):
            if result.op == -1 and result.err not in (OK, ERR_RUNTIME_INCONSISTENCY):
                error = refused(change.op, change.path, result.err)
                raise type(error)(f"operation {index + 1} of {len(changes)}, none of which was done: {error}")
        return [_outcome(result) for result in results]

    def transaction(self) -> Transaction:
        """Collect changes that are to happen together: commit them, or use it as `async with`."""
        return Transaction(self.multi)

    # -- who may --------------------------------------------------------------------------------------

    async def get_acl(self, path: str, *, timeout: float | None = None) -> tuple[list[ACL], Stat]:
        """A znode's access control list, and its stat."""
        validate_path(path)
        acl, stat = await self._call(GetACL(path), path, take_acl, timeout, repeatable=True)
        return list(acl), stat

    async def set_acl(
        self, path: str, acl: Sequence[ACL], *, version: int = VERSION_ANY, timeout: float | None = None
    ) -> Stat:
        """Replace a znode's access control list; `version` is that of the list (`Stat.aversion`)."""
        validate_path(path)
        return await self._call(SetACL(path, tuple(acl), version), path, take_stat, timeout)

    async def add_auth(self, scheme: str, credentials: str | bytes, *, timeout: float | None = None) -> None:
        """Authenticate, now and after every reconnect.

        Raises:
            AuthFailed: the credentials were refused; the connection is made again without them.
        """
        driver, loop = self._started()
        future: asyncio.Future[None] = loop.create_future()
        self._session.add_auth(scheme, _bytes(credentials), sink=future, deadline=self._deadline(timeout))
        driver.touched()
        await future

    async def who_am_i(self, *, timeout: float | None = None) -> list[Id]:
        """The identities of this session, as the cell sees them."""
        return list(await self._call(Bare(OP_WHO_AM_I), "", take_ids, timeout, repeatable=True))

    # -- following ------------------------------------------------------------------------------------

    def watch(self, path: str, *, children: bool = False) -> AsyncIterator[Change]:
        """Follow a znode: first as it is now, then every time that it has changed.

        Changes that come faster than they are read are taken together, and a `Change` with `gap` says so;
        so does a session that had to be renewed. The iterator ends when the cell is closed.

        Args:
            path: of the znode, which need not exist.
            children: follow the names below it instead of its data.
        """
        validate_path(path)
        return watch(self, path, children=children)

    def unwatch(self, path: str, watcher: Watcher) -> None:
        """Never call this watcher again."""
        self._session.watches.remove(path, watcher)

    # -- recipes --------------------------------------------------------------------------------------

    def lock(self, path: str, *, identifier: str = "", timeout: float | None = None) -> Lock:
        """A fenced lock: `async with cell.lock(path) as lock: lock.fencing_token`; see `recipes.Lock`."""
        from synod.recipes import Lock

        return Lock(self, path, identifier=identifier, timeout=timeout)

    def elect(self, path: str, *, identifier: str = "", timeout: float | None = None) -> Election:
        """An election: `async with cell.elect(path) as leadership:`; see `recipes.Election`."""
        from synod.recipes import Election

        return Election(self, path, identifier=identifier, timeout=timeout)

    # -- below ----------------------------------------------------------------------------------------

    def submit(
        self,
        request: Request,
        path: str,
        take: Callable[[Reader], T] | None,
        *,
        timeout: float | None = None,
        forever: bool = False,
        watcher: Watcher | None = None,
        kind: int = DATA,
        repeatable: bool = False,
    ) -> asyncio.Future[T]:
        """Send a request of `synod.wire` now and return its future; requests go out in the order of these calls.

        Args:
            request: its record.
            path: for error messages, and for the watch.
            take: reads the reply's body; None when it has none.
            timeout: in seconds; the cell's own if None.
            forever: wait without a timeout.
            watcher: is called once the watch fires that the request asks for.
            kind: what is watched.
            repeatable: a read: sent again by itself after a lost connection.
        """
        driver, loop = self._started()
        future: asyncio.Future[T] = loop.create_future()
        self._session.submit(
            request,
            path=path,
            take=take,
            sink=future,
            deadline=None if forever else self._deadline(timeout),
            watcher=watcher,
            kind=kind,
            repeatable=repeatable,
        )
        driver.touched()
        return future

    def _started(self) -> tuple[Driver, asyncio.AbstractEventLoop]:
        if self._driver is None or self._loop is None:
            raise UserError("this cell was not started: use `async with synod.connect(...)`; nothing was sent")
        return self._driver, self._loop

    async def _call(
        self,
        request: Request,
        path: str,
        take: Callable[[Reader], T] | None,
        timeout: float | None,
        *,
        watcher: Watcher | None = None,
        kind: int = DATA,
        repeatable: bool = False,
    ) -> T:
        return await self.submit(
            request, path, take, timeout=timeout, watcher=watcher, kind=kind, repeatable=repeatable
        )

    def _deadline(self, timeout: float | None) -> Micros:
        return self.now() + int((self.timeout if timeout is None else timeout) * SECOND)

    def _heard(self, event: Event) -> None:
        if isinstance(event, Fired):
            for watcher in event.watchers:
                self._tell(watcher, event.event)
        elif isinstance(event, Changed | Lapsed):
            # What hung on the lease is told first: it must stop before others begin.
            for lease in tuple(self._leases):
                lease.heard(event)
            if isinstance(event, Changed):
                self._changed(event.state)

    def _changed(self, state: State) -> None:
        for listener in tuple(self._listeners):
            self._tell(listener, state)
        waiters, self._state_waiters = self._state_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self, listener: Callable[[Any], None], event: WatcherEvent | State) -> None:
        try:
            listener(event)
        except Exception as error:  # noqa: BLE001 - one listener's bug must not keep the others from hearing
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"a listener of the cell {self._addresses} failed", "exception": error}
            )


def connect(
    hosts: str,
    *,
    timeout: float = 10.0,
    session_timeout_ms: int = 10_000,
    auth: Iterable[tuple[str, str | bytes]] = (),
    tls: ssl.SSLContext | None = None,
    session: SessionInfo | None = None,
) -> Cell:
    """Make a client of a cell; `async with` or `await` opens it.

    See `Cell` for the arguments. Works with Apache ZooKeeper as well.

    Raises:
        ConfigError: `hosts` is malformed.
    """
    return Cell(hosts, timeout=timeout, session_timeout_ms=session_timeout_ms, auth=auth, tls=tls, session=session)


def _flags(*, ephemeral: bool, sequential: bool, container: bool, ttl_ms: int | None) -> int:
    if container and (ephemeral or sequential or ttl_ms is not None):
        raise BadArguments("a container is neither ephemeral nor sequential, and has no time to live; nothing was sent")
    if ttl_ms is not None:
        if ephemeral:
            raise BadArguments("an ephemeral znode has no time to live of its own; nothing was sent")
        return CREATE_TTL_SEQUENTIAL if sequential else CREATE_TTL
    if container:
        return CREATE_CONTAINER
    return (CREATE_EPHEMERAL if ephemeral else 0) | (CREATE_SEQUENTIAL if sequential else 0)


def _outcome(result: MultiResult) -> str | Stat | None:
    value = result.value
    if isinstance(value, tuple) and not isinstance(value, Stat):
        value = value[0]  # of a create2 the path, and a stat that nobody asked for
    return value if isinstance(value, str | Stat) else None


def _is_gone(future: asyncio.Future[Any] | None) -> bool:
    return future is not None and future.done()


def _bytes(credentials: str | bytes) -> bytes:
    return credentials.encode() if isinstance(credentials, str) else credentials


def _join(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"
