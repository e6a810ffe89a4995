"""Connections between replicas: one for messages and one for bulk, dialled by the higher id.

A frame is a 4-byte length and a message. The first frame of either side is a byte that says which of the two
connections this is, and a hello; nothing else is read before that hello was accepted. Who refuses a caller answers
with another byte and the reason, so that the log of the one who is refused says it too.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from synod.base import RemoteProtocolError
from synod.replica import KIND_FIRST, Forgetful, Hello

if TYPE_CHECKING:
    from ._host import Host

MAIN: Final = b"M"
BULK: Final = b"B"
REFUSED: Final = b"R"
FORGOTTEN: Final = b"\xff"
"""Begins no other message: the one it is sent to has forgotten what it once showed. The reason follows."""

REASON_BYTES_MAX: Final = 900

FRAME_BYTES_MAX: Final = 16 << 20
"""Longest message of a peer: a batch, a part of a promise or a chunk, each bounded far below."""

HELLO_BYTES_MAX: Final = 1024
WRITE_BUFFER_BYTES_MAX: Final = 64 << 20
"""A peer that takes nothing in until this much waits is disconnected; it catches up by fetching."""

DIAL_S: Final = 1.0
"""A call that nobody answers is given up and made anew: TCP by itself would call again after 1, 3, 7, 15 and more
seconds, and a network that is whole again would long be waited for."""

HELLO_S: Final = 5.0
"""Who has not said by then who he is is hung up on, and called anew by whoever called him."""

IDLE_S: Final = 2
LOOK_S: Final = 1
UNHEARD_MS: Final = 5_000
"""When nothing has moved for the first, the kernel looks whether there is still somebody, so often, and gives up after
the last: a peer that died while the network was cut could not say so, and who only listens, as one that joins does,
would wait for it for ever."""

REDIAL_FIRST_S: Final = 0.02
REDIAL_MAX_S: Final = 1.0
_LENGTH: Final = struct.Struct(">I")


class PeerConnection:
    """One connection to a peer, dialled or accepted.

    Args:
        dialled: the peer that was dialled, or None when it called.
        bulk: whether this is the second connection; an accepted one learns it from the first frame.
    """

    def __init__(self, host: Host, *, dialled: int | None = None, bulk: bool = False) -> None:
        self._host = host
        self._buffer = bytearray()  # the beginning of a message, of which `_wanted` bytes must be here to go on
        self._wanted = 4
        self._outgoing: list[bytes] = []
        self._dialled = dialled
        self.bulk = bulk
        self.peer: int | None = None
        self.hello: Hello | None = None
        self.transport: asyncio.Transport | None = None
        self.closed = asyncio.get_running_loop().create_future()
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The dialler speaks first."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, LOOK_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
        self._patience = asyncio.get_running_loop().call_later(HELLO_S, self.close)
        if self._dialled is not None:
            self._greet()

    def _greet(self) -> None:
        self.send((BULK if self.bulk else MAIN) + self._host.replica.hello())
        self.flush()

    def send(self, message: bytes) -> None:
        """Have a message written, framed, with the next `flush`."""
        self._outgoing.append(_LENGTH.pack(len(message)))
        self._outgoing.append(message)

    def flush(self) -> None:
        """Write what was sent since the last time, in one go."""
        if not self._outgoing:
            return
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        if self.transport is None or self.transport.is_closing():
            return
        try:
            self.transport.write(data)
        except RuntimeError:
            # uvloop may have closed it a moment ago without saying so: `connection_lost` is on its way. Whoever sends
            # has more to do than this, which must not be lost with it.
            return

    def data_received(self, data: bytes) -> None:
        """Cut the stream into messages."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        at, size = 0, len(data)
        self._wanted = 4
        limit = FRAME_BYTES_MAX if self.peer is not None else HELLO_BYTES_MAX
        try:
            while size - at >= 4:
                length: int = _LENGTH.unpack_from(data, at)[0]
                if length > limit:
                    raise RemoteProtocolError(f"a peer sent a message of {length} bytes")
                if size - at < 4 + length:
                    self._wanted = 4 + length
                    break
                message = data[at + 4 : at + 4 + length]
                at += 4 + length
                if message.startswith(FORGOTTEN):
                    self._told_forgotten(message)
                elif self.peer is None:
                    self._meet(message)
                    limit = FRAME_BYTES_MAX
                elif self.bulk and message and message[0] < KIND_FIRST:
                    # What a disk has shown is known from the main connection, and judged by the hello before it.
                    raise RemoteProtocolError(f"a message of consensus, kind {message[0]}, came on the bulk connection")
                else:
                    self._host.peer_message(self.peer, message)
        except RemoteProtocolError as fault:
            self._host.peer_refused(self, str(fault))
            self._refuse(fault)
            return
        if at < size:
            self._buffer += data[at:]

    def _refuse(self, fault: RemoteProtocolError) -> None:
        """Close; a caller that was not met yet is told why, and whoever has forgotten something, in any case."""
        told = FORGOTTEN if isinstance(fault, Forgetful) else REFUSED if self._dialled is None else None
        if told is not None and self.peer is None and self.transport is not None:
            self.send(told + str(fault).encode()[:REASON_BYTES_MAX])
            self.flush()
            self.transport.close()
        else:
            self.close()

    def _told_forgotten(self, message: bytes) -> None:
        """A peer that this replica calls, or that it has met, has seen more of its disk than there is."""
        peer = self.peer or self._dialled
        if peer is None:
            raise RemoteProtocolError("a peer did not begin with a hello")
        self._host.forgotten(peer, printable(message[1:]))
        raise RemoteProtocolError(f"replica {peer} refuses this one, which has forgotten something")

    def _meet(self, message: bytes) -> None:
        if self._dialled is not None and message[:1] == REFUSED:
            raise RemoteProtocolError(f"replica {self._dialled} refuses this one: {printable(message[1:])}")
        if self._dialled is None:
            self.bulk = message[:1] == BULK
        hello: Hello = self._host.told.check_hello(message[1:], not self.bulk)
        self.hello = hello
        if self._dialled is not None and hello.id != self._dialled:
            raise RemoteProtocolError(f"replica {hello.id} answered at the address of replica {self._dialled}")
        if self._dialled is None:
            self._greet()
        self.peer = hello.id
        self._forget_patience()
        self._host.peer_met(self)

    def _forget_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def pause_writing(self) -> None:
        """The peer takes nothing in."""
        if self.transport is not None:
            self.transport.abort()

    def close_gently(self) -> None:
        """Let the connection go when the peer has what it was sent."""
        if self.transport is not None:
            self.transport.close()

    def close(self) -> None:
        """Let the connection go."""
        if self.transport is not None:
            self.transport.abort()

    def resume_writing(self) -> None:
        """Nothing to do: who is paused is on its way out."""

    def eof_received(self) -> bool:
        """The other side speaks no more: close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- the protocol's signature
        """It is gone."""
        self._forget_patience()
        if not self.closed.done():
            self.closed.set_result(None)
        self._host.peer_lost(self)


def printable(reason: bytes) -> str:
    """A reason that a peer gave, fit for the log."""
    return "".join(c for c in reason.decode(errors="replace") if c.isprintable())


async def dial(host: Host, peer: int, address: str, *, bulk: bool) -> None:
    """Keep one connection to a peer, for as long as the replica runs."""
    name, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    wait = REDIAL_FIRST_S
    while True:
        connection = PeerConnection(host, dialled=peer, bulk=bulk)
        made: Callable[[], Any] = lambda: connection  # noqa: B023, E731 -- called at once
        try:
            async with asyncio.timeout(DIAL_S):
                await loop.create_connection(made, name.strip("[]"), int(port))
        except OSError:  # a time-out is one
            await asyncio.sleep(wait)
            wait = min(2 * wait, REDIAL_MAX_S)
            continue
        try:
            await connection.closed
        except asyncio.CancelledError:
            connection.close_gently()  # perhaps it is no member any more, and what it is told last must arrive
            raise
        wait = REDIAL_FIRST_S if connection.peer is not None else min(2 * wait, REDIAL_MAX_S)
        await asyncio.sleep(wait)
