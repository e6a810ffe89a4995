"""The asyncio client of a cell, or of an Apache ZooKeeper ensemble: one session, moved between replicas by itself.

No task per request: a request is a future that the session's reply completes. Read `Cell.get`, then `_run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar, cast

from synod.base import (
    BadArguments,
    Micros,
    NodeExists,
    NoNode,
    NotApplied,
    OperationTimeout,
    RemoteProtocolError,
    SynodError,
    UserError,
    error_for_code,
)
from synod.wire import (
    ACL,
    CREATE_EPHEMERAL,
    CREATE_SEQUENTIAL,
    ERR_RUNTIME_INCONSISTENCY,
    EVENT_NONE,
    FRAME_BYTES_MAX,
    OP_CLOSE_SESSION,
    OP_DELETE,
    OP_ERROR,
    OP_EXISTS,
    OP_GET_ACL,
    OP_GET_CHILDREN2,
    OP_GET_DATA,
    OP_MULTI,
    OP_SET_ACL,
    OP_SET_DATA,
    OP_SYNC,
    OPEN_ACL,
    Change,
    Create,
    Delete,
    Exists,
    GetACL,
    GetChildren,
    GetData,
    Multi,
    MultiResult,
    Reader,
    SetACL,
    SetData,
    Stat,
    Sync,
    WatcherEvent,
    path_problem,
    take_acl,
    take_children_stat,
    take_data,
    take_multi,
    take_path,
    take_path_stat,
    take_stat,
)

from ._hosts import parse_hosts
from ._session import Call, ClientSession, State, WatchKind

if TYPE_CHECKING:
    from synod.recipes import Election, Lock

T = TypeVar("T")
Fire = Callable[[WatcherEvent], None]

DIAL_TIMEOUT_S: Final = 2.0
RETRY_FIRST_S: Final = 0.02
RETRY_MAX_S: Final = 1.0
VALUE_BYTES_MAX: Final = FRAME_BYTES_MAX - 1024
"""A value must fit into a frame together with its path and header."""


def boot_clock() -> Micros:
    """Microseconds of a clock that goes on while the machine sleeps: a lease does not wait for us."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return time.monotonic_ns() // 1000


