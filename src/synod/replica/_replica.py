"""One deterministic replica: Paxos and the tree, with everything between them, and no I/O.

Inputs are method calls that carry `now`; what should happen leaves through `ready()`. The server, the
simulator and the flight recorder host the very same object.

Read `ready` first: it is the whole cycle. Then `_apply`, `_lead` and `_forward`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, Protocol

from synod.base import (
    BALLOT_ZERO,
    MILLISECOND,
    Ballot,
    Change,
    ConfigError,
    Configuration,
    Entry,
    Micros,
    RemoteProtocolError,
    ReplicaId,
    Rng,
    Slot,
    StorageError,
    invariant,
    is_change,
)
from synod.paxos import Accepted, Durable, HeartbeatAck, Paxos, Probe, Promise, ReadAsk
from synod.paxos import decode as decode_paxos
from synod.paxos import encode as encode_paxos
from synod.tree import (
    Tree,
    UnknownCommand,
    encode_awake,
    encode_batch,
    encode_digest_now,
    encode_expire,
    encode_opening,
    encode_raise,
    encode_silent,
)

from ._acquaintance import Acquaintance
from ._backup import MARK_AGAIN_AFTER, Backup
from ._batcher import Batcher
from ._clock import READ_EVERY, CellClock
from ._digests import DigestBoard
from ._front import READ_ONLY, Front
from ._gathering import Gathering
from ._levels import Levels, level_refusal
from ._liveness import Deadlines, Heard, Touches
from ._messages import (
    KIND_FIRST,
    PEER_PROTOCOL_OLDEST,
    PEER_PROTOCOL_VERSION,
    DigestAsk,
    DigestReport,
    Forward,
    Hello,
    ReplicaMessage,
    SnapshotAsk,
    SnapshotChunk,
    Touch,
    TouchAck,
    decode_message,
    encode_message,
)
from ._options import ReplicaOptions
from ._outbox import Outbox
from ._ready import DiskWrite, LogRead, Note, Ready, SnapshotInstall, SnapshotRead, SnapshotWrite, TransferWrite
from ._transfer import ROOM_PAUSE, Download

FORWARD_BYTES_MAX: Final = 1 << 20
"""Groups in one Forward; a batch is as long."""

TURNS_MAX: Final = 64
"""`ready` repeats its cycle while one part gives another something to do; more turns than this is a loop."""

GATHER_MAX: Final = 4 * MILLISECOND
"""While fewer requests wait than the last slot carried, the next slot is proposed only when every voter that keeps up
has answered for the last one, but at the latest so long after that was proposed. A slot costs as much for one request
as for forty, so that a leader that runs ahead of its slower follower fills slots with half of what is on its way
(measured: 38 instead of 30 requests in a slot at 64:1). Where a round trip is longer than this nobody waits at all."""

OUTAGE_TIMEOUTS: Final = 4
"""Election timeouts without a leader after which its clients are let go, and the time is none of their silence.

