"""What a replica does for a ping: little, and with those of others."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from _cells import config_document
from synod.server import parse_config
from synod.server._clients import ClientConnection
from synod.server._host import Host
from synod.storage import Identity, RealFileSystem, format_directory
from synod.wire import OP_PING

CONNECT = struct.pack(">iiqiqi", 44, 0, 0, 30_000, 0, 16) + bytes(16)
PING = struct.pack(">iii", 8, -2, OP_PING)
PONG_BYTES = 20
PINGS = 100


class Wire(asyncio.Transport):
    """A connection of a client that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.got += data

    def close(self) -> None:
        pass


class Told:
    """A replica whose turns are counted."""

    def __init__(self, replica: object) -> None:
        self._replica = replica
        self.turns = 0

    def ready(self) -> object:
        self.turns += 1
        return self._replica.ready()

    def __getattr__(self, name: str) -> object:
        return getattr(self._replica, name)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- nobody tells a test when a replica comes to serve
        await asyncio.sleep(0.01)


async def test_pings_are_gathered_and_each_is_answered(tmp_path) -> None:
    """Ten thousand idle sessions ping a thousand times a second: a turn for each would be most of what they cost."""
    config = parse_config(config_document(tmp_path), str(tmp_path / "replica.toml"))
    format_directory(RealFileSystem(), config.data_dir, Identity(1, 1, config.configuration, 1))
    host = Host(config, on_stop=print)
    host.start()
    try:
        async with asyncio.timeout(30):
            await until(lambda: host.replica.can_read)
            wire, client = Wire(), ClientConnection(host)
            client.connection_made(wire)
            client.data_received(CONNECT)
            await until(lambda: wire.got != b"")
            wire.got = b""
            host.told = told = Told(host.replica)
            for _ in range(PINGS):
                client.data_received(PING)
                await asyncio.sleep(0)  # whatever was to be done at once is done
            await until(lambda: len(wire.got) >= PINGS * PONG_BYTES)
        assert told.turns < PINGS // 2
        assert len(wire.got) == PINGS * PONG_BYTES
    finally:
        host.close()
