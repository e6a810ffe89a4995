"""`synod replay`: do again what a recorded replica did, input by input, and compare what comes out.

See `_recorder` for what a recording is. Read `replay`.
"""

from __future__ import annotations

import json
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from synod import __version__
from synod.base import (
    SECOND,
    Ballot,
    ConfigError,
    Configuration,
    Entry,
    InvariantViolation,
    RemoteProtocolError,
    Slot,
    UserError,
)
from synod.replica import PaxosOptions, Replica, ReplicaOptions, Tree

from ._recorder import FORMAT, FRAME, INPUTS, MAGIC, OutputHash, entries_of, take

Observer = Callable[[Slot, Tree], None]

SLOTS_TOLD: Final = 10_000
"""So many slots are told of as one, when nothing else happens meanwhile."""


@dataclass(frozen=True, slots=True)
class _Recovered:
    promised: Ballot
    entries: tuple[Entry, ...]
    chosen_mark: Slot
    log_start: Slot
    unknown: frozenset[Slot]
    snapshot_slot: Slot
    peers: bytes
    lost_upto: Slot


@dataclass(slots=True)
class Replayed:
    """What came of a replay.

    Args:
        tree: the state at its end.
        calls: how many inputs were handed in.
        seconds: how much of the replica's time they took.
        torn_bytes: the end of the file that is no whole record: the process was killed while it wrote it.
        differs: the first place where something else came out than was recorded; None when there is none.
        events: (seconds, what happened), in order.
    """

    tree: Tree
    calls: int = 0
    seconds: float = 0.0
    torn_bytes: int = 0
    differs: str | None = None
    events: list[tuple[float, str]] = field(default_factory=list)


