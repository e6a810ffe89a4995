"""Is there an order of the operations on one register that explains every answer?

A register is a znode that is never deleted: a value and a version. Two judges, which know different things:

* `linearizable` knows only what clients asked, what they were told, and when. It is Wing & Gong's search with Lowe's
  memo on (set of linearized operations, state), one key at a time, as keys are independent objects. An operation
  whose outcome is unknown may have taken effect at any time after its call, or never.
* `witnessed` takes the cell at its word: the zxid in each answer names the order, and it remains to see that this
  order agrees with time and with every answer. It is linear, and its sentence says which answer is wrong.

Ref: Wing & Gong 1993; Lowe 2017 (memo); Herlihy & Wing 1990 s3.2 (locality); Gibbons & Korach 1997 (read-mapping:
unique values make it easy).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

NEVER: Final = 1 << 62
"""The return time of an operation whose outcome is unknown."""

STEPS_MAX: Final = 3_000_000

State = tuple[int, str]
"""Version and value."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One operation on one register.

    Args:
        id: of the attempt.
        client: who asked.
        kind: a `cas` writes if the version is the one `expected`.
        value: written, or read; every value is written once.
        version: in the answer; -1 where there is none. Of a `cas` that was refused, too.
        zxid: of the last change, in the answer; 0 where there is none.
        expected: by a `cas`.
        called: microseconds.
        returned: microseconds; NEVER when no answer came.
        refused: a `cas` of the wrong version: nothing was changed.
    """

    id: int
    client: int
    kind: Literal["read", "write", "cas"]
    value: str
    version: int
    zxid: int
    expected: int
    called: int
    returned: int
    refused: bool = False

    @property
    def open(self) -> bool:
        """Whether its outcome is unknown."""
        return self.returned >= NEVER

    @property
    def changes(self) -> bool:
        """Whether it is a write that took effect, or may have."""
        return self.kind != "read" and not self.refused


def linearizable(attempts: Sequence[Attempt], initial: State = (0, ""), *, steps_max: int = STEPS_MAX) -> bool:
    """Whether an order of the operations on one register explains every answer.

    Raises:
        TimeoutError: `steps_max` was reached without a verdict.
    """
    return _Search(attempts, initial, steps_max).run() is None


def explain(attempts: Sequence[Attempt], initial: State = (0, ""), *, steps_max: int = STEPS_MAX) -> str | None:
    """As `linearizable`, but a sentence about the operation at which every order ends; None when one explains all.

    Raises:
        TimeoutError: `steps_max` was reached without a verdict.
    """
    stuck = _Search(attempts, initial, steps_max).run()
    if stuck is None:
        return None
    attempt, (version, value) = stuck
    return (
        f"no order explains the answers: the longest one comes to version {version}, {value!r}, and then "
        f"{_told(attempt)} fits nowhere"
    )


class _Search:
    """Depth first over partial orders.

    A position is (base, mask, used, state): all answered operations below `base` are linearized, and those above it
    in `mask`; `used` are the unanswered ones that took effect.
    """

    def __init__(self, attempts: Sequence[Attempt], initial: State, steps_max: int) -> None:
        answered = [a for a in attempts if not a.open]
        self._answered = sorted(answered, key=lambda a: (a.called, a.returned, a.id))
        self._initial = initial
        self._steps_max = steps_max
        # A value is written once: whoever read it says at which version the write stands, and by when it was done.
        seen = {a.value: a for a in sorted(answered, key=lambda a: -a.returned) if a.kind == "read"}
        self._open = sorted((a for a in attempts if a.open and a.changes), key=lambda a: (a.called, a.id))
        self._open_version = [seen[a.value].version if a.value in seen else None for a in self._open]

    def run(self) -> tuple[Attempt, State] | None:
        """None when an order was found; else the first operation that none of the longest orders can take in."""
        answered = self._answered
        count = len(answered)
        stack: list[tuple[int, int, int, State]] = [(0, 0, 0, self._initial)]
        seen: set[tuple[int, int, int, State]] = set()
        deepest = (-1, -1)
        stuck: tuple[Attempt, State] | None = None
        steps = 0
        while stack:
            base, mask, used, state = stack.pop()
            while mask & 1:
                base += 1
                mask >>= 1
            if (base, mask, used, state) in seen:
                continue
            seen.add((base, mask, used, state))
            steps += 1
            if steps > self._steps_max:
                raise TimeoutError("the history is too concurrent for a verdict")
            if base == count:
                return None
            depth = (base, mask.bit_count())
            window, horizon = self._window(base, mask)
            if depth > deepest:
                deepest = depth
                stuck = (min((answered[at] for at in window), key=lambda a: a.returned), state)
            stack.extend(self._steps(base, mask, used, state, window, horizon))
        return stuck

    def _window(self, base: int, mask: int) -> tuple[list[int], int]:
        """What may come next: all that was called before the first return among those left."""
        answered = self._answered
        window: list[int] = []
        horizon = NEVER
        for at in range(base, len(answered)):
            attempt = answered[at]
            if attempt.called > horizon:
                break
            if not mask >> (at - base) & 1:
                window.append(at)
                horizon = min(horizon, attempt.returned)
        return [at for at in window if answered[at].called <= horizon], horizon

    def _steps(
        self, base: int, mask: int, used: int, state: State, window: list[int], horizon: int
    ) -> list[tuple[int, int, int, State]]:
        """The positions that can follow, the best guess last."""
        version = state[0]
        steps: list[tuple[int, int, int, State]] = []
        for at in window:
            attempt = self._answered[at]
            after = mask | 1 << (at - base)
            if attempt.refused:
                if version != attempt.expected:
                    return [(base, after, used, state)]  # it changes nothing: what can come at once, may
            elif attempt.kind == "read":
                if (attempt.version, attempt.value) == state:
                    return [(base, after, used, state)]
                if attempt.version <= version:
                    return []  # versions only rise
            elif attempt.version <= version:
                return []
            elif attempt.version == version + 1 and (attempt.kind == "write" or attempt.expected == version):
                steps.append((base, after, used, (version + 1, attempt.value)))
        if not steps:
            steps = self._open_steps(base, mask, used, state, horizon)
        return steps

    def _open_steps(
        self, base: int, mask: int, used: int, state: State, horizon: int
    ) -> list[tuple[int, int, int, State]]:
        """Writes without an answer that may have taken effect here.

        Only where no answered write can: it would take the version that the answer of that one names.
        """
        version = state[0]
        steps: list[tuple[int, int, int, State]] = []
        filler = False
        for at, attempt in enumerate(self._open):
            if attempt.called > horizon:
                break
            if used >> at & 1 or (attempt.kind == "cas" and attempt.expected != version):
                continue
            known = self._open_version[at]
            if known is None:
                if filler and attempt.kind == "write":
                    continue  # nobody ever saw its value: one is as good as another
                filler = filler or attempt.kind == "write"
            elif known != version + 1:
                continue
            steps.append((base, mask, used | 1 << at, (version + 1, attempt.value)))
        return steps


def witnessed(attempts: Sequence[Attempt], initial: State = (0, "")) -> str | None:
    """Whether the order that the answers name agrees with time and with every answer; else what is wrong."""
    return _Witness(attempts, initial).run()


class _Witness:
    def __init__(self, attempts: Sequence[Attempt], initial: State) -> None:
        self._attempts = sorted(attempts, key=lambda a: (a.called, a.returned, a.id))
        self._initial = initial
        self._by_zxid: dict[int, Attempt] = {}
        self._placed: dict[int, int] = {}  # zxids of writes without an answer, which a read has shown
        self._initial_zxid: int | None = None

    def run(self) -> str | None:
        return self._match() or self._versions() or self._time()

    def _match(self) -> str | None:
        """Every zxid stands for one write, and every value read was written."""
        for a in self._attempts:
            if a.changes and not a.open:
                before = self._by_zxid.setdefault(a.zxid, a)
                if before is not a:
                    return f"{_told(a)} and {_told(before)} were given the same zxid {a.zxid}"
        unanswered = {a.value: a for a in self._attempts if a.changes and a.open}
        for a in self._attempts:
            if a.kind != "read":
                continue
            write = self._by_zxid.get(a.zxid)
            if write is None:
                if (a.version, a.value) == self._initial and self._initial_zxid in (None, a.zxid):
                    self._initial_zxid = a.zxid
                    continue
                write = unanswered.pop(a.value, None)
                if write is None:
                    return f"{_told(a)}, which no client can have written there"
                self._placed[write.id] = a.zxid
                self._by_zxid[a.zxid] = replace(write, version=a.version, zxid=a.zxid)
            elif (write.value, write.version) != (a.value, a.version):
                return f"{_told(a)}, but at zxid {a.zxid} stands {_told(write)}"
        return None

    def _versions(self) -> str | None:
        """Each write made one version; only writes without an answer may stand in between."""
        spare = len(self._unplaced())
        version, zxid = self._initial[0], self._initial_zxid or 0
        for at in sorted(self._by_zxid):
            write = self._by_zxid[at]
            if at <= zxid:
                return f"{_told(write)} stands before the znode was made, at zxid {zxid}"
            missing = write.version - version - 1
            if missing < 0:
                return f"{_told(write)}, but version {version} was there before it"
            if write.kind == "cas" and write.version != write.expected + 1:
                return f"{_told(write)}, though it demanded version {write.expected}"
            spare -= missing
            if spare < 0:
                return f"{_told(write)}, but nobody wrote the {missing} versions between it and version {version}"
            version, zxid = write.version, at
        return None

    def _unplaced(self) -> list[Attempt]:
        return [a for a in self._attempts if a.changes and a.open and a.id not in self._placed]

    def _time(self) -> str | None:
        """Nothing that was known to somebody before a call is forgotten by its answer, or comes from the future."""
        returns = sorted((a for a in self._attempts if not a.open and not a.refused), key=lambda a: a.returned)
        order = sorted(self._by_zxid)
        spare = self._unplaced()
        at = 0
        known: Attempt | None = None
        for a in self._attempts:
            while at < len(returns) and returns[at].returned < a.called:
                if known is None or returns[at].zxid > known.zxid:
                    known = returns[at]
                at += 1
            if a.refused:
                wrong = self._refused_wrongly(a, known, order, spare)
                if wrong:
                    return wrong
                continue
            zxid = self._placed.get(a.id, 0) if a.open else a.zxid
            if not zxid:
                continue
            if known is not None and (zxid < known.zxid if a.kind == "read" else zxid <= known.zxid):
                return f"{_told(a)}, but {_told(known)} had been answered before it was asked"
            if a.kind == "read" and a.zxid in self._by_zxid and self._by_zxid[a.zxid].called > a.returned:
                return f"{_told(a)} before that was written: {_told(self._by_zxid[a.zxid])}"
        return None

    def _refused_wrongly(self, a: Attempt, known: Attempt | None, order: list[int], spare: list[Attempt]) -> str | None:
        """A `cas` may be refused only if its version was not there at some time while it was under way."""
        if known is None or known.version != a.expected:
            return None
        following = bisect_right(order, known.zxid)
        if following < len(order) and self._by_zxid[order[following]].called <= a.returned:
            return None
        if any(w.called <= a.returned for w in spare):
            return None  # that one may have come in between
        return f"{_told(a)}, but that version was there all the time: {_told(known)}"


def _told(a: Attempt) -> str:
    """An operation in words."""
    when = f"(id {a.id}, {a.called / 1e6:.6f} s to {'?' if a.open else f'{a.returned / 1e6:.6f} s'})"
    if a.refused:
        return f"client {a.client}'s cas of version {a.expected} was refused {when}"
    if a.kind == "read":
        return f"client {a.client} read {a.value!r} of version {a.version}, zxid {a.zxid} {when}"
    what = f"version {a.version}, zxid {a.zxid}" if a.version >= 0 else "no answer"
    return f"client {a.client} wrote {a.value!r}, {what} {when}"
