"""One client connection: its bytes, its session, and the order in which its requests are answered.

Replies leave in the order of the requests (ZooKeeper's FIFO). Writes go to the log as they come; a read
waits here until the writes before it are applied and its *round* is confirmed, or until the next write of
the same connection is about to be applied: it is then served from the state just before that write.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from synod.base import Micros

NEW: Final = 0
"""Nothing but a connect request is expected."""
AHEAD: Final = 1
"""The client has seen more than this replica: it waits, briefly."""
ATTACHING: Final = 2
"""Its creation or attachment of a session is in the log's hands."""
OPEN: Final = 3
CLOSED: Final = 4

REFUSED: Final = -1
"""The round of requests that are answered by an error in their turn: every round is confirmed before it."""


class Reads:
    """A run of consecutive reads that wait for one round."""

    __slots__ = ("frames", "round")

    def __init__(self, round_: int) -> None:
        self.round = round_
        self.frames: list[bytes] = []


class Connection:
    """The state of one client connection.

    Invariant: `queue` holds the number of requests of each slice of this connection that is not applied, and `Reads`.
    Invariant: `slices` is the number of slices in `queue`.
    Invariant: `slice_owner` says `session` and `attach_epoch`, as each slice of it does.
    """

    __slots__ = (
        "address",
        "attach_epoch",
        "awaits_round",
        "buffer",
        "connect_frame",
        "dirty",
        "id",
        "opened_at",
        "out",
        "outstanding",
        "password",
        "paused",
        "queue",
        "read_only_asked",
        "received",
        "session",
        "slice_owner",
        "slices",
        "state",
        "timeout_ms",
    )

    def __init__(self, id_: int, address: str, now: Micros) -> None:
        self.id = id_
        self.address = address
        self.state = NEW
        self.buffer = b""
        self.connect_frame = b""
        self.out: list[bytes] = []
        self.dirty = False
        self.awaits_round = False
        self.queue: deque[Reads | int] = deque()
        self.slices = 0
        self.outstanding = 0
        self.paused = False
        self.received = 0
        self.session = 0
        self.attach_epoch = 0
        self.slice_owner = b""
        self.timeout_ms = 0
        self.password = b""
        self.read_only_asked: bool | None = None
        self.opened_at = now

    @property
    def awaits_log(self) -> bool:
        """Whether it waits for something to be written: a write of its own, or its session."""
        return self.slices > 0 or self.state == ATTACHING

    @property
    def greeted(self) -> bool:
        """Whether its connect request has come, whole."""
        return self.state != NEW

    def add_read(self, frame: bytes, round_: int) -> None:
        """Queue a read behind everything that this connection asked before."""
        queue = self.queue
        last = queue[-1] if queue else None
        if not isinstance(last, Reads) or last.round != round_:
            last = Reads(round_)
            queue.append(last)
        last.frames.append(frame)
        self.outstanding += 1

    def add_slice(self, requests: int) -> None:
        """Note that a slice with so many requests goes to the log."""
        self.queue.append(requests)
        self.slices += 1
        self.outstanding += requests
