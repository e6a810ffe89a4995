"""`POST /operator/backup`: the state of the whole cell as one file, while everything goes on.

The file is a snapshot of this replica, of a slot chosen after the request came, with a header in front: `synod.replica`
says how the slot is chosen, docs/FORMATS.md what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from synod.base import NotApplied, OutcomeUnknown
from synod.replica import Backup
from synod.storage import BackupHeader, File

if TYPE_CHECKING:
    from ._host import Host

LOOK_S: Final = 0.02
SLOT_WITHIN_S: Final = 30.0
"""Without a leader for so long there is nothing to be had; or this replica writes a snapshot of its own first."""

WRITTEN_WITHIN_S: Final = 600.0
"""A million znodes take ten seconds; a slow disk with much else to do may need its time."""

AGREED_WITHIN_S: Final = 30.0
PART_BYTES: Final = 1 << 20


async def backup(host: Host, request: Request) -> Response:
    """The whole file.

    Raises:
        NotApplied: another backup is under way here, or there can be none.
        OutcomeUnknown: it took too long, or the replicas do not agree.
    """
    replica = host.replica
    if not host.begin_backup():
        raise NotApplied(f"replica {replica.id} makes another backup at the moment; try again when that is done")
    made = replica.backup
    assert made is not None
    try:
        header, file = await _made(host, made, request)
    finally:
        host.told.end_backup()
    return StreamingResponse(
        _parts(header.encode(), file, header.snapshot_bytes),
        media_type="application/octet-stream",
        headers={"Content-Length": str(len(header.encode()) + header.snapshot_bytes)},
        background=BackgroundTask(file.close),
    )


async def _made(host: Host, made: Backup, request: Request) -> tuple[BackupHeader, File]:
    """Wait for the snapshot and for the others' digests; the file is ours, whatever becomes of its name."""
    loop = asyncio.get_running_loop()
    stage, until = "", 0.0
    file: File | None = None
    try:
        while True:
            if made.error is not None:
                raise NotApplied(f"there is no backup: {made.error}; try again, or ask another replica")
            if file is None and made.saved:
                file = host.open_snapshot(made.slot)
            if file is not None and made.complete:
                assert made.digest is not None
                header = BackupHeader(
                    level=made.level,
                    cell_id=bytes.fromhex(host.config.cell_id),
                    slot=made.slot,
                    zxid=made.zxid,
                    znodes=made.znodes,
                    sessions=made.sessions,
                    taken_ms=made.taken_ms,
                    digest=made.digest,
                    snapshot_bytes=file.size(),
                )
                ours, file = file, None
                return header, ours
            now, waits = _waits_for(made)
            if waits != stage:
                stage, until = waits, loop.time() + now
            if loop.time() >= until:
                raise OutcomeUnknown(
                    f"there is no backup: {waits} did not come within {now:g} s; look at `synod status`"
                )
            if await request.is_disconnected():
                raise OutcomeUnknown("there is no backup: who asked for it is gone")
            await asyncio.sleep(LOOK_S)
    finally:
        if file is not None:
            file.close()


def _waits_for(made: Backup) -> tuple[float, str]:
    """For how long, and for what."""
    if not made.slot:
        return SLOT_WITHIN_S, "a slot to begin at"
    if not made.saved or made.digest is None:
        return WRITTEN_WITHIN_S, "the snapshot"
    return AGREED_WITHIN_S, f"the digest of a quorum for slot {made.slot}"


async def _parts(header: bytes, file: File, size: int) -> AsyncIterator[bytes]:
    """The file in pieces that are read beside the loop."""
    yield header
    at = 0
    while at < size:
        part = await asyncio.to_thread(file.pread, at, PART_BYTES)
        if not part:
            return  # the client misses what the length promised, and says so
        yield part
        at += len(part)
