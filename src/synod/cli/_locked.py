"""`synod lock`: run a command while a lock is held, and stop it before the lock could be somebody else's.

The lease counts from the send time of the last answered ping, on this machine's own clock. When only a third
of it is left the command gets TERM, and KILL in time for the end, whatever the network does.
Ref: HashiCorp Consul issue 9788 (a child that outlived its lock by 20 s).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any, Final, NamedTuple

from synod.base import OutcomeUnknown, SynodError
from synod.client import Cell, boot_clock, connect

from ._output import USER, complain, exit_code

TERM_SHARE: Final = 3
"""TERM comes when a third of the session's timeout is left, ..."""

KILL_BEFORE_MS: Final = 300
"""... and KILL when this much is left: what a busy machine may take to deliver it."""

LOOK_S: Final = 0.05

LEAVE_S: Final = 5.0
"""So long the release may take: a fail-over of the cell fits in, and the next holder need not wait for the lease."""

LEAVE_LOST_S: Final = 0.5
"""The same when the lease was lost: the cell is out of reach, and the lock frees itself."""


class _Ended(NamedTuple):
    """How a command ended under its lock."""

    code: int
    is_lost: bool


class _Signals:
    """What this process is told: it ends the wait for the lock, and later it is passed on to the command.

    Taken from the very beginning: a signal that came between the start of the command and the first look at
    signals would end this process, and the command would go on without a lock.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._group = 0
        self.told: asyncio.Future[int] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        if self._group:
            _signal(self._group, number)
        elif not self.told.done():
            self.told.set_result(number)

    def pass_on_to(self, group: int) -> None:
        """From now on, and what came just before, is for a command."""
        self._group = group
        if self.told.done():
            _signal(group, self.told.result())


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
    signals = _Signals()
    cell = connect(hosts, session_timeout_ms=session_timeout_ms)
    lock = cell.lock(path, identifier=f"{os.uname().nodename}:{os.getpid()} {command[0]}")

    async def acquire() -> bool:
        async with asyncio.timeout(timeout):
            await cell.start()
            return await lock.acquire(timeout=timeout, blocking=blocking)

    ended = _Ended(failure_code, is_lost=False)
    acquiring = asyncio.create_task(acquire())
    try:
        first: set[asyncio.Future[Any]] = {acquiring, signals.told}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if signals.told.done():
            return 128 + signals.told.result()
        try:
            got = acquiring.result()
        except TimeoutError:
            got = False
        except SynodError as failure:
            if exit_code(failure) == USER:
                raise
            complain(f"the lock {path} was not got: {failure}")
            return failure_code
        if not got:
            complain(f"the lock {path} was not got in time; the command was not run")
            return failure_code
        ended = await _run(cell, signals, command, lock.fencing_token, path)
        return failure_code if ended.is_lost else ended.code
    finally:
        acquiring.cancel()
        await asyncio.wait({acquiring})
        patience = LEAVE_LOST_S if ended.is_lost else LEAVE_S
        if lock.held:
            try:
                async with asyncio.timeout(patience):
                    await lock.release()
            except (OutcomeUnknown, TimeoutError):
                if not ended.is_lost:
                    complain(f"the release of {path} was not confirmed; it is free when the session is over")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await cell.close()


async def _run(cell: Cell, signals: _Signals, command: list[str], token: int, path: str) -> _Ended:
    from synod.server import dying_with_parent

    session = cell.session_id
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "SYNOD_FENCING_TOKEN": str(token)},
            start_new_session=True,
            preexec_fn=dying_with_parent(signal.SIGKILL),  # nobody else would
        )
    except FileNotFoundError:
        complain(f"{command[0]}: there is no such command")
        return _Ended(127, is_lost=False)
    except OSError as failure:
        complain(f"{command[0]} cannot be run: {failure.strerror}")
        return _Ended(126, is_lost=False)
    group = process.pid
    signals.pass_on_to(group)
    waiting = asyncio.create_task(process.wait())
    lost = False
    while not waiting.done() or (lost and _signal(group, 0)):
        left_ms = (cell.lease_deadline - boot_clock()) // 1000
        if cell.session_id != session or cell.state in ("expired", "closed"):
            left_ms = 0
        if left_ms <= max(KILL_BEFORE_MS * 2, cell.session_timeout_ms // TERM_SHARE) and not lost:
            lost = True
            complain(f"the lease of {path} cannot be kept; the command is stopped")
            _signal(group, signal.SIGTERM)
        if left_ms <= KILL_BEFORE_MS:
            _signal(group, signal.SIGKILL)
            if waiting.done():  # and whoever is still in its group is on the way out
                break
        if waiting.done():
            await asyncio.sleep(LOOK_S)
        else:
            await asyncio.wait({waiting}, timeout=LOOK_S)
    code = waiting.result()
    return _Ended(128 - code if code < 0 else code, is_lost=lost)


def _signal(group: int, number: int) -> bool:
    """To the command and everything that it started; says whether anybody is left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
