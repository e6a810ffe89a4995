"""`synod lock`: run a command while a lock is held, and stop it before the lock could be somebody else's.

The lease counts from the send time of the last answered ping, on this machine's own clock. When only
`TERM_BEFORE_MS` of it are left the command gets TERM, and KILL in time for the end, whatever the network does.
Ref: HashiCorp Consul issue 9788 (a child that outlived its lock by 20 s).
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

from synod.base import OutcomeUnknown, SynodError
from synod.client import Cell, boot_clock, connect

from ._output import complain

TERM_SHARE: Final = 3
"""TERM comes when a third of the session's timeout is left, ..."""

KILL_BEFORE_MS: Final = 300
"""... and KILL when this much is left: what a busy machine may take to deliver it."""

LOOK_S: Final = 0.05


async def run_locked(
    hosts: str,
    path: str,
    command: list[str],
    *,
    timeout: float | None,  # noqa: ASYNC109 -- a user's option
    blocking: bool,
    failure_code: int,
    session_timeout_ms: int,
) -> int:
    """Returns the exit code of `synod lock`."""
    async with connect(hosts, session_timeout_ms=session_timeout_ms) as cell:
        lock = cell.lock(path, identifier=f"{os.uname().nodename}:{os.getpid()} {command[0]}")
        try:
            got = await lock.acquire(timeout=timeout, blocking=blocking)
        except SynodError as failure:
            complain(f"the lock {path} was not got: {failure}")
            return failure_code
        if not got:
            complain(f"the lock {path} was not got in time; the command was not run")
            return failure_code
        session = cell.session_id
        try:
            return await _run(cell, session, command, lock.fencing_token, path, failure_code)
        finally:
            try:
                await lock.release()
            except OutcomeUnknown:
                complain(f"the release of {path} was not confirmed; it is free when the session is over")


async def _run(cell: Cell, session: int, command: list[str], token: int, path: str, failure_code: int) -> int:
    environment = {**os.environ, "SYNOD_FENCING_TOKEN": str(token)}
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment, start_new_session=True)
    except FileNotFoundError:
        complain(f"{command[0]}: there is no such command")
        return 127
    except OSError as failure:
        complain(f"{command[0]} cannot be run: {failure.strerror}")
        return 126
    _pass_signals_on(process)
    waiting = asyncio.create_task(process.wait())
    lost = False
    while not waiting.done():
        left_ms = (cell.lease_deadline - boot_clock()) // 1000
        if cell.session_id != session or cell.state in ("expired", "closed"):
            left_ms = 0
        if left_ms <= max(KILL_BEFORE_MS * 2, cell.session_timeout_ms // TERM_SHARE) and not lost:
            lost = True
            complain(f"the lease of {path} cannot be kept; the command is stopped")
            _signal(process, signal.SIGTERM)
        if left_ms <= KILL_BEFORE_MS:
            _signal(process, signal.SIGKILL)
        await asyncio.wait({waiting}, timeout=LOOK_S)
    code = waiting.result()
    if lost:
        return failure_code
    return 128 - code if code < 0 else code


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """To the command and everything that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _pass_signals_on(process: asyncio.subprocess.Process) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, _signal, process, number)
