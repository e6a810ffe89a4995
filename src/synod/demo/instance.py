"""One instance of the ledger as a process: `python -m synod.demo.instance --help`.

Registers itself when it serves, says so in one JSON line on standard output, and on SIGTERM drains before it
stops listening.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
import uvloop

from synod.base import NoNode, SynodError
from synod.client import Cell, connect
from synod.service import Registration, lock_path

from ._app import SERVICE, Pause, make_app
from ._ledger import Ledger

DRAIN_S: Final = 0.3  # clients hear of a drain by a watch, within milliseconds; this is the moment that they get
SESSION_TIMEOUT_MS: Final = 4_000
"""The shortest that a cell grants by default: a killed instance holds its keys no longer than this."""

PAUSE_POLL_S: Final = 0.01


class DrainingServer(uvicorn.Server):
    """Told to stop, it first lets its owner drain: uvicorn itself would close its socket at once."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - of uvicorn
        """A signal to stop."""
        self._loop.call_soon_threadsafe(self.told.set)


async def serve(options: argparse.Namespace) -> None:
    """Run until told to stop."""
    ledger = Ledger(
        options.store, options.name, guard=not options.no_guard, duplicate_check=not options.no_duplicate_check
    )
    sock = socket.create_server(("127.0.0.1", options.port))
    address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with connect(options.cell, session_timeout_ms=SESSION_TIMEOUT_MS) as cell:
        pause = None if options.pause_on is None else paused_holder(cell, ledger, options.pause_on)
        app = make_app(cell, ledger, options.name, pause=pause)
        server = DrainingServer(
            uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False, timeout_keep_alive=60)
        )
        serving = asyncio.ensure_future(server.serve(sockets=[sock]))
        async with Registration(cell, SERVICE, address, instance=options.name) as registration:
            print(json.dumps({"instance": options.name, "address": address}), flush=True)  # noqa: T201 - the parent reads it
            await server.told.wait()
            await registration.drain()
            await asyncio.sleep(DRAIN_S)
        server.should_exit = True
        await serving
    ledger.close()


def paused_holder(cell: Cell, ledger: Ledger, key: str) -> Pause:
    """Plays, once, a holder of the key that was paused until its lock had passed on; no clock is involved.

    It takes its own contender away, as the cell does when a session ends, and goes on only when a later holder
    has written: with a token that is stale, as after a long pause of the process.
    """
    played = False

    async def pause(sku: str, token: int) -> None:
        nonlocal played
        if sku != key or played:
            return
        played = True
        path = lock_path(sku, SERVICE)
        for name in await cell.children(path):
            stat = await cell.exists(f"{path}/{name}")
            if stat is not None and stat.czxid == token:
                try:
                    await cell.delete(f"{path}/{name}")
                except NoNode:  # pragma: no cover - only the session's own end could be faster
                    break
        while ledger.highest_token(sku) <= token:  # noqa: ASYNC110 - the writer is another process
            await asyncio.sleep(PAUSE_POLL_S)

    return pause


def main(arguments: list[str] | None = None) -> None:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m synod.demo.instance", description=__doc__)
    parser.add_argument("--cell", required=True, help="host:port,... of the cell")
    parser.add_argument("--store", required=True, type=Path, help="the SQLite file that all instances share")
    parser.add_argument("--name", required=True, help="of this instance")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--no-guard", action="store_true", help="take stale tokens, to see the audit fail")
    parser.add_argument("--no-duplicate-check", action="store_true", help="apply repeats, to see the audit fail")
    parser.add_argument("--pause-on", metavar="KEY", help="play a paused holder of this key, once")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us in order
    try:
        uvloop.run(serve(parser.parse_args(arguments)))
    except (SynodError, OSError) as failure:
        sys.exit(f"synod: {failure}")


if __name__ == "__main__":
    main()
