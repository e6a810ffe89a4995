"""The I/O half of a session: one asyncio connection at a time, one timer, no task per request.

Carries out what `_session` says and delivers what comes back. Read `_pump`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from synod.base import MILLISECOND, SECOND, Clock, Micros

from ._hosts import Address
from ._session import Answer, Event, Session

_GUARDED_TICK: Final = 100 * MILLISECOND
"""The loop's own timers stand still while the machine is suspended: while somebody relies on the lease, the clock
that does not stand still is looked at this often."""


class Driver:
    """Connects a `Session` to the network.

    Args:
        session: the sans-IO half.
        clock: its time.
        tls: for connections to a cell that asks for it; None is plain TCP.
        on_event: is told of what is not an answer, in order.
    """

    def __init__(
        self, session: Session, clock: Clock, tls: ssl.SSLContext | None, on_event: Callable[[Event], None]
    ) -> None:
        self.session = session
        self.clock = clock
        self.guards = 0  # how many rely on the lease at the moment
        self._tls = tls
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._protocol: _Protocol | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # not asked of the timer: uvloop's does not know it, when it is due at once
        self._flush_due = False

    def now(self) -> Micros:
        """The session's time."""
        return self.clock.monotonic()

    def start(self) -> None:
        """Begin to connect."""
        self._pump()

    def touched(self) -> None:
        """The session was asked something: send it with everything else of this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._pump)

    def guard(self, change: int) -> None:
        """Somebody relies on the lease (+1), or does no more (-1)."""
        self.guards += change
        if change > 0:
            self._arm()

    def shut(self) -> None:
        """Let go of the connection and of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        self._hang_up()

    # -- the one place where things happen ------------------------------------------------------------

    def _pump(self) -> None:
        """Deliver what the session has to say, send what it wants sent, and see to its next deadline."""
        self._flush_due = False
        session = self.session
        while events := session.events():
            for event in events:
                if type(event) is Answer:
                    _deliver(event)
                else:
                    self._on_event(event)
        if session.hang_up:
            self._hang_up()
        protocol = self._protocol
        if protocol is not None and protocol.transport is not None:
            data = session.data_to_send()
            if data:
                protocol.transport.write(data)
        elif self._dialling is None and (address := session.dial(self.now())) is not None:
            self._dialling = self._loop.create_task(self._dial(address))
        self._arm()

    def _arm(self) -> None:
        deadline = self.session.next_deadline()
        if deadline is None or (self._dialling is not None and deadline == 0):
            return
        wait = max(0, deadline - self.now())
        if self.guards:
            wait = min(wait, _GUARDED_TICK)
        at = self._loop.time() + wait / SECOND
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.session.tick(self.now())
        self._pump()

    # -- the connection -------------------------------------------------------------------------------

    async def _dial(self, address: Address) -> None:
        protocol = _Protocol(self)
        try:
            await self._loop.create_connection(lambda: protocol, address.host, address.port, ssl=self._tls)
        except (OSError, ssl.SSLError) as failed:
            self._dialling = None
            self.session.lost(f"{address}: {failed}")
        else:
            self._dialling = None
            if self.session.hang_up or protocol.closed:
                # It took too long: the session has turned to another address meanwhile.
                if protocol.transport is not None:
                    protocol.transport.abort()
                self.session.lost(f"{address}: closed at once")
            else:
                self._protocol = protocol
                self.session.dialled(self.now())
        self._pump()

    def _hang_up(self) -> None:
        self.session.hang_up = False
        protocol, self._protocol = self._protocol, None
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.close()

    def received(self, protocol: _Protocol, data: bytes) -> None:
        """Bytes of a connection; those of an earlier one are nobody's."""
        if protocol is self._protocol:
            self.session.received(data, self.now())
            self._pump()

    def lost(self, protocol: _Protocol, reason: str) -> None:
        """A connection has ended."""
        if protocol is self._protocol:
            self._protocol = None
            self.session.lost(f"{self.session.address}: {reason}")
            self._pump()

    def writable(self, protocol: _Protocol, *, writable: bool) -> None:
        """The socket's buffer is full, or has room again."""
        if protocol is self._protocol:
            self.session.set_writable(writable)
            self._pump()


class _Protocol(asyncio.Protocol):
    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._driver.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._driver.lost(self, str(exc) if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        self._driver.writable(self, writable=False)

    def resume_writing(self) -> None:
        self._driver.writable(self, writable=True)


def _deliver(answer: Answer) -> None:
    future: asyncio.Future[Any] = answer.sink
    if future is None or future.done():
        return
    if answer.error is None:
        future.set_result(answer.value)
    else:
        future.set_exception(answer.error)
