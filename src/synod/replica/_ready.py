"""What a replica asks of its host: one value object, drained after every batch of inputs.

The host writes, sends and reads as it is told, in any order between the kinds and in order within each.
What must not be seen before a write is durable is not in here before `persisted` was called for that write:
the host cannot get it wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from synod.base import Ballot, Entry, ReplicaId, Slot


class DiskWrite:
    """One write of the log. Several may share a sync; `persisted(id)` stands for all earlier ones too."""

    __slots__ = ("chosen_mark", "entries", "id", "peers", "promised")

    def __init__(
        self,
        id: int,  # noqa: A002 -- the word of `persisted`
        promised: Ballot,
        chosen_mark: Slot,
        entries: tuple[Entry, ...],
        peers: bytes,
    ) -> None:
        self.id = id
        self.promised = promised
        self.chosen_mark = chosen_mark
        self.entries = entries
        self.peers = peers


@dataclass(frozen=True, slots=True)
class LogRead:
    """Read entries of the log from a slot on, for a peer that is behind; answered by `log_read`."""

    id: int
    from_slot: Slot
    bytes_max: int


@dataclass(frozen=True, slots=True)
class SnapshotWrite:
    """A chunk of this replica's own snapshot; `snapshot_saved` follows the last once it is durable."""

    slot: Slot
    chunk: bytes
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class SnapshotRead:
    """Read bytes of a stored snapshot's file, for a peer; answered by `snapshot_read`."""

    id: int
    slot: Slot
    offset: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class TransferWrite:
    """Keep bytes of a peer's snapshot file; those at offset 0 begin a new one, others continue what came before.

    Answered by `transfer_written`, or by `snapshot_refused` when there is no room, or the bytes are damaged.
    """

    slot: Slot
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SnapshotInstall:
    """Replace everything at or below `slot` by the peer's snapshot file that has come.

    Answered by `snapshot_installed`, or by `snapshot_refused`.
    """

    slot: Slot
    promised: Ballot


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log and the metrics: why an election, which stall, which level.

    Args:
        reason: one of few words, for counters; see `synod.paxos.Note`.
    """

    kind: str
    text: str
    reason: str = ""


class Ready:
    """Everything that should happen now.

    No dataclass: one is made in every turn, and a method of its own is compiled where a generated one is not. What is
    in few turns, and then seldom twice, is kept in tuples: an empty one is no new object.

    Args:
        messages: (peer, bytes, whether it goes by the bulk connection).
        client_closes: connections to close after their output is flushed, each with the reason.
        client_pauses: connections to stop reading from (True), or to read from again (False).
        peer_closes: peers whose connections are to be closed, once what they were sent is on its way: they are
            members no more.
        forgetful: this disk may never be used again, and `stop` says why; to be marked so before the process ends.
        more: do all this, then call `ready` again: chosen batches wait to be applied.
        stop: why this replica must stop at once.
    """

    __slots__ = (
        "client_closes",
        "client_output",
        "client_pauses",
        "forgetful",
        "log_reads",
        "messages",
        "more",
        "notes",
        "peer_closes",
        "snapshot_install",
        "snapshot_reads",
        "snapshot_writes",
        "stop",
        "transfer_writes",
        "writes",
    )

    def __init__(self) -> None:
        self.writes: tuple[DiskWrite, ...] = ()
        self.messages: list[tuple[ReplicaId, bytes, bool]] = []
        self.client_output: list[tuple[int, bytes]] = []
        self.client_closes: tuple[tuple[int, str], ...] = ()
        self.client_pauses: tuple[tuple[int, bool], ...] = ()
        self.log_reads: tuple[LogRead, ...] = ()
        self.snapshot_writes: tuple[SnapshotWrite, ...] = ()
        self.snapshot_reads: tuple[SnapshotRead, ...] = ()
        self.transfer_writes: tuple[TransferWrite, ...] = ()
        self.snapshot_install: SnapshotInstall | None = None
        self.notes: tuple[Note, ...] = ()
        self.peer_closes: tuple[ReplicaId, ...] = ()
        self.forgetful = False
        self.more = False
        self.stop: str | None = None
