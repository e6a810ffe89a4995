"""An asyncio event loop on simulated time, and connections from it to simulated replicas.

Every simulated process has a loop of its own, so that one of them can stand still or die while the others go on. The
world gives it its turns; nothing in it waits for anything real. The client, the recipes and your own coroutines run on
it as they are. What has no place in a simulation (threads, subprocesses, files, other sockets) is not implemented.

Tasks and futures hash to their number: where asyncio keeps them in sets, their order is the same in every run.

Read `turn`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

from synod.base import SECOND, Clock, Micros, SynodError

if TYPE_CHECKING:
    from ._processes import Process
    from ._world import World

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURN: Final = 30
"""A turn of a process takes up to so many microseconds."""

CLOSES_MAX: Final = 100


class SimulatedTask(asyncio.Task[T]):
    """A task whose place in a set does not depend on its address."""

    def __init__(self, coro: Coroutine[Any, Any, T], *, loop: SimulatedLoop, **options: Any) -> None:  # noqa: ANN401 -- as asyncio has it
        self._number = next(loop.numbers)
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedFuture(asyncio.Future[T]):
    """A future whose place in a set does not depend on its address."""

    def __init__(self, *, loop: SimulatedLoop) -> None:
        self._number = next(loop.numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SimulatedClock:
    """The clock of a simulated process: it starts somewhere, and runs as the world's time does."""

    def __init__(self, world: World, offset: Micros) -> None:
        self._world = world
        self._offset = offset

    def monotonic(self) -> Micros:
        """Microseconds."""
        return self._world.now + self._offset

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return 1_700_000_000_000 + self._world.now // 1000


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The event loop of one life of a simulated process."""

    def __init__(self, world: World, process: Process, rng: random.Random) -> None:
        self.numbers = itertools.count(1)
        self.synod_rng = rng
        """What a `Cell` that is made here draws from."""
        self.synod_clock: Clock = SimulatedClock(world, rng.randrange(1 << 40))
        """What a `Cell` that is made here reads its time from."""
        self._world = world
        self._process = process
        self._life = process.life
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[Micros, int, asyncio.TimerHandle]] = []
        self._due: Micros | None = None
        self._tasks: dict[SimulatedTask[Any], None] = {}
        self._transports: dict[SimulatedTransport, None] = {}
        self._in_turn = False
        self._dead = False

    # -- turns ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Run what is ready, and the timers that are due; the world calls this."""
        now = self._world.now
        self._due = None
        while self._timers and self._timers[0][0] <= now:
            self._ready.append(heapq.heappop(self._timers)[2])
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finalize)
        asyncio._set_running_loop(self)  # noqa: SLF001 -- this is what it is for: event loops
        self._in_turn = True
        try:
            for _ in range(len(self._ready)):
                if self._dead:
                    break
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()  # noqa: SLF001 -- as every event loop does
        finally:
            self._in_turn = False
            asyncio._set_running_loop(None)  # noqa: SLF001
            sys.set_asyncgen_hooks(*hooks)
        self._arm()

    def _arm(self) -> None:
        """Ask the world for the next turn, once."""
        if self._dead or self._in_turn:
            return
        if self._ready:
            due = self._world.now + self.synod_rng.randrange(1, TURN)
        elif self._timers:
            due = max(self._timers[0][0], self._world.now + 1)
        else:
            return
        if self._due is None or due < self._due:
            self._due = due
            self._world.at(due, "turn", self._process.id, self._life)

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._dead:
            self.call_soon(lambda: self.create_task(generator.aclose()))

    def die(self) -> None:
        """The process is gone: nothing of it ever runs again."""
        self._dead = True
        for transport in list(self._transports):
            transport.drop()
        self._ready.clear()
        self._timers.clear()

    def bury(self) -> None:
        """After the end of the run: close what was left in the middle of something, so that Python need not."""
        self._dead = True
        asyncio._set_running_loop(self)  # noqa: SLF001 -- what is begun in a `finally` is buried here as well
        while self._tasks:
            task, _ = self._tasks.popitem()
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 -- as Runner does not
            coroutine = task.get_coro()
            for _ in range(CLOSES_MAX):
                try:
                    if coroutine is not None:
                        coroutine.close()
                    break
                except Exception:  # noqa: BLE001, S112 -- it awaits something in a `finally`; nobody hears it any more
                    continue
        asyncio._set_running_loop(None)  # noqa: SLF001
        self._ready.clear()
        self._timers.clear()

    # -- what asyncio asks of a loop -------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds of the process's clock."""
        return self.synod_clock.monotonic() / SECOND

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """As long as the process lives."""
        return not self._dead

    def is_closed(self) -> bool:
        """When the process is gone."""
        return self._dead

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio`."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self._dead:
            self._ready.append(handle)
            self._arm()
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio`."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio`."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._dead:
            due = self._world.now + max(0, round(when * SECOND) - self.synod_clock.monotonic())
            heapq.heappush(self._timers, (due, next(self.numbers), timer))
            self._arm()
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asked for by `TimerHandle.cancel`; it stays where it is until its time."""

    def create_future(self) -> asyncio.Future[Any]:
        """See `asyncio`."""
        return SimulatedFuture(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:  # noqa: ANN401 -- as asyncio has it
        """See `asyncio`."""
        task: SimulatedTask[Any] = SimulatedTask(coro, loop=self, **options)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)  # type: ignore[call-overload]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An exception that nobody caught: of a callback, or of a task that nobody asked for its result."""
        error = context.get("exception")
        if not self._dead and isinstance(error, Exception) and not isinstance(error, SynodError):
            self._world.report(f"process {self._process.name}: {context.get('message')}: {error!r}")

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, *, ssl: object = None
    ) -> tuple[SimulatedTransport, asyncio.Protocol]:
        """A connection to a simulated replica.

        Raises:
            OSError: no replica has this address, or its process does not run.
        """
        if ssl is not None:
            raise NotImplementedError("simulated replicas speak no TLS")
        world = self._world
        machine = world.machine_at(host, port)
        await asyncio.sleep(2 * world.network.delay() / SECOND)
        if machine.replica is None:
            raise ConnectionRefusedError(f"replica {machine.id} does not run")
        if not machine.running or (self._process.id, machine.id) in world.client_cuts:
            await self.create_future()  # nobody answers; whoever dials gives up at some time
        protocol = protocol_factory()
        transport = SimulatedTransport(world, self, self._process.id, protocol)
        self._transports[transport] = None
        transport.machine = machine.id
        transport.conn = world.open_client(transport, machine.id)
        protocol.connection_made(transport)
        return transport, protocol

    def transport_gone(self, transport: SimulatedTransport) -> None:
        """It needs no ending any more."""
        self._transports.pop(transport, None)


