"""Every bound and period of one replica, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from synod.base import MILLISECOND, SECOND, Micros
from synod.paxos import PaxosOptions

ReadMode = Literal["linearizable", "sequential"]

GROUP_BYTES_MAX: Final = 256 * 1024
"""Longest run of frames forwarded as one group: a quarter of a batch, so that one origin cannot fill it.

A single frame may be longer; it then travels alone.
"""

FRAME_BYTES_MAX: Final = 1_048_575
"""ZooKeeper's default `jute.maxbuffer` (0xfffff): clients know it and split at it."""


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """The settings of one replica; periods in microseconds, sizes in bytes.

    Args:
        paxos: the settings of the consensus below.
        reads: what a read promises; `sequential` is ZooKeeper's own guarantee.
        session_timeout_ms_min: shortest session that a client may ask for; 4 s outlives a fail-over.
        session_timeout_ms_max: longest one.
        batch_bytes_max: a batch closes here, but takes at least one group.
        outstanding_requests_max: per connection; further frames wait in the socket.
        outbox_bytes_max: forwarded and not yet applied; beyond it connections are paused.
        touch_interval: shortest time between two messages that touch sessions; gathers the pings of many.
        resend_after: a group that did not come back for so long is forwarded again.
        client_ahead_wait: how long a client that has seen more than this replica may wait for it.
        snapshot_log_bytes: a snapshot is taken when the log on the disk grew by so much.
        log_block_bytes: what a write takes of the log at least.
        snapshot_pace: time between two steps of a snapshot's walk while nobody is served; see `BUSY_PACES`.
        snapshot_step_bytes: bytes a step.
        transfer_chunk_bytes: bytes of a snapshot in one message to a peer; all that is done with a larger one holds up
            who shares the machine.
        checks: assert the invariants around every step.
    """

    paxos: PaxosOptions = field(default_factory=PaxosOptions)
    reads: ReadMode = "linearizable"
    session_timeout_ms_min: int = 4_000
    session_timeout_ms_max: int = 60_000
    batch_bytes_max: int = 1 << 20
    outstanding_requests_max: int = 4_096
    outbox_bytes_max: int = 32 << 20
    touch_interval: Micros = 100 * MILLISECOND
    resend_after: Micros = SECOND
    client_ahead_wait: Micros = 2 * SECOND
    snapshot_log_bytes: int = 128 << 20
    log_block_bytes: int = 4096
    snapshot_pace: Micros = 10 * MILLISECOND
    snapshot_step_bytes: int = 256 * 1024
    transfer_chunk_bytes: int = 128 * 1024
    checks: bool = True
