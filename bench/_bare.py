"""The least that a fan-out can cost: a loop that writes a watch event to every socket, without any consensus.

Run as a process of its own by `_fanout`; it prints its port. A connection that sends a byte is the writer: all the
others get an event, and then the writer its answer.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

import uvloop

EVENT: Final = bytes(3) + b"\x2e" + b"\xff\xff\xff\xff" + bytes(42)
"""As long as the event of a znode with a short path."""
ANSWER: Final = b"a"


class _Connection(asyncio.Protocol):
    everybody: Final[list[asyncio.Transport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.everybody.append(self._transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.everybody.remove(self._transport)

    def data_received(self, _data: bytes) -> None:
        for transport in self.everybody:
            if transport is not self._transport:
                transport.write(EVENT)
        self._transport.write(ANSWER)


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=2_000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