class SimulatedTransport(asyncio.Transport):
    """One end of a connection to a replica."""

    def __init__(self, world: World, loop: SimulatedLoop, process: int, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.id = process
        self.conn = 0
        self.machine = 0
        self.paused_until: Micros = 0  # a process that stands still gets its bytes in its first turn
        self._world = world
        self._loop = loop
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio`."""
        if self.conn:
            self._world.from_client(self, bytes(data))

    def close(self) -> None:
        """See `asyncio`."""
        if self.drop():
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def drop(self) -> bool:
        """The connection ends from this side, and nobody here is told."""
        if not self.conn:
            return False
        self._world.hang_up(self)
        self.conn = 0
        self._loop.transport_gone(self)
        return True

    def is_closing(self) -> bool:
        """See `asyncio`."""
        return not self.conn

    def get_extra_info(self, name: str, default: object = None) -> object:
        """See `asyncio`; only the peer is known."""
        return (f"replica-{self.machine}", 2181) if name == "peername" else default

    def receive(self, data: bytes) -> None:
        """Bytes of the replica have come."""
        self._loop.call_soon(self._protocol.data_received, data)

    def lost(self) -> None:
        """The replica closed it, or is gone."""
        if self.conn:
            self.conn = 0
            self._loop.transport_gone(self)
            self._loop.call_soon(self._protocol.connection_lost, ConnectionResetError("the replica is gone"))