While a session is silent, cell time reaches the log every election timeout; so three are left for an election.
"""

APPLY_BYTES_PER_TURN: Final = 256 * 1024
"""Applying so many bytes of small requests takes a few milliseconds; then the host looks at its sockets."""

BUSY_PACES: Final = 5
"""While clients are served a snapshot takes up to so many times as long: its steps and syncs hold them up. One of a million
znodes, with its 850 steps, takes 28 s beside 5,000 writes a second, and 46 s beside as many as two cores can do."""

TICK_AT_LATEST: Final = 250 * MILLISECOND
"""A follower hears its leader more often than it would suspect it, so that nothing of paxos wakes it: what waits
for something that never comes is looked after so often all the same."""

DIGEST_ZNODES_PER_TURN: Final = 500
"""Hashing so many znodes takes about a millisecond: what a turn of the host can spare."""

DIGEST_GAP: Final = 5 * MILLISECOND
"""From one such step to the next, at least. With a step for every slot, a million znodes that are to be hashed, as after
a start, took a core of every replica for seconds, all replicas at once; so it is a fifth of one for ten seconds."""

DIGEST_PAUSE: Final = 10 * MILLISECOND

REMOVED: Final = "this replica was removed from the cell; others serve its clients"

CHANGES_REMEMBERED: Final = 16
"""Ids of changes that were made: who asked for one looks at once."""

Fate = Literal["open", "made", "void", "unknown"]
"""Of a change of the members: not decided, made, without effect for ever, or passed while this replica was behind."""

LEAVE_TIMEOUTS: Final = 10
"""Election timeouts without any peer, after which a replica that was removed ends: time enough for each to come back."""


class Recovered(Protocol):
    """What the log gave back at start; `storage.Recovered` is one."""

    @property
    def promised(self) -> Ballot: ...

    @property
    def entries(self) -> tuple[Entry, ...]: ...

    @property
    def chosen_mark(self) -> Slot: ...

    @property
    def log_start(self) -> Slot: ...

    @property
    def unknown(self) -> frozenset[Slot]: ...

    @property
    def snapshot_slot(self) -> Slot: ...

    @property
    def peers(self) -> bytes: ...

    @property
    def lost_upto(self) -> Slot: ...


class Replica:
    """A replica of a cell.

    Args:
        id: which replica of the cell this is.
        configuration: the first one of the cell; the tree and the log say what became of it.
        incarnation: which life of its id this is.
        disk: the number of its disk; see `Member`.
        recovered: what its log holds.
        tree: the state at the slot of its latest snapshot, or a new one.
        boot: its boot count, raised and made durable before.
        rng: chance for the election timeouts.
        draw_secret: so many unpredictable bytes; session passwords are drawn from it.
        now: microseconds of its monotonic clock.
        wall_ms: milliseconds since 1970.
    """

    def __init__(
        self,
        *,
        id: ReplicaId,  # noqa: A002 -- the word of the configuration
        configuration: Configuration,
        options: ReplicaOptions,
        recovered: Recovered,
        tree: Tree,
        boot: int,
        rng: Rng,
        draw_secret: Callable[[int], bytes],
        now: Micros,
        wall_ms: int,
        incarnation: int = 1,
        disk: int = 0,
    ) -> None:
        self.id = id
        self.first = configuration
        self.incarnation = incarnation
        self._disk = disk
        self.options = options
        self.boot = boot
        self.tree = tree
        self.stopped: str | None = None
        self._ticked_at = now
        self.observer: Callable[[Slot, bytes], None] | None = None
        """Told every value just before it is applied: what the simulator compares between replicas."""
        self._now = now
        self._wall_offset_ms = wall_ms - now // MILLISECOND
        self.paxos = Paxos(
            me=id,
            configuration=Configuration.decode(tree.configuration),
            incarnation=incarnation,
            disk=disk,
            options=options.paxos,
            durable=Durable(
                promised=recovered.promised,
                entries=recovered.entries,
                chosen_mark=recovered.chosen_mark,
                log_start=recovered.log_start,
                unknown=recovered.unknown,
                lost_upto=recovered.lost_upto,
            ),
            applied=tree.slot,
            rng=rng,
            now=now,
        )
        self.configuration = self.paxos.configuration
        # A disk of the first members that holds nothing, or only the backup that its cell began with, may be a wiped
        # one: see `_admit`.
        begun = recovered.log_start > configuration.begins_at
        empty = not (recovered.promised > BALLOT_ZERO or recovered.entries or begun)
        self._fresh = empty and configuration.votes(id, incarnation, disk)
        self._members_changed = False
        self._peers_begun: dict[ReplicaId, None] = {}
        self._welcomed_by: dict[ReplicaId, None] = {}
        self._has_room = True
        self.front = Front(origin=id, boot=boot, tree=tree, options=options, draw_secret=draw_secret)
        if self.has_left:
            self.front.leave(REMOVED)
        self.front.on_group_applied = self._group_applied
        self.front.on_group_skipped = self._group_skipped
        self.front.on_session_opened = self._session_opened
        self.front.on_session_ended = self._session_ended
        self._out = Ready()
        self._unapplied: deque[Entry] = deque()
        self._outbox = Outbox(id, boot)
        self._batcher = Batcher(options.batch_bytes_max)
        self._board = DigestBoard(id, self.configuration.voters)
        self._seen = Acquaintance(recovered.peers)
        self._levels = Levels()
        # What the disk is known to hold, for the hello.
        self._durable_promised = recovered.promised
        self._durable_slot = max(
            (
                recovered.snapshot_slot,
                recovered.log_start,
                recovered.lost_upto,
                *(e.slot for e in recovered.entries),
                *recovered.unknown,
            )
        )
        self._writes: deque[tuple[int, Ballot, Slot]] = deque()
        # Whom we send to.
        self._connected: dict[ReplicaId, None] = {}
        self._hellos: dict[ReplicaId, Hello] = {}
        self._counted: dict[ReplicaId, bool] = {}  # what `_counts` said under this configuration, of these hellos
        self._alone_since: Micros = now
        # Changing the members.
        self._wanted: Change | None = None
        self._asked_for: Change | None = None
        self._proposed: Slot = 0  # where the change that was asked for last was proposed, if it was
        self._made: deque[bytes] = deque(maxlen=CHANGES_REMEMBERED)
        self._installed_upto: Slot = 0
        self._forward_to: tuple[ReplicaId | None, Ballot] = (None, BALLOT_ZERO)
        self._led_at = now
        self._written_at = now
        # Leading.
        self._reign: Ballot | None = None
        self._deadlines: Deadlines | None = None
        self._outage = OUTAGE_TIMEOUTS * options.paxos.election_timeout
        self._clock = CellClock(tree.cell_time_ms, self._outage, now)
        self._accepted: dict[Slot, tuple[bytes, Micros]] = {}  # of other leaders, not applied yet: what, and when
        self._look_at: Micros = now
        self._settling: deque[tuple[Slot, tuple[int, ...]]] = deque()
        self._proposed_at = now
        self._gathering = Gathering(now)
        self._peer_heard: dict[ReplicaId, Heard] = {}
        self._touch_asks: dict[int, list[tuple[ReplicaId, TouchAck]]] = {}
        self._touches_gathered: list[tuple[ReplicaId, TouchAck]] = []
        # Reading.
        self._read_ask: tuple[int, int] | None = None
        self._granted: deque[tuple[Slot, int]] = deque()
        self._touches = Touches(options.touch_interval)
        # Snapshots.
        self.snapshot_slot = recovered.snapshot_slot
        self._log_grown = sum(len(e.value) + options.log_block_bytes for e in recovered.entries)
        self._walking: Slot | None = None
        self._walk_first = False
        self._walk_next: Micros = 0
        self._walked_slot: Slot = 0
        self._walked_at = self._served_at = now
        self._saving = False
        self._download: Download | None = None
        self._installing: Slot | None = None
        self._loading: Iterator[Tree | None] | None = None
        self._dissolving: Iterator[None] | None = None
        self._source: ReplicaId | None = None
        self._bad_sources: dict[ReplicaId, None] = {}
        self._download_not_before: Micros = now
        self._request_id = 0
        self._snapshot_asks: dict[int, tuple[ReplicaId, SnapshotAsk]] = {}
        self._digest_reported: Slot = tree.digest_slot
        self._digest_next: Micros = now
        self.backup: Backup | None = None
        self._ticked_at = now
        if self._fresh:
            self.paxos.abstain(True, now, "this disk holds nothing, and may have been wiped", remembers=False)
            self._admit(now)

    # -- inputs: peers -----------------------------------------------------------------------------------

    def hello(self) -> bytes:
        """The first message on every peer connection."""
        return encode_message(
            Hello(
                oldest=PEER_PROTOCOL_OLDEST,
                newest=PEER_PROTOCOL_VERSION,
                cell_id=bytes.fromhex(self.first.cell_id),
                configuration=self.first.digest(),
                id=self.id,
                incarnation=self.incarnation,
                boot=self.boot,
                feature_level=self.tree.supported_level,
                cell_level=self.tree.feature_level,
                promised=self._durable_promised,
                last_slot=self._durable_slot,
                disk=self._disk,
                changes=self.paxos.changes_known,
            )
        )

    def check_hello(self, data: bytes, main: bool = True) -> Hello:
        """Read a peer's hello, on its main connection or on the other one, and decide whether to talk to it.

        Raises:
            RemoteProtocolError: the peer is to be refused; the text says why.
            Forgetful: and it is to be told, for the sake of those who have not seen what it has forgotten.
        """
        hello = decode_message(data)
        if not isinstance(hello, Hello):
            raise RemoteProtocolError("a peer did not begin with a hello")
        if hello.cell_id != bytes.fromhex(self.first.cell_id):
            raise RemoteProtocolError(f"a replica of the cell {hello.cell_id.hex()} called; this cell is another")
        if hello.configuration != self.first.digest():
            raise RemoteProtocolError(
                f"replica {hello.id} was formatted with another configuration: "
                f"its [[peers]] differ from this replica's in ids or addresses"
            )
        reason = (
            self._no_member(hello)
            or self._seen.refusal(hello, self.tree.origins.get(hello.id, (0, 0))[0], main=main)
            or level_refusal(hello, self.tree.feature_level, self.tree.supported_level)
        )
        if reason is not None:
            raise RemoteProtocolError(reason)
        if hello.promised > BALLOT_ZERO or hello.last_slot > self.first.begins_at:
            self._peers_begun[hello.id] = None
        if hello.changes and self._fresh and not self._members_changed:
            self._members_changed = True
            self._note(
                "members",
                f"this disk holds nothing, and the members of the cell have changed since it was formatted: it may have "
                f"been wiped, so it does not vote; `synod member replace {self.id}` re-admits it",
            )
        return hello

    def forgotten(self, peer: ReplicaId, reason: str, now: Micros) -> None:
        """A peer has seen more of this disk than there is: an older state was put back, and it must vote no more.

        Not every peer has seen it, so that those who have not would count its vote. One that starts from nothing
        does not vote anyway until everybody has welcomed it.
        """
        self._now = now
        if not self._fresh and self.stopped is None:
            self.stopped = f"replica {peer} refuses it: {reason}; `synod member replace {self.id}` does that"
            self._out.forgetful = True

    def _no_member(self, hello: Hello) -> str | None:
        """Why who says hello is to be refused, as far as the members known here tell."""
        id_, known = hello.id, self.configuration
        if id_ == self.id:
            return f"replica {id_} was called by itself: check the addresses and ids of the configs"
        member = known.member(id_)
        if known.has_left(id_, hello.incarnation):
            if member is None:
                return f"replica {id_} was removed from this cell; stop it, and delete its data"
            return (
                f"replica {id_} comes as incarnation {hello.incarnation}, and {member.incarnation} is the member: "
                f"another disk has taken its place"
            )
        if known.holds(id_, hello.incarnation):
            if member is not None and member.disk not in (0, hello.disk):
                return (
                    f"replica {id_} has another disk than the one that was promoted: its disk was wiped or replaced, "
                    f"and it must not vote; `synod member replace {id_}` re-admits it"
                )
        elif hello.changes <= known.generation and known.holds(self.id, self.incarnation):
            return f"replica {id_} is no member of this cell yet; `synod member add {id_} ADDRESS` makes it one"
        return None  # a member, or somebody who knows later members than this replica does

    def _counts(self, peer: ReplicaId) -> bool:
        """Whether a connected peer is the member that the configuration means; else its votes are not that member's."""
        counts = self._counted.get(peer)
        if counts is None:
            counts = self._counted[peer] = self.configuration.holds(peer, self._hellos[peer].incarnation)
        return counts

    def _admit(self, now: Micros) -> None:
        """A replica that starts from nothing votes once it is sure that nobody has its word for anything.

        Whom it gave its word may be the only one who knows it, so all others must have welcomed it: each refuses
        a peer that shows less than it once did. Only where a quorum starts from nothing, a cell begins.
        """
        if self._members_changed:
            return  # whom it gave its word may be a member that it does not know
        voters = self.first.voters
        begins = [v for v in voters if v == self.id or (v in self._welcomed_by and v not in self._peers_begun)]
        if 2 * len(begins) > len(voters) or all(v == self.id or v in self._welcomed_by for v in voters):
            self._fresh = False
            if self._has_room:
                self.paxos.abstain(False, now)

    def peer_connected(self, hello: Hello, now: Micros) -> None:
        """The main connection to a peer stands, and this hello of it was accepted."""
        self._now = now
        peer = hello.id
        self._hellos[peer] = hello
        self._counted.clear()
        self._connected[peer] = None
        self.paxos.connected(peer, now)
        if self._fresh:
            self._out.messages.append((peer, encode_paxos(Probe(0)), False))  # its answer says that we are welcome
        if peer == self._forward_to[0]:
            self._doubt()
        if self._download is not None and self._download.peer == peer:
            self._download.hope(now)  # the bulk connection comes a moment later

    def peer_closed(self, peer: ReplicaId, now: Micros) -> None:
        """The main connection to a peer is gone."""
        self._now = now
        self._connected.pop(peer, None)
        if not self._connected:
            self._alone_since = now
        self.paxos.disconnected(peer, now)

    def step(self, peer: ReplicaId, data: bytes, now: Micros) -> None:
        """One message of a peer, from either connection.

        Raises:
            RemoteProtocolError: it cannot be read; the connection is to be closed.
        """
        self._now = now
        if self.stopped is not None or not data:
            return
        if data[0] < KIND_FIRST:
            message = decode_paxos(data)
            # What counts when a quorum is counted; from somebody else than the member that is meant it must not.
            if isinstance(message, (Promise, Accepted, HeartbeatAck, ReadAsk)) and not self._counts(peer):
                return
            if isinstance(message, Promise):
                self._seen.showed(peer, message.ballot, 0)
            elif isinstance(message, Accepted):
                self._seen.showed(peer, message.ballot, message.slot)
            self._note_heard(peer, now)
            if self._fresh and peer not in self._welcomed_by:
                self._welcomed_by[peer] = None
                self._admit(now)
            self.paxos.step(peer, message, now)
        else:
            self._step_own(peer, decode_message(data), now)

    def _step_own(self, peer: ReplicaId, message: ReplicaMessage, now: Micros) -> None:
        match message:
            case Forward(groups):
                if self._reign is not None:
                    for group in groups:
                        self._batcher.add_group(group, self.tree.origins)
            case Touch():
                self._take_touch(peer, message, now)
            case TouchAck(round_, refused):
                self._touch_answered(round_, refused)
            case DigestReport(slot, digest):
                self._reported(peer, slot, digest)
            case DigestAsk():
                self._log_digest()
            case SnapshotAsk():
                self._serve_snapshot(peer, message)
            case SnapshotChunk():
                self._take_chunk(peer, message, now)
            case Hello():
                raise RemoteProtocolError("a peer sent a second hello")

    def _note_heard(self, peer: ReplicaId, now: Micros) -> None:
        """An origin that was silent for a while was away: its clients' touches are still on their way."""
        heard = self._peer_heard.get(peer)
        if heard is None:
            self._peer_heard[peer] = Heard(now)
            return
        gap = now - heard.at
        heard.at = now
        if self._deadlines is not None and gap > 4 * self.options.paxos.heartbeat:
            self._deadlines.extend(gap, self._clock.read(now), via=peer)

    # -- inputs: clients ---------------------------------------------------------------------------------

    def client_opened(self, conn: int, now: Micros, address: str = "") -> None:
        """A client connected; `conn` is a number that this process has not used before."""
        self._now = now
        self.front.opened_connection(conn, address, now)

    def client_data(self, conn: int, data: bytes, now: Micros) -> None:
        """Bytes from a client."""
        self._now = self._served_at = now
        self.front.data(conn, data, now)

    def client_closed(self, conn: int, now: Micros) -> None:
        """A client's connection is gone, whoever closed it."""
        self._now = now
        self.front.closed_connection(conn)

    # -- inputs: results of the host's work ----------------------------------------------------------------

    def persisted(self, write_id: int, now: Micros) -> None:
        """Everything up to this write is durable."""
        self._now = now
        while self._writes and self._writes[0][0] <= write_id:
            _, promised, slot = self._writes.popleft()
            if promised is not self._durable_promised:
                self._durable_promised = max(self._durable_promised, promised)
            self._durable_slot = max(self._durable_slot, slot)
        self.paxos.persisted(write_id, now)

    def log_read(self, request_id: int, entries: Sequence[Entry], now: Micros) -> None:
        """The answer to a `LogRead`; no entries when the log no longer has them."""
        self._now = now
        self.paxos.log_read(request_id, entries, now)

    def snapshot_saved(self, slot: Slot, log_start: Slot, now: Micros) -> None:
        """This replica's own snapshot is durable, and the log's entries up to `log_start` are deleted."""
        self._now = now
        self._saving = False
        self.snapshot_slot = max(self.snapshot_slot, slot)
        backup = self.backup
        if backup is not None and backup.slot:
            backup.saved = slot == backup.slot
            if not backup.saved:
                self._fail_backup("there is no room on the disk for another snapshot")
        self.paxos.log_trimmed(log_start)

    def snapshot_read(self, request_id: int, data: bytes, total: int, now: Micros) -> None:
        """The answer to a `SnapshotRead`; no data when that snapshot is no longer there."""
        self._now = now
        peer, ask = self._snapshot_asks.pop(request_id)
        self._send(peer, SnapshotChunk(ask.slot, ask.offset, total if data else 0, data), bulk=True)

    def snapshot_installed(self, slot: Slot, chunks: Iterable[bytes], now: Micros) -> None:
        """A peer's snapshot is durable here and the log begins after it: take its state over, in small steps.

        Until that is done this replica answers from the old state what it can, and applies nothing.
        """
        self._now = now
        invariant(self._installing == slot, "only the snapshot that was asked for is installed")
        if slot <= self.tree.slot:
            self._installing = None
            return
        self._loading = Tree.loading(chunks, self.tree.supported_level)

    def _load_some(self, now: Micros) -> None:
        """Go on with the state of a peer's snapshot; when it is whole it takes the place of the old one.

        Clients are let go then: their watches lived in the old state, and they set them again elsewhere.
        """
        if self._dissolving is not None:
            if next(self._dissolving, self._dissolving) is self._dissolving:
                self._dissolving = None
            return
        loading, slot = self._loading, self._installing
        if loading is None or slot is None:
            return
        try:
            tree = next(loading)
        except StorageError as failure:
            # It was sound when it came. Everything durable is: the next start finds what can be used.
            self.stopped = f"it cannot read the snapshot that it took over: {failure}"
            return
        if tree is None:
            return
        self._loading = None
        self._installing = None
        self.front.close_all("this replica takes over a snapshot")
        self._dissolving = self.tree.dissolve()
        self.tree = tree
        invariant(self.tree.slot == slot, "a snapshot holds the state at its slot")
        self.front.tree = self.tree
        self._clock.applied(tree.cell_time_ms, now, followed=self.paxos.leader is not None)
        self._unapplied.clear()
        for old in [held for held in self._accepted if held <= slot]:
            del self._accepted[old]
        self.snapshot_slot = slot
        self._log_grown = 0
        self._digest_reported = self.tree.digest_slot
        self._fail_backup("this replica took over a snapshot of another one meanwhile")
        self._durable_slot = max(self._durable_slot, slot)
        self._outbox.skip_to(self.tree.origins.get(self.id, (0, 0)))
        self._installed_upto = slot
        self.paxos.installed(slot, Configuration.decode(self.tree.configuration), now)

    def snapshot_refused(self, slot: Slot, upto: int, no_room: bool, now: Micros) -> None:
        """A peer's snapshot could not be installed: fetch it again, from another peer if there is one.

        It may be damaged on that peer's disk, and stay so. Where there was no room for it, its peer is as good as
        any, but to fetch it again at once would fill the disk again: the log lives there too.

        `upto` bytes of it would have been on the disk; 0 of one that was to be installed. A disk that is slow may say
        so of a transfer that was given up meanwhile: that says nothing of the present one.
        """
        self._now = now
        download = self._download
        if self._installing != slot and (download is None or download.slot != slot or upto > download.received):
            return
        self._download = None
        self._installing = None
        if no_room:
            self._download_not_before = now + ROOM_PAUSE
        elif self._source is not None:
            self._bad_sources[self._source] = None

    # -- inputs: time ------------------------------------------------------------------------------------

    def tick(self, now: Micros, wall_ms: int) -> None:
        """Time has passed. Inputs that had arrived before are to be handed in first."""
        self._now = now
        self._wall_offset_ms = wall_ms - now // MILLISECOND
        self._ticked_at = now
        if self.stopped is not None:
            return
        self.paxos.tick(now)
        self._watch_sessions(now)
        self._leave_leaderless_clients(now)
        self._leave_for_good(now)
        if self.front.ahead:
            self.front.admit_ahead(now)
        stuck = self._outbox.stuck_since()
        if stuck is not None and now - stuck >= self.options.resend_after:
            self._outbox.send_again()
            self._outbox.hope(now)
        if self.backup is not None:
            self._seek_mark(self.backup, now)
        download = self._download
        if download is not None and not download.complete and now >= download.ask_again_at():
            self._send(download.peer, download.ask(now), bulk=True)
        self._digest()

    def next_deadline(self) -> Micros:
        """When `tick` wants to be called, at the latest."""
        due = min(self.paxos.next_deadline(), self._ticked_at + TICK_AT_LATEST)
        if self._deadlines is not None:
            due = min(due, self._look_at)
        if self.front.touched or self.front.refused:
            again_at = 0 if self.front.touched else self._touches.again_at
            touch_at = max(again_at, self._touches.next_deadline(self._touch_retry))
            if touch_at < due and self._touchable():
                due = touch_at
        if self._reign is not None and self._batcher and self._gathers(self._now):
            gathering = self._gathering
            due = min(due, gathering.until if gathering.active else self._proposed_at + GATHER_MAX)
        if self._walking is not None:
            due = min(due, self._walk_next)
        if self.tree.digest_pending:
            due = min(due, self._now + DIGEST_PAUSE)  # without writes nothing else would go on with it
        return max(due, self._now)

    def hand_over(self, now: Micros) -> None:
        """A clean shutdown begins: if this replica leads, another is to lead at once."""
        self._now = now
        self.paxos.hand_over(now)

    def abstain(self, abstaining: bool, now: Micros) -> None:
        """There is no room to write, or there is again: until then this replica takes no part in ballots."""
        self._now = now
        self._has_room = not abstaining
        if not self._fresh:
            self.paxos.abstain(abstaining, now)

    # -- the cycle ---------------------------------------------------------------------------------------

    def ready(self) -> Ready:
        """What should happen as a consequence of the inputs so far; drains.

        While `more` is set the host is to do what it was handed and call again: the next batch is on its way
        to the disks and peers before the last one is applied, and a long backlog is applied in pieces between
        which the host can look at its sockets.
        """
        now = self._now
        if self._loading is not None or self._dissolving is not None:
            self._load_some(now)
        if self.paxos.unreadable is not None and self.stopped is None:
            self.stopped = self.paxos.unreadable
        if self.stopped is None and self._unapplied and self._loading is None:
            self._apply_some(now)
        if self.stopped is None:
            for turn in range(TURNS_MAX):
                if not self._turn(now):
                    break
                invariant(turn < TURNS_MAX - 1, "a cycle of the replica comes to rest")
            self._walk(now)
        out, self._out = self._out, Ready()
        self.front.drain(out)
        busy = self._loading is not None or self._dissolving is not None or bool(self._unapplied)
        out.more = busy and self.stopped is None
        out.stop = self.stopped
        return out

    def _turn(self, now: Micros) -> bool:
        """One pass: clients to the log, the log's answers to clients. True when it gave itself more to do."""
        front = self.front
        self._follow_members()
        self._follow_roles()
        front.read_only = self.paxos.read_only
        if front.items:
            items, front.items = front.items, []
            self._outbox.seal(items, now)
        self._forward()
        self._send_touches(now)
        self._ask(now)
        self._lead(now)
        made = self.paxos.ready()
        for write in made.writes:
            self._write(write.id, write.promised, write.chosen_mark, write.entries)
        told, data = None, b""
        for peer, message in made.messages:
            if message is not told:  # what goes to every peer is encoded once
                told, data = message, encode_paxos(message)
            self._out.messages.append((peer, data, False))
        for read in made.log_reads:
            self._out.log_reads += (LogRead(read.id, read.from_slot, read.bytes_max),)
        for note in made.notes:
            self._out.notes += (Note(note.kind, note.text, note.reason),)
        if made.snapshot_wanted is not None:
            self._want_snapshot(made.snapshot_wanted, now)
        if made.chosen:
            self._unapplied.extend(made.chosen)
        for ask, slot in made.grants:
            self._grant(ask, slot)
        if made.grants:
            self._confirm()
            front.after_apply(now)
        self._relieve(now)
        return bool(made.grants or front.items)

    def _apply_some(self, now: Micros) -> None:
        """Apply what was chosen, up to a bound, and answer the clients that waited for it."""
        size = 0
        while self._unapplied and size < APPLY_BYTES_PER_TURN and self.stopped is None:
            entry = self._unapplied.popleft()
            size += len(entry.value)
            self._apply(entry)
        self._settle()
        self._confirm()
        self.front.after_apply(now)

    def _write(self, id_: int, promised: Ballot, mark: Slot, entries: tuple[Entry, ...]) -> None:
        last = 0
        self._log_grown += self.options.log_block_bytes
        for slot, _, value in entries:
            last = max(last, slot)
            self._log_grown += len(value)
            if self._reign is None and slot > self.tree.slot:
                self._accepted[slot] = (value, self._now)
        self._writes.append((id_, promised, last))
        self._out.writes += (DiskWrite(id_, promised, mark, entries, self._seen.encode()),)

    def _apply(self, entry: Entry) -> None:
        if self.observer is not None:
            self.observer(entry.slot, entry.value)
        level, cell_ms = self.tree.feature_level, self.tree.cell_time_ms
        try:
            self.tree.apply(entry.slot, entry.value, self.front)
        except UnknownCommand as unknown:
            self.stopped = f"it cannot apply slot {entry.slot} of the log: {unknown}"
            return
        accepted = self._accepted.pop(entry.slot, None) if self._accepted else None
        if self.tree.cell_time_ms != cell_ms:
            self._note_cell_time(entry.value, accepted)
        if self.tree.feature_level != level:
            self._note("level", f"the cell runs at feature level {self.tree.feature_level} from now on")
        if is_change(entry.value):
            self._note_change(Change.decode(entry.value))
        if self.backup is not None and self.tree.frozen_slot == entry.slot:
            self._mark_backup(self.backup)
        self._digest()

    def _note_cell_time(self, value: bytes, accepted: tuple[bytes, Micros] | None) -> None:
        """A batch has brought cell time forward; it was proposed before now, and before this replica accepted it.

        What was accepted in its slot may have been another value, of an earlier leader: that tells nothing of this one.
        """
        at = self._now
        if self._reign is not None and self._deadlines is None:
            if accepted is None or accepted[0] != value:
                return  # a leader that does not serve yet has learned it just now: nobody here knows how old it is
            at = accepted[1]
        self._clock.applied(self.tree.cell_time_ms, at, followed=self.paxos.leader is not None)

    def _digest(self) -> None:
        """Go on with a digest that was begun, a little at a time."""
        tree = self.tree
        if tree.digest_pending and self._now >= self._digest_next:
            self._digest_next = self._now + DIGEST_GAP
            tree.digest_step(DIGEST_ZNODES_PER_TURN)
        if tree.digest_slot != self._digest_reported:
            self._report_digest()

    def _report_digest(self) -> None:
        slot = self._digest_reported = self.tree.digest_slot
        digest = self.tree.digest().to_bytes(16, "big")
        if self.backup is not None and self.backup.slot == slot:
            self.backup.digest = digest
        for peer in self._connected:
            self._send(peer, DigestReport(slot, digest))
        self._reported(self.id, slot, digest)

    def _reported(self, replica: ReplicaId, slot: Slot, digest: bytes) -> None:
        reason = self._board.report(replica, slot, digest)
        if reason is not None and self.stopped is None:
            self.stopped = reason
        if self.backup is not None and self.backup.slot and self._board.agreed(self.backup.slot):
            self.backup.agreed = True  # the board does not remember it until the snapshot is written

    # -- members -----------------------------------------------------------------------------------------

    def change_members(self, change: Change, now: Micros) -> None:
        """Have the leader, this replica, propose other members; `fate_of` tells what comes of it.

        Raises:
            ConfigError: it cannot be done now; nothing was changed.
        """
        self._now = now
        reason = self._unchangeable(change)
        if reason is not None:
            raise ConfigError(reason)
        self._wanted = self._asked_for = change
        self._proposed = 0

    def fate_of(self, change: Change) -> Fate:
        """What has become of a change that this replica was asked to propose."""
        if change.id in self._made:
            return "made"
        if change is self._wanted:
            return "open"
        if change is not self._asked_for or not self._proposed:
            return "void"
        if self.tree.slot < self._proposed:
            return "open"
        return "unknown" if self._proposed <= self._installed_upto else "void"

    def _note_change(self, change: Change) -> None:
        if change.configuration.encode() == self.tree.configuration:
            self._made.append(change.id)

    def _unchangeable(self, change: Change) -> str | None:
        """Why a change may not be proposed here and now."""
        paxos, new = self.paxos, change.configuration
        if self._reign is None or self._deadlines is None:
            return f"replica {self.id} does not lead; ask replica {paxos.leader}"
        if self._wanted is not None or self._proposed > paxos.chosen_mark:
            return "another change of the members is under way; wait until it is made"
        if self.configuration.after(change.encode()) != new:
            return "the members have changed meanwhile; look at `synod member list`, and ask again"
        if not new.votes(self.id, self.incarnation, self._disk):
            return f"replica {self.id} leads: another one must lead before it is removed or replaced"
        for member in new.members:
            old = self.configuration.member(member.id)
            if old is not None and old.incarnation < member.incarnation and paxos.takes_part(member.id):
                return (
                    f"replica {member.id} is there and takes part: to be replaced is one that lost its disk, or is "
                    f"stopped; stop it first"
                )
            lag = paxos.lag(member.id)
            if member.role != "voter" or member.id in self.configuration.voters:
                continue
            if member.id not in self._connected or lag is None:
                return f"replica {member.id} is not connected: start it, and promote it when it has caught up"
            if lag > self.options.paxos.candidate_lag_slots_max:
                return (
                    f"replica {member.id} is {lag:,} slots behind, and at most "
                    f"{self.options.paxos.candidate_lag_slots_max} are allowed: promote it when it has caught up"
                )
            if not self._counts(member.id) or self._hellos[member.id].disk != member.disk:
                return f"replica {member.id} has another disk than the one that is to be promoted"
        return self.no_quorum(new)

    def no_quorum(self, new: Configuration) -> str | None:
        """Why the cell would stand still with other members, as this leader sees it."""
        if self.paxos.reaches(new.voters):
            return None
        return (
            f"with the voters {', '.join(map(str, new.voters))} the cell would have no quorum that is connected "
            f"to replica {self.id}, which leads"
        )

    def disk_of(self, peer: ReplicaId) -> int | None:
        """The number of a connected peer's disk."""
        return self._hellos[peer].disk if peer in self._connected else None

    def _follow_members(self) -> None:
        """Other members are chosen: let go of those who are none any more."""
        if self.paxos.configuration is self.configuration:
            return
        self.configuration = self.paxos.configuration
        self._counted.clear()
        self._board.voters = self.configuration.voters
        ids = ", ".join(f"{m.id} ({m.role})" if m.role != "voter" else str(m.id) for m in self.configuration.members)
        self._note("members", f"the members of the cell are {ids}")
        if self.has_left:
            self.front.leave(REMOVED)
        else:
            self._out.peer_closes += tuple(peer for peer in self._connected if self._no_member(self._hellos[peer]))
        me = self.configuration.member(self.id)
        if me is not None and me.incarnation == self.incarnation and me.disk not in (0, self._disk):
            self._note(
                "members",
                f"another disk than this one was promoted: this one does not vote; "
                f"`synod member replace {self.id}` re-admits it",
            )

    @property
    def has_left(self) -> bool:
        """Whether this replica was removed or replaced, as far as it knows."""
        return self.configuration.has_left(self.id, self.incarnation)

    def _leave_for_good(self, now: Micros) -> None:
        """Who was removed stays while anybody wants to hear of it: perhaps nobody else knows that it was chosen."""
        if not self.has_left or any(self._counts(peer) for peer in self._connected):
            self._alone_since = now
        elif now - self._alone_since >= LEAVE_TIMEOUTS * self.options.paxos.election_timeout and self.stopped is None:
            self.stopped = "it was removed from the cell, or another disk has taken its place; its data can be deleted"

    # -- leading -----------------------------------------------------------------------------------------

    def _follow_roles(self) -> None:
        """Notice that this replica leads, leads no more, or hears another leader."""
        paxos = self.paxos
        leader, ballot = paxos.leader, paxos.ballot
        reign = ballot if paxos.role == "leader" else None
        # A ballot that stands is the same object nearly always: then there is nothing to compare.
        if reign is not self._reign and reign != self._reign:
            self._reign = reign
            self._batcher.clear()
            self._gathering = Gathering(self._now)
            self._deadlines = None
            self.front.on_sessions_touched = None
            self._levels.proposed = 0
            self._settling.clear()
            self._touch_asks.clear()
            self._touches_gathered.clear()
            self._wanted = None
        if self._reign is not None and self._deadlines is None and paxos.serving:
            self._begin_to_serve()
        before, under = self._forward_to
        if (leader is not before and leader != before) or (ballot is not under and ballot != under):
            self._forward_to = (leader, ballot)
            self._doubt()

    def _begin_to_serve(self) -> None:
        """The opening batch of this ballot and everything before it are applied: sessions get their deadlines."""
        if self.tree.opening_ballot != self._reign or self._reign is None:
            return
        began = self._clock.start(self.tree.cell_time_ms, self._now)
        self._deadlines = Deadlines(
            self._reign,
            soon=self.options.paxos.election_timeout,
            outage=self._outage if self._clock.interrupted else 0,
            began=began,
        )
        self._deadlines.begin(self.tree.sessions)
        self.front.on_sessions_touched = self._sessions_touched
        self._look_at = self._now + READ_EVERY

    def _wall_ms(self) -> int:
        return self._now // MILLISECOND + self._wall_offset_ms

    def _lead(self, now: Micros) -> None:
        """Propose the opening batch of a new ballot, and then whatever waits, as long as slots are free."""
        paxos = self.paxos
        if self._reign is None:
            return
        if paxos.needs_opening:
            batch = encode_batch(
                feature_level=self.tree.feature_level,
                cell_time_ms=self.tree.cell_time_ms,
                wall_ms=self._wall_ms(),
                commands=[encode_opening(self._reign)],
            )
            paxos.propose_opening(batch, now)
        if self._deadlines is None:
            return
        for session in self._deadlines.take_awaking() if self._deadlines.awaking else ():
            self._batcher.add_command(encode_awake(session, self.tree.sessions[session].attach_epoch, self._reign))
        if self._wanted is not None:
            self._propose_change(self._wanted, now)
            return
        if self.tree.feature_level < self.tree.supported_level:
            self._raise_level()
        batcher, gathering = self._batcher, self._gathering
        if gathering.under_way and paxos.at_rest:
            gathering.chosen(batcher.items, now)
        while paxos.can_propose and (batcher or self._time_is_due(now)) and not self._gathers(now):
            batch = batcher.take(
                feature_level=self.tree.feature_level,
                cell_time_ms=self._clock.read(now) // MILLISECOND,
                wall_ms=self._wall_ms(),
            )
            slot = paxos.propose(batch, now)
            self._proposed_at = now
            gathering.proposed(batcher.items_taken, now)
            if not batcher.urgent:
                self._settling.append((slot, self._deadlines.proposed()))

    def _raise_level(self) -> None:
        """Have the level raised once every member knows a higher one."""
        others = [member.id for member in self.configuration.members if member.id != self.id]
        level = self._levels.to_raise(
            self.tree.feature_level, self.tree.supported_level, others, self._connected, self._hellos
        )
        if level is not None:
            self._batcher.add_command(encode_raise(level))

    def _gathers(self, now: Micros) -> bool:
        """Whether the next slot waits a moment for more requests: see `Gathering`, and otherwise `GATHER_MAX`."""
        batcher = self._batcher
        if batcher.urgent or batcher.full:
            return False
        if self._gathering.active:
            return self._gathering.waits(batcher.items, now)
        return not batcher.as_many_again and now - self._proposed_at < GATHER_MAX and self.paxos.outpaced

    def _propose_change(self, change: Change, now: Micros) -> None:
        """Alone: once everything before it is chosen; nothing more is proposed meanwhile."""
        if self.paxos.can_change:
            self._proposed = self.paxos.propose(change.encode(), now)
            self._wanted = None

    def _time_is_due(self, now: Micros) -> bool:
        """While a session is silent, cell time is logged now and then: a next leader must know how long it was."""
        return (
            self._deadlines is not None
            and bool(self._deadlines.quiet)
            and now - self._proposed_at >= self.options.paxos.election_timeout
        )

    def _settle(self) -> None:
        """Sessions whose expiry or silence is applied may be touched again."""
        while self._settling and self._settling[0][0] <= self.tree.slot:
            _, sessions = self._settling.popleft()
            if self._deadlines is not None:
                self._deadlines.settled(sessions, self._clock.read(self._now))

    def _watch_sessions(self, now: Micros) -> None:
        """Log the expiry of sessions that were silent too long, and the silences that a next leader is to know."""
        deadlines = self._deadlines
        if deadlines is None or self._reign is None:
            return
        cell_time = self._clock.read(now)
        if now < self._look_at:
            return
        self._look_at = now + READ_EVERY
        if self._clock.stood:
            # This replica was away. What came meanwhile is being handed in, and the clock stood still; but who was
            # about to expire gets one look more.
            self._clock.stood = False
            return
        sessions = self.tree.sessions
        verdict = deadlines.look(sessions, cell_time, read_only=self.paxos.read_only)
        for session in verdict.expire:
            self._batcher.add_command(encode_expire(session, sessions[session].attach_epoch, self._reign))
        for session, heard in verdict.silent:
            since = -(-heard // MILLISECOND)  # no touch up to the end of that millisecond is missed
            self._batcher.add_command(encode_silent(session, sessions[session].attach_epoch, self._reign, since))

    def _take_touch(self, peer: ReplicaId, touch: Touch, now: Micros) -> None:
        """Note that sessions live; the answer waits until a quorum has shown that this replica still leads."""
        if self._deadlines is None:
            return  # whoever sent it before this leader serves sends it again within an election timeout
        sessions, cell_time = self.tree.sessions, self._clock.read(now)
        refused = tuple(s for s in touch.sessions if not self._deadlines.touch(s, peer, sessions, cell_time))
        self._touches_gathered.append((peer, TouchAck(touch.round, refused)))

    # -- forwarding --------------------------------------------------------------------------------------

    def _doubt(self) -> None:
        """Whatever was sent to the leader may be lost: send it again."""
        self._outbox.send_again()
        self._touches.doubt()
        self._touches.hope()
        self.front.touch_again()

    def _forward(self) -> None:
        """Hand the groups that the leader has not been sent to it, or to our own batcher when we lead."""
        if not self._outbox.has_unsent:
            return
        if self._reign is not None:
            for group in self._outbox.unsent():
                self._batcher.add_group(group, self.tree.origins)
            return
        leader = self._forward_to[0]
        if leader is None or leader == self.id or leader not in self._connected:
            return
        if self._durable_promised == BALLOT_ZERO:
            return  # whose requests were applied has promised something: else its disk was wiped, see `Acquaintance`
        part: list[bytes] = []
        size = 0
        for group in self._outbox.unsent():
            if part and size + len(group) > FORWARD_BYTES_MAX:
                self._send(leader, Forward(tuple(part)))
                part, size = [], 0
            part.append(group)
            size += len(group)
        if part:
            self._send(leader, Forward(tuple(part)))

    def _group_applied(self, seq: int) -> None:
        self._outbox.applied(seq, self._now)

    def _group_skipped(self, origin: ReplicaId, boot: int, seq: int) -> None:
        known = self.tree.origins.get(origin, (0, 0))
        if origin == self.id and boot == self.boot and seq > (known[1] if known[0] == boot else 0):
            self._outbox.send_again()  # it came after a gap

    def _relieve(self, now: Micros) -> None:
        """Stop and start parsing as the outbox fills and empties."""
        front = self.front
        if not front.overloaded and self._outbox.bytes > self.options.outbox_bytes_max:
            front.overloaded = True
        elif front.overloaded and self._outbox.bytes <= self.options.outbox_bytes_max // 2:
            front.overloaded = False
            front.resume_parsing(now)

    # -- reading -----------------------------------------------------------------------------------------

    def _ask(self, now: Micros) -> None:
        """One ask for all reads that gathered while the last was under way; one for the touches of peers."""
        front = self.front
        if front.reads_gathered and self._read_ask is None:
            front.reads_gathered = False
            self._read_ask = (self.paxos.ask(now), front.reading)
            front.reading += 1
        if self._touches_gathered and self._deadlines is not None:
            self._touch_asks[self.paxos.ask(now)] = self._touches_gathered
            self._touches_gathered = []

    def _grant(self, ask: int, slot: Slot) -> None:
        if self._read_ask is not None and ask == self._read_ask[0]:
            self._granted.append((slot, self._read_ask[1]))
            self._read_ask = None
        if self.backup is not None and ask == self.backup.ask:
            self.backup.after = slot
            self._seek_mark(self.backup, self._now)
        acks = self._touch_asks.pop(ask, None)
        for peer, ack in acks or ():
            if peer == self.id:
                self._touch_answered(ack.round, ack.refused)
            else:
                self._send(peer, ack)

    def _confirm(self) -> None:
        """Serve the rounds of reads whose slot is applied."""
        while self._granted and self._granted[0][0] <= self.tree.slot:
            _, round_ = self._granted.popleft()
            self.front.confirm(round_)

    # -- touches of this origin's sessions -----------------------------------------------------------------

    @property
    def _touch_retry(self) -> Micros:
        return self.options.paxos.election_timeout

    def _send_touches(self, now: Micros) -> None:
        """Start a round of touches to the leader, gathered over the interval."""
        if not self._touches.due(now, self._touch_retry):
            return  # under load nearly always: there is always somebody who was heard, and a round is rare
        front = self.front
        again = bool(front.refused) and now >= self._touches.again_at
        waiting = front.touched or front.pings or self._touches.awaited or again
        if not waiting or not self._touchable():
            return
        if again:
            front.touch_again()
        leader = self._forward_to[0]
        live = self.tree.sessions
        touch = Touch(*self._touches.start((s for s in front.begin_round() if s in live), now))
        if leader is not None and leader != self.id:
            self._send(leader, touch)
        else:
            self._take_touch(self.id, touch, now)

    def _touchable(self) -> bool:
        """Whether there is a leader to be told of live sessions: while there is none, no clock makes it come."""
        leader = self._forward_to[0]
        if leader is None:
            return False
        return self._deadlines is not None if leader == self.id else leader in self._connected

    def _touch_answered(self, round_: int, refused: Sequence[int]) -> None:
        for session in self._touches.answered(round_, refused):
            self.front.pong(session)
        front = self.front
        wait = bool(front.refused)  # others have been refused before, and it is known when they go along again
        for session in refused:
            if session in self.tree.sessions:
                front.no_pong(session)
        if not front.refused:
            self._touches.hope()
        elif not wait:
            self._touches.put_off(self._now, self._touch_retry)

    def _session_opened(self, session: int, _timeout_ms: int) -> None:
        if self._deadlines is not None:
            self._deadlines.opened(session, self._clock.read(self._now))

    def _sessions_touched(self, sessions: list[int]) -> None:
        if self._deadlines is not None:
            cell_time = self._clock.read(self._now)
            for session in sessions:
                self._deadlines.touched(session, cell_time)

    def _session_ended(self, session: int) -> None:
        if self._deadlines is not None:
            self._deadlines.ended(session)

    def _leave_leaderless_clients(self, now: Micros) -> None:
        """Without a leader for long, close the clients: their requests have an unknown outcome, in bounded time.

        The same without room on the disk: what cannot be written is not learned either, so that no answer comes.
        Long is 4 election timeouts, or a third of the shortest session served, whichever is more: time
        enough for the cell to elect, and for the client to reach another replica within its session.
        """
        can_read = self.can_read
        if not self.front.read_only:
            self._written_at = now
        if can_read:
            self._led_at = now
        without = now - (self._written_at if can_read else self._led_at)
        # First what is nearly always so: to look through all sessions for the shortest costs more than the whole turn.
        if without < self._outage:
            return
        limit = max(self._outage, self.front.smallest_timeout_ms() * MILLISECOND // 3)
        if without < limit:
            return
        for c in list(self.front.connections.values()):
            if can_read:
                if c.awaits_log and now - c.opened_at >= limit:
                    self.front.close(c, f"{READ_ONLY}; what is outstanding may or may not happen")
            elif now - max(c.opened_at, self._led_at) >= limit:
                why = "may not vote" if self._fresh else "hears no leader" if self._has_room else "has no room to write"
                self.front.close(c, f"this replica {why}; what is outstanding may or may not happen")

    # -- snapshots ---------------------------------------------------------------------------------------

    def _walk(self, now: Micros) -> None:
        """Begin a snapshot when the log has grown enough; hand out one step of it at the pace of the options."""
        if self._walking is None:
            due = self._log_grown >= self.options.snapshot_log_bytes and self.tree.slot > self.snapshot_slot
            # A backup that waits for its slot begins the next one, which will serve as well.
            if not due or not self._may_walk or (self.backup is not None and self.backup.wants_mark):
                return
            self._begin_walk()
        elif now < self._walk_next:
            return
        walking = self._walking or self.tree.slot
        busy = self.tree.slot != self._walked_slot or self._served_at > self._walked_at
        self._walked_slot, self._walked_at = self.tree.slot, now
        self._walk_next = now + self.options.snapshot_pace * (BUSY_PACES if busy else 1)
        chunk = self.tree.snapshot_step(self.options.snapshot_step_bytes)
        step = SnapshotWrite(walking, chunk or b"", first=self._walk_first, last=chunk is None)
        self._out.snapshot_writes += (step,)
        self._walk_first = False
        if chunk is None:
            self._walking = None

    @property
    def _may_walk(self) -> bool:
        """One walk at a time, and none of a state that is about to be replaced."""
        return self._walking is None and not self._saving and self._installing is None

    def _begin_walk(self) -> None:
        self.tree.begin_snapshot()
        self._walking = self.tree.slot
        self._walk_first = True
        self._saving = True
        self._log_grown = 0

    def _want_snapshot(self, peer: ReplicaId, now: Micros) -> None:
        """Our next slot is only in a peer's snapshot: fetch it. What has come of one is kept while there is hope."""
        if (
            self._download is not None
            and self._download.peer not in self._connected
            and self._download.is_hopeless(now)
        ):
            self._download = None
        if now < self._download_not_before or not self._has_room:
            return
        if self._installing is None and self._download is None:
            if peer in self._bad_sources:
                others = [other for other in self._connected if other not in self._bad_sources]
                if others:
                    peer = others[0]
                else:
                    self._bad_sources.clear()
            self._source = peer
            self._download = Download(peer, now)
            self._send(peer, self._download.ask(now), bulk=True)

    def _serve_snapshot(self, peer: ReplicaId, ask: SnapshotAsk) -> None:
        slot = ask.slot or self.snapshot_slot
        if slot == 0:
            self._send(peer, SnapshotChunk(0, 0, 0, b""), bulk=True)
            return
        self._request_id += 1
        self._snapshot_asks[self._request_id] = (peer, SnapshotAsk(slot, ask.offset))
        read = SnapshotRead(self._request_id, slot, ask.offset, self.options.transfer_chunk_bytes)
        self._out.snapshot_reads += (read,)

    def _take_chunk(self, peer: ReplicaId, chunk: SnapshotChunk, now: Micros) -> None:
        download = self._download
        if download is None or download.peer != peer:
            return
        before = download.received
        if chunk.slot == download.slot and chunk.total and chunk.offset != before:
            return  # it was asked for twice: the answer to the other ask carries on
        if not download.take(chunk, now):
            self._download = None  # the next fetch tells us again where to ask
            if self._bad_sources:
                self._bad_sources[peer] = None  # this one has none, or not any more
        elif download.received > before:
            self._out.transfer_writes += (TransferWrite(download.slot, before, chunk.data),)

    def transfer_written(self, slot: Slot, upto: int, now: Micros) -> None:
        """So many bytes of a peer's snapshot are on the disk: ask for more, or take it over when it is whole."""
        self._now = now
        download = self._download
        if download is None or (download.slot, download.received) != (slot, upto):
            return  # of a transfer that was given up, or more has come already
        if not download.complete:
            self._send(download.peer, download.ask(now), bulk=True)
            return
        self._download = None
        if slot > self.tree.slot:
            self._installing = slot
            # A snapshot of our own that is under way would be of a state that is soon gone.
            self.tree.abandon_snapshot()
            self._walking = None
            self._saving = False
            self._fail_backup("this replica takes over a snapshot of another one")
            self._out.snapshot_install = SnapshotInstall(slot, self.paxos.ballot)

    # -- backups -------------------------------------------------------------------------------------------

    def begin_backup(self, now: Micros, wall_ms: int) -> bool:
        """Begin a backup: see `_backup`. False while another one is under way. `end_backup` ends it."""
        self._now = now
        if self.backup is not None:
            return False
        self.backup = Backup(self.paxos.ask(now), now, wall_ms)
        return True

    def end_backup(self) -> None:
        """Whoever asked for it has what it needs, or has lost patience."""
        self.backup = None

    def _seek_mark(self, backup: Backup, now: Micros) -> None:
        """Have a digest logged, as often as it takes, when a snapshot could begin at its slot."""
        if not backup.wants_mark or now < backup.mark_at or not self._may_walk or self.tree.digest_pending:
            return
        backup.mark_at = now + MARK_AGAIN_AFTER
        leader = self._forward_to[0]
        if leader == self.id:
            self._log_digest()
        elif leader is not None and leader in self._connected:
            self._send(leader, DigestAsk())

    def _log_digest(self) -> None:
        if self._deadlines is not None:
            self._batcher.add_command(encode_digest_now())

    def _mark_backup(self, backup: Backup) -> None:
        """The state of this very moment, after a slot whose digest all take, is what the backup will hold."""
        tree = self.tree
        if backup.after is None or tree.slot < backup.after or not backup.wants_mark or not self._may_walk:
            return
        self._begin_walk()
        backup.slot, backup.zxid, backup.level = tree.slot, tree.zxid, tree.feature_level
        backup.znodes, backup.sessions = tree.znodes, len(tree.sessions)

    def _fail_backup(self, reason: str) -> None:
        if self.backup is not None:
            self.backup.error = reason

    # -- what others may know ------------------------------------------------------------------------------

    def _note(self, kind: str, text: str) -> None:
        self._out.notes += (Note(kind, text),)

    def _send(self, peer: ReplicaId, message: ReplicaMessage, *, bulk: bool = False) -> None:
        self._out.messages.append((peer, encode_message(message), bulk))

    @property
    def admitted(self) -> bool:
        """Whether this replica takes part; one that starts from nothing waits for the others' welcome."""
        return not self._fresh

    @property
    def can_read(self) -> bool:
        """Whether linearizable reads can be served: a leader that is connected to a quorum is heard, and learned from.

        While nothing can be written anywhere, there is nothing to learn for who is not behind already.
        """
        paxos = self.paxos
        if self.stopped is not None or paxos.leader is None:
            return False
        if paxos.abstaining:
            return paxos.read_only and not self._fresh and not paxos.behind
        return paxos.quorum_connected or paxos.read_only

    @property
    def is_damaged(self) -> bool:
        """Whether something that was durable here is damaged and not yet learned from the peers again."""
        return bool(self.paxos.unknown) or self.paxos.repairing

    def why_not_ready(self) -> str:
        """Why nothing can be read here, for people."""
        if self.stopped is not None:
            return f"this replica stops: {self.stopped}"
        if self._fresh:
            return "this disk holds nothing: it waits until every other voter has welcomed it"
        if not self._has_room:
            return "there is no room on the disk"
        if self.is_damaged:
            return "something on this disk is damaged, and not yet learned from the peers"
        return "no leader with a quorum is heard"

    @property
    def role(self) -> str:
        """`leader`, `follower` or `electing` of a voter; `learner` or `observer` of who never votes, or not yet."""
        if self.paxos.votes:
            return self.paxos.role
        member = self.configuration.member(self.id)
        return "observer" if member is not None and member.role == "observer" else "learner"

    def status(self) -> dict[str, object]:
        """What `/status` shows, as far as the core knows it."""
        paxos, tree = self.paxos, self.tree
        return {
            "id": self.id,
            "cell_id": self.first.cell_id,
            "role": self.role,
            "leader": paxos.leader,
            "ballot": [paxos.ballot.round, paxos.ballot.replica],
            "applied_slot": tree.slot,
            "chosen_slot": paxos.chosen_mark,
            "zxid": tree.zxid,
            "digest": tree.digest().to_bytes(16, "big").hex(),
            "digest_slot": tree.digest_slot,
            "sessions": len(tree.sessions),
            "connections": len(self.front.connections),
            "read_only": self.front.read_only,
            "feature_level": tree.feature_level,
            "supported_level": tree.supported_level,
            "snapshot_slot": self.snapshot_slot,
            "peers": self.peers(),
        }

    def peers(self) -> list[dict[str, object]]:
        """What is known of each other member; a connection says little, as that of a process that hangs stands."""
        known: list[dict[str, object]] = []
        for member in self.configuration.members:
            if member.id != self.id:
                silence = self.paxos.silence(member.id)
                known.append(
                    {
                        "id": member.id,
                        "address": member.address,
                        "connected": member.id in self._connected,
                        "lag": self.paxos.lag(member.id),
                        "silent_ms": None if silence is None else silence // MILLISECOND,
                    }
                )
        return known
