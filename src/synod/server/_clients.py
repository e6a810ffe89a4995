"""Client connections: a protocol object each, and no task, future or lock per request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from ._words import ANSWERED, REFUSED, answer

if TYPE_CHECKING:
    from ._host import Host

TELNET_CLOSE: Final = 4


class ClientConnection:
    """One client: bytes in to the replica, bytes out from it."""

    __slots__ = ("_greeted", "_head", "_host", "address", "conn", "opened_at", "port", "transport")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._head = b""
        self._greeted = False
        self.conn = 0
        self.address = ""
        self.port = 0
        self.opened_at = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, unless there are too many."""
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address, self.port = str(peer[0]), int(peer[1])
        transport.set_write_buffer_limits(high=self._host.config.limits.write_buffer_bytes)  # type: ignore[attr-defined]
        self._host.client_connected(self)

    def data_received(self, data: bytes) -> None:
        """The hot path: hand the bytes on and wake the replica once per turn of the loop."""
        if self._greeted:
            self._host.client_data(self.conn, data)
            return
        data = self._head + data
        if len(data) < TELNET_CLOSE:
            self._head = data
            return
        self._head = b""
        word = data[:4]
        if word in ANSWERED or word in REFUSED:
            if self.transport is not None:
                self.transport.write(answer(word, self._host.status(), self._host.clients()))
                self.transport.close()
            return
        self._greeted = True
        self._host.client_data(self.conn, data)

    def send(self, data: bytes) -> None:
        """Write; not to one that was closed a moment ago, as in `PeerConnection.flush`."""
        if self.transport is not None:
            try:
                self.transport.write(data)
            except RuntimeError:
                return

    def pause_writing(self) -> None:
        """The client does not read what it is sent: it must not cost memory without end."""
        self._host.measures.refusals["slow reader"] += 1
        self._host.abuse(
            "slow reader", f"the client {self.address} does not read its replies; its connection is closed"
        )
        if self.transport is not None:
            self.transport.abort()

    def resume_writing(self) -> None:
        """Nothing to do: who is paused is on its way out."""

    def eof_received(self) -> bool:
        """The other side speaks no more: close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- the protocol's signature
        """The connection is gone."""
        self._host.client_lost(self)