class _Connection(asyncio.Protocol):
    """The present TCP connection."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._cell.bytes_received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- the protocol's signature
        if not self.lost.done():
            self.lost.set_result(None)


class Cell:
    """A client of a cell.

    Made by `synod.connect`. When the session expires (this client was cut off for longer than its timeout), a
    new one is opened by itself; what hung on the old one, locks and ephemerals, is gone, and says so.

    Args:
        hosts: `host:port,host:port,...`, of some or all replicas.
        timeout: seconds that one request may take, waiting for a connection included.
        session_timeout_ms: how long the cell keeps the session of a silent client.
        session_id: of a session to resume, with `password`.
    """

    def __init__(
        self,
        hosts: str,
        *,
        timeout: float = 10.0,
        session_timeout_ms: int = 10_000,
        session_id: int = 0,
        password: bytes = bytes(16),
    ) -> None:
        self.hosts = parse_hosts(hosts)
        self.timeout = timeout
        self._session_timeout_ms = session_timeout_ms
        self._session = self._new_session(session_id, password)
        self._auths: list[tuple[str, bytes]] = []
        self._connection: _Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flush_due = False
        self._listeners: list[Callable[[State], None]] = []
        self._connected = asyncio.Event()
        self._closing = False
        self._last_failure = "no replica has been tried yet"

    def _new_session(self, session_id: int = 0, password: bytes = bytes(16)) -> ClientSession:
        session = ClientSession(self._session_timeout_ms, session_id=session_id, password=password)
        session.on_state = self._state_changed
        return session

    # -- life ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[None, None, Cell]:
        yield from self.start().__await__()
        return self

    async def start(self) -> None:
        """Connect.

        Raises:
            OperationTimeout: no replica answered in `timeout` seconds; nothing was done.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            async with asyncio.timeout(self.timeout):
                await self._connected.wait()
        except TimeoutError:
            await self.close()
            addresses = ",".join(f"{host}:{port}" for host, port in self.hosts)
            raise OperationTimeout(
                f"no replica of {addresses} took this client in within {self.timeout:g} s ({self._last_failure}); "
                f"is the cell running, and has it a majority?"
            ) from None

    async def close(self) -> None:
        """End the session: its ephemerals and locks go at once."""
        if self._closing:
            return
        self._closing = True
        if self._session.state == "connected":
            with contextlib.suppress(SynodError):
                await self._call(OP_CLOSE_SESSION, b"", _nothing, timeout=min(2.0, self.timeout))
        self._session.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.abort()

    @property
    def state(self) -> State:
        """Of the session: connecting, connected, suspended, expired or closed."""
        return self._session.state

    @property
    def session_id(self) -> int:
        """The session's id; another after an expiry."""
        return self._session.session_id

    @property
    def session_password(self) -> bytes:
        """With the id, what resumes the session from another process."""
        return self._session.password

    @property
    def session_timeout_ms(self) -> int:
        """What the cell granted."""
        return self._session.timeout_ms

    @property
    def lease_deadline(self) -> Micros:
        """Until when, on `boot_clock`, nobody can have ended this session."""
        return self._session.lease_deadline

    def add_listener(self, listener: Callable[[State], None]) -> None:
        """Have a function called at every change of state."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[State], None]) -> None:
        """Have it called no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def _state_changed(self, state: State) -> None:
        if state == "connected":
            self._connected.set()
        else:
            self._connected.clear()
        for listener in list(self._listeners):
            listener(state)

    # -- the connection ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Keep a connection to some replica; go on to the next when it is lost."""
        loop = asyncio.get_running_loop()
        hosts = list(self.hosts)
        random.shuffle(hosts)
        wait = RETRY_FIRST_S
        failures = 0
        while not self._closing:
            host, port = hosts[failures % len(hosts)]
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    _, connection = await loop.create_connection(lambda: _Connection(self), host, port)
            except (OSError, TimeoutError) as failure:
                self._last_failure = f"{host}:{port}: {failure or 'no answer'}"
                failures += 1
                if failures % len(hosts) == 0:
                    await asyncio.sleep(wait * (0.5 + random.random()))
                    wait = min(2 * wait, RETRY_MAX_S)
                continue
            self._connection = connection
            self._session.connection_made(boot_clock())
            self._flush()
            await connection.lost
            took_in = self._session.state == "connected"
            self._connection = None
            self._session.connection_lost()
            if self._session.state == "expired":
                self._begin_anew()
            failures += 1
            if took_in:
                wait = RETRY_FIRST_S
            else:
                self._last_failure = f"{host}:{port} closed the connection"
                await asyncio.sleep(wait * (0.5 + random.random()))
                wait = min(2 * wait, RETRY_MAX_S)

    def _begin_anew(self) -> None:
        """The session is over; open another one, with the same credentials."""
        self._session = self._new_session()
        for scheme, credentials in self._auths:
            self._session.add_auth(scheme, credentials, None)

    def bytes_received(self, connection: _Connection, data: bytes) -> None:
        """Bytes from the present connection."""
        if connection is not self._connection:
            return
        try:
            self._session.receive(data, boot_clock())
        except RemoteProtocolError as fault:
            self._last_failure = str(fault)
            self._session.hang_up = True
        if self._session.state == "expired":
            self._session.hang_up = True
        self._flush()

    def _flush(self) -> None:
        self._flush_due = False
        connection = self._connection
        if connection is None or connection.transport is None:
            return
        out = self._session.take_output()
        if out:
            connection.transport.write(out)
        if self._session.hang_up:
            connection.transport.close()
            return
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        delay = max(0, self._session.next_deadline() - boot_clock()) / 1_000_000
        self._timer = asyncio.get_running_loop().call_later(max(delay, 0.001), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._closing or self._connection is None:
            return
        self._session.tick(boot_clock())
        self._flush()

    def _flush_soon(self) -> None:
        """Write once for all requests of this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    # -- requests ------------------------------------------------------------------------------------------

    async def _call(
        self,
        op: int,
        record: bytes,
        read: Callable[[Reader], T],
        *,
        watch: tuple[WatchKind, str, Fire] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- a deadline of the request, not of the task
    ) -> T:
        if len(record) > FRAME_BYTES_MAX - 16:
            raise BadArguments(
                f"the request has {len(record)} bytes, the limit is {FRAME_BYTES_MAX}; nothing was sent. "
                f"Keep large things elsewhere and their address here"
            )
        if self._task is None:
            raise UserError("this client was not started: use `async with synod.connect(...)`; nothing was sent")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(reader: Reader | None, error: SynodError | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
                return
            try:
                future.set_result(read(reader if reader is not None else Reader(b"")))
            except RemoteProtocolError as broken:
                future.set_exception(broken)

        call = Call(op, record, done, watch)
        self._session.submit(call)
        self._flush_soon()
        limit = self.timeout if timeout is None else timeout
        handle = loop.call_later(limit, self._late, self._session, call, future, limit)
        try:
            return await future
        except asyncio.CancelledError:
            self._session.withdraw(call)
            raise
        finally:
            handle.cancel()

    @staticmethod
    def _late(session: ClientSession, call: Call, future: asyncio.Future[T], limit: float) -> None:
        if future.done():
            return
        if session.withdraw(call):
            future.set_exception(NotApplied(f"no replica was reached within {limit:g} s; the request was never sent"))
        else:
            future.set_exception(
                OperationTimeout(f"no answer came within {limit:g} s: the request may or may not have happened")
            )

    async def get(self, path: str, *, watch: Fire | None = None) -> tuple[bytes, Stat]:
        """The value and the stat of a znode.

        Args:
            path: absolute.
            watch: called once when the znode changes or goes.

        Raises:
            NoNode: there is none.
        """
        _demand_path(path)
        return await self._call(
            OP_GET_DATA,
            GetData(path, watch is not None).encode(),
            take_data,
            watch=None if watch is None else ("data", path, watch),
        )

    async def exists(self, path: str, *, watch: Fire | None = None) -> Stat | None:
        """The stat of a znode, or None; `watch` is called once when it comes, changes or goes."""
        _demand_path(path)
        try:
            return await self._call(
                OP_EXISTS,
                Exists(path, watch is not None).encode(),
                take_stat,
                watch=None if watch is None else ("data", path, watch),
            )
        except NoNode:
            return None

    async def children(self, path: str, *, watch: Fire | None = None) -> list[str]:
        """The names of a znode's children, sorted; `watch` is called once when one comes or goes.

        Raises:
            NoNode: there is no such znode.
        """
        names, _ = await self.children_stat(path, watch=watch)
        return sorted(names)

    async def children_stat(self, path: str, *, watch: Fire | None = None) -> tuple[tuple[str, ...], Stat]:
        """As `children`, unsorted, with the znode's own stat."""
        _demand_path(path)
        return await self._call(
            OP_GET_CHILDREN2,
            GetChildren(path, watch is not None, with_stat=True).encode(),
            take_children_stat,
            watch=None if watch is None else ("child", path, watch),
        )

    async def set(self, path: str, value: bytes, *, version: int = -1) -> Stat:
        """Replace a znode's value.

        Args:
            path: absolute.
            value: at most about 1 MiB.
            version: only if the znode has this version; -1 is any.

        Raises:
            NoNode: there is no such znode.
            BadVersion: it has another version; nothing was changed.
            OutcomeUnknown: the connection went: it may or may not have happened.
        """
        _demand_path(path)
        return await self._call(OP_SET_DATA, SetData(path, value, version).encode(), take_stat)

    async def create(
        self,
        path: str,
        value: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        makepath: bool = False,
        acl: Sequence[ACL] = OPEN_ACL,
    ) -> str:
        """Create a znode; returns its path, with the number that a sequential one got.

        Args:
            path: absolute.
            value: at most about 1 MiB.
            ephemeral: it goes with this session.
            sequential: a rising number is appended.
            makepath: create missing parents first.
            acl: who may do what with it.

        Raises:
            NodeExists: there is one already.
            NoNode: the parent is missing.
            OutcomeUnknown: the connection went: it may or may not have happened.
        """
        created, _ = await self.create_stat(
            path, value, ephemeral=ephemeral, sequential=sequential, makepath=makepath, acl=acl
        )
        return created

    async def create_stat(
        self,
        path: str,
        value: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        makepath: bool = False,
        acl: Sequence[ACL] = OPEN_ACL,
    ) -> tuple[str, Stat]:
        """As `create`, with the stat: its czxid is what a fencing token is made of."""
        _demand_path(path, sequential=sequential)
        flags = (CREATE_EPHEMERAL if ephemeral else 0) | (CREATE_SEQUENTIAL if sequential else 0)
        change = Create(path, value, tuple(acl), flags, with_stat=True)
        try:
            return await self._call(change.op, change.encode(), take_path_stat)
        except NoNode:
            if not makepath:
                raise
        await self.ensure_path(path.rpartition("/")[0] or "/")
        return await self._call(change.op, change.encode(), take_path_stat)

    async def ensure_path(self, path: str) -> None:
        """Create a znode and its parents where they are missing."""
        if path == "/" or await self.exists(path) is not None:
            return
        await self.ensure_path(path.rpartition("/")[0] or "/")
        change = Create(path, b"")
        with contextlib.suppress(NodeExists):
            await self._call(change.op, change.encode(), take_path)

    async def delete(self, path: str, *, version: int = -1, recursive: bool = False) -> None:
        """Delete a znode; with `recursive` everything below it first, not atomically.

        Raises:
            NoNode: there is none.
            NotEmpty: it has children.
            BadVersion: it has another version.
            OutcomeUnknown: the connection went: it may or may not have happened.
        """
        _demand_path(path)
        if recursive:
            for name in await self.children(path):
                with contextlib.suppress(NoNode):
                    await self.delete(f"{path.rstrip('/')}/{name}", recursive=True)
        await self._call(OP_DELETE, Delete(path, version).encode(), _nothing)

    async def multi(self, changes: Sequence[Change]) -> list[str | Stat | None]:
        """All of these changes, or none.

        Args:
            changes: `wire.Create`, `SetData`, `Delete`, `Check` in order.

        Returns:
            Per change the path that was created, the stat of what was set, or None.

        Raises:
            NotApplied: one was refused, with its error; none was applied.
            OutcomeUnknown: the connection went: all or none may have happened.
        """
        results = await self._call(OP_MULTI, Multi(tuple(changes)).encode(), take_multi)
        for change, result in zip(changes, results, strict=False):
            # After the operation that failed the server reports -2 for the others; the cause is what counts.
            if result.op == OP_ERROR and result.err not in (0, ERR_RUNTIME_INCONSISTENCY):
                raise error_for_code(
                    result.err, f"{type(change).__name__} {change.path}: none of the changes was applied"
                )
        return [_outcome(result) for result in results]

    async def sync(self, path: str = "/") -> None:
        """Wait until this replica has everything that was chosen before; reads need it only in sequential mode."""
        await self._call(OP_SYNC, Sync(path).encode(), take_path)

    async def get_acl(self, path: str) -> tuple[tuple[ACL, ...], Stat]:
        """Who may do what with a znode."""
        _demand_path(path)
        return await self._call(OP_GET_ACL, GetACL(path).encode(), take_acl)

    async def set_acl(self, path: str, acl: Sequence[ACL], *, version: int = -1) -> Stat:
        """Replace a znode's ACL; the version is that of the ACL."""
        _demand_path(path)
        return await self._call(OP_SET_ACL, SetACL(path, tuple(acl), version).encode(), take_stat)

    async def add_auth(self, scheme: str, credentials: bytes) -> None:
        """Prove an identity, for this connection and every later one.

        Raises:
            AuthFailed: the credentials were refused.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: Reader | None, error: SynodError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._auths.append((scheme, credentials))
        self._session.add_auth(scheme, credentials, Call(0, b"", done))
        self._flush_soon()
        await future

    async def watch(self, path: str) -> AsyncIterator[tuple[bytes | None, Stat | None]]:
        """The value of a znode now and after every change; (None, None) while there is none.

        Never loses the last state: it reads again after every event, every reconnect and every new session.
        Several changes in a row may be seen as one.
        """
        seen: tuple[bytes | None, int] | None = None
        while True:
            changed = asyncio.Event()

            def fire(_event: WatcherEvent, changed: asyncio.Event = changed) -> None:
                changed.set()

            try:
                value: bytes | None
                stat: Stat | None
                value, stat = await self.get(path, watch=fire)
            except NoNode:
                value, stat = None, await self.exists(path, watch=fire)
                if stat is not None:
                    continue  # it came between the two
            except NotApplied:
                await self.wait_connected()
                continue
            now = (value, -1 if stat is None else stat.mzxid)
            if now != seen:
                seen = now
                yield value, stat
            await changed.wait()

    async def wait_connected(self) -> None:
        """Wait until a replica has taken this client in (again)."""
        await self._connected.wait()

    # -- recipes -------------------------------------------------------------------------------------------

    def lock(self, path: str, *, identifier: str = "", timeout: float | None = None) -> Lock:
        """A fenced lock; see `recipes.Lock`."""
        from synod.recipes import Lock

        return Lock(self, path, identifier=identifier, timeout=timeout)

    def elect(self, path: str, *, identifier: str = "") -> Election:
        """An election; see `recipes.Election`."""
        from synod.recipes import Election

        return Election(self, path, identifier=identifier)


def connect(
    hosts: str,
    *,
    timeout: float = 10.0,
    session_timeout_ms: int = 10_000,
    session_id: int = 0,
    password: bytes = bytes(16),
) -> Cell:
    """A client of a cell: `async with synod.connect("host:port,...") as cell:`.

    See `Cell` for the arguments. Works with Apache ZooKeeper as well.

    Raises:
        UserError: `hosts` cannot be read.
    """
    return Cell(hosts, timeout=timeout, session_timeout_ms=session_timeout_ms, session_id=session_id, password=password)


def _demand_path(path: str, *, sequential: bool = False) -> None:
    problem = path_problem(path, sequential=sequential)
    if problem is not None:
        raise BadArguments(f"{path!r}: {problem}; nothing was sent")


def _outcome(result: MultiResult) -> str | Stat | None:
    value = result.value
    if isinstance(value, tuple) and not isinstance(value, Stat):
        value = value[0]  # create2: the path, and the stat that nobody asked for
    return value if isinstance(value, (str, Stat)) else None


def _nothing(_: Reader) -> None:
    return None


def is_session_event(event: WatcherEvent) -> bool:
    """Whether a watch was fired because its session ended, and not because something changed."""
    return event.type == EVENT_NONE