def frames(path: str) -> Iterator[bytes | int]:
    """The payloads of a recording's frames; last, if its end is torn, the number of bytes that are left out.

    Raises:
        UserError: this is no recording, or one that this version cannot read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as failure:
        raise UserError(f"the recording {path} cannot be read: {failure.strerror}") from failure
    head = len(MAGIC) + 2
    if data[: len(MAGIC)] != MAGIC or len(data) < head:
        raise UserError(f"{path} is no recording of a replica; `[recorder] bytes` in a replica's config makes them")
    number = int.from_bytes(data[len(MAGIC) : head], "big")
    if number != FORMAT:
        raise UserError(
            f"{path} is a recording of format {number}, and this version of synod reads format {FORMAT}: "
            f"replay it with the version that made it"
        )
    at = head
    while at < len(data):
        if at + FRAME.size > len(data):
            yield len(data) - at
            return
        length, checksum = FRAME.unpack_from(data, at)
        payload = data[at + FRAME.size : at + FRAME.size + length]
        if len(payload) < length:
            yield len(data) - at
            return
        if crc32(payload) != checksum:
            if at + FRAME.size + length == len(data):
                yield len(data) - at
                return
            raise UserError(f"the recording {path} is damaged at byte {at}: nothing after it can be trusted")
        yield payload
        at += FRAME.size + length


def replay(path: str, observer: Observer | None = None) -> Replayed:
    """Do again what is recorded in a file.

    Args:
        path: of the recording.
        observer: told every slot that is about to be applied, with the state before it.

    Raises:
        UserError: it cannot be used; the text says why.
    """
    records = frames(path)
    first = next(records, None)
    if not isinstance(first, bytes):
        raise UserError(f"the recording {path} ends before it begins: its start was never wholly written")
    start = _start(first)
    if start["version"] != __version__:
        raise UserError(
            f"{path} was recorded by synod {start['version']}, and this is {__version__}: only the version that made a "
            f"recording does the same again"
        )
    return _Replay(start, observer).run(records)


def _start(payload: bytes) -> dict[str, Any]:
    items, _ = take(payload, 0)
    return dict(zip(items[::2], items[1::2], strict=True))


class _Replay:
    """One recording, being replayed."""

    def __init__(self, start: dict[str, Any], observer: Observer | None) -> None:
        configuration = Configuration.decode(start["configuration"])
        chunks = start["snapshot"]
        if chunks is None:
            tree = Tree(zxid=start["fresh_zxid"], configuration=configuration.encode())
        else:
            tree = Tree.restore(chunks)
        options = json.loads(start["options"])
        recovered = _Recovered(
            promised=Ballot(*start["promised"]),
            entries=entries_of(start["entries"]),
            chosen_mark=start["chosen_mark"],
            log_start=start["log_start"],
            unknown=frozenset(start["unknown"]),
            snapshot_slot=start["snapshot_slot"],
            peers=start["peers"],
            lost_upto=start["lost_upto"],
        )
        self._secrets: deque[bytes] = deque()
        self._began = self._now = start["now"]
        self._replica = Replica(
            id=start["id"],
            configuration=configuration,
            incarnation=start["incarnation"],
            disk=start["disk"],
            options=ReplicaOptions(**{**options, "paxos": PaxosOptions(**options["paxos"])}),
            recovered=recovered,
            tree=tree,
            boot=start["boot"],
            rng=random.Random(start["seed"]),
            draw_secret=lambda _: self._secrets.popleft(),
            now=start["now"],
            wall_ms=start["wall_ms"],
        )
        self._observe = observer
        self._replica.observer = self._applies
        self._outputs = OutputHash()
        self._told: Slot = tree.slot
        self._applied: Slot = tree.slot
        self._role = ""
        self._done = Replayed(tree)
        self._tell(
            f"replica {start['id']} starts for the {start['boot']}. time, at slot {recovered.snapshot_slot} of its "
            f"snapshot and with {len(recovered.entries)} entries of its log"
        )

    def run(self, records: Iterator[bytes | int]) -> Replayed:
        done = self._done
        for record in records:
            if isinstance(record, int):
                done.torn_bytes = record
                break
            if not self._record(record):
                break
        self._tell_slots()
        done.tree = self._replica.tree
        done.seconds = (self._now - self._began) / SECOND
        return done

    def _record(self, record: bytes) -> bool:
        """Hand in the calls of one record. False when something else came out than then."""
        calls = []
        at = 0
        while at < len(record):
            call, at = take(record, at)
            if call[0] == 0:
                self._secrets.append(call[1])
            else:
                calls.append((INPUTS[call[0]], call[1:]))
        for name, arguments in calls:
            self._done.calls += 1
            try:
                if name == "ready":
                    if not self._ready(arguments[0]):
                        return False
                else:
                    self._call(name, arguments)
            except (InvariantViolation, LookupError) as broken:
                self._differ(f"{name} ended with {type(broken).__name__}: {broken}")
                return False
        return True

    def _call(self, name: str, arguments: list[Any]) -> None:
        if name == "log_read":
            arguments[1] = entries_of(arguments[1])
        self._now = max(self._now, _now_of(name, arguments))
        try:
            getattr(self._replica, name)(*arguments)
        except RemoteProtocolError as refusal:
            self._tell(f"a peer is refused: {refusal}")
        except ConfigError as refusal:
            # Recorded before it was refused: the host told the operator, and the replica went on.
            self._tell(f"a change of the members is refused: {refusal}")

    def _ready(self, recorded: bytes) -> bool:
        ready = self._replica.ready()
        for note in ready.notes:
            self._tell(f"{note.kind}: {note.text}")
        role = self._replica.role
        if role != self._role:
            self._role = role
            self._tell(f"it is {role}")
        if ready.stop is not None:
            self._tell(f"it stops: {ready.stop}")
        if self._outputs.add(ready) != recorded:
            self._differ("something else came out")
            return False
        return True

    def _applies(self, slot: Slot, _batch: bytes) -> None:
        self._applied = slot
        if self._observe is not None:
            self._observe(slot, self._replica.tree)
        if slot - self._told >= SLOTS_TOLD:
            self._tell_slots()

    def _tell_slots(self) -> None:
        first, self._told = self._told + 1, self._applied
        if first <= self._applied:
            self._put(
                f"slots {first} to {self._applied} are applied" if first < self._applied else f"slot {first} is applied"
            )

    def _tell(self, text: str) -> None:
        self._tell_slots()
        self._put(text)

    def _put(self, text: str) -> None:
        self._done.events.append(((self._now - self._began) / SECOND, text))

    def _differ(self, how: str) -> None:
        self._done.differs = (
            f"at {(self._now - self._began) / SECOND:.6f} s, call {self._done.calls}, the replica did not do what is "
            f"recorded ({how}): other code made this recording, or the replica is not deterministic"
        )


def _now_of(name: str, arguments: list[Any]) -> int:
    """The time of a call: most carry it last."""
    if name in ("check_hello", "end_backup"):
        return 0
    if name in ("tick", "begin_backup"):
        return int(arguments[0])
    return int(arguments[1] if name == "client_opened" else arguments[-1])


def replay_command(path: str, *, json_output: bool) -> int:
    """`synod replay FILE`; returns 0 when everything came out as it was recorded, else 1.

    Raises:
        UserError: the recording cannot be used.
    """
    done = replay(path)
    digest = done.tree.digest_anew().to_bytes(16, "big").hex()
    if json_output:
        outcome = {
            "calls": done.calls,
            "seconds": done.seconds,
            "slot": done.tree.slot,
            "state": digest,
            "torn_bytes": done.torn_bytes,
            "differs": done.differs,
            "events": done.events,
        }
        sys.stdout.write(json.dumps(outcome) + "\n")
        return 1 if done.differs else 0
    for seconds, text in done.events:
        sys.stdout.write(f"{seconds:14.6f}  {text}\n")
    if done.torn_bytes:
        sys.stdout.write(
            f"the last record is torn: the process ended while it wrote it; {done.torn_bytes} bytes are left out\n"
        )
    if done.differs:
        sys.stdout.write(f"{done.differs}\n")
        return 1
    sys.stdout.write(
        f"{done.calls} calls in {done.seconds:.3f} s, up to slot {done.tree.slot}: everything came out as it was recorded; "
        f"the state has the digest {digest}\n"
    )
    return 0
