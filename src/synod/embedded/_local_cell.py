"""The embedded cell."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from synod.base import Configuration, Member, refuse_without_checks
from synod.client import BlockingCell, Cell, connect
from synod.server import Address, Config, Server, event_loop, free_ports
from synod.storage import (
    FileSystem,
    Identity,
    MemoryFileSystem,
    RealFileSystem,
    StoreOptions,
    format_directory,
    load_identity,
)

ZXIDS_PER_MILLISECOND: Final = 128
"""A fresh cell in memory starts its zxids at wall milliseconds times this, so that fencing tokens go on rising for
a store that outlives the cell."""

MEMORY_SEGMENT_BYTES: Final = 256 * 1024


class LocalCell:
    """A running cell of one replica. Made by `local`.

    Args:
        directory: where its data is kept; None is in memory.
        session_timeout_ms_min: as `session.timeout_ms_min`; short ones are fine in tests.
    """

    def __init__(self, directory: str | None = None, *, session_timeout_ms_min: int = 1_000) -> None:
        refuse_without_checks()
        fs: FileSystem = MemoryFileSystem() if directory is None else RealFileSystem()
        path = "/local" if directory is None else str(Path(directory).resolve())
        configuration = Configuration(secrets.token_hex(16), (Member(1, "127.0.0.1:1"),))
        if fs.exists(f"{path}/identity.json"):
            configuration = load_identity(fs, path).configuration
        else:
            format_directory(fs, path, Identity(1, 1, configuration))
        port, peer_port = free_ports(2)
        self.hosts = f"127.0.0.1:{port}"
        self._config = Config(
            id=1,
            cell_id=configuration.cell_id,
            data_dir=path,
            client=Address("127.0.0.1", port),
            peer=Address("127.0.0.1", peer_port),
            http=None,
            peers=configuration.members,
            timeout_ms_min=session_timeout_ms_min,
        )
        make_loop = event_loop()
        self._loop = asyncio.new_event_loop() if make_loop is None else make_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="synod-local", daemon=True)
        self._thread.start()
        self._closed = False
        self._server = Server(
            self._config,
            fs=fs,
            fresh_zxid=time.time_ns() // 1_000_000 * ZXIDS_PER_MILLISECOND if directory is None else 0,
            store_options=StoreOptions(segment_bytes=MEMORY_SEGMENT_BYTES) if directory is None else None,
        )
        try:
            self._run(self._server.start())
        except BaseException:
            self._stop_loop()
            raise

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    def connect(self, **options: Any) -> Cell:  # noqa: ANN401 -- those of synod.connect
        """An asyncio client of this cell; see `synod.connect` for the options."""
        return connect(self.hosts, **options)

    def connect_blocking(self, **options: Any) -> BlockingCell:  # noqa: ANN401 -- those of BlockingCell
        """A blocking client of this cell."""
        return BlockingCell(self.hosts, **options)

    def close(self) -> None:
        """Stop the cell; what is in memory is gone."""
        if self._closed:
            return
        self._run(self._server.stop())
        self._stop_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)


def local(directory: str | None = None, *, session_timeout_ms_min: int = 1_000) -> LocalCell:
    """Start a cell of one replica inside this process.

    Args:
        directory: where its data is kept and found again; None is in memory.
        session_timeout_ms_min: shortest session timeout, in milliseconds.

    Raises:
        DataDirError: the directory is in use or cannot be used.
        UserError: this is `python -O`, which drops the checks of a replica.
    """
    return LocalCell(directory, session_timeout_ms_min=session_timeout_ms_min)
