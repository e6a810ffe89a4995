"""Is there one order of all operations, on all registers, that explains every answer?

Registers judged one by one, as in `_linear`, say nothing of a transaction: each half of it may be in order, and the
two at different times. Here the order is the one that the cell names: every answer has a zxid, its own for what
changed something, and that of the last change which the replica had applied for all else. It remains to see that
nobody could have known of another order, and that no transaction was seen in halves.

Read `serializable`. Ref: Papadimitriou 1979; Herlihy & Wing 1990 s2 (strict: an order that agrees with time).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ._linear import NEVER


@dataclass(frozen=True, slots=True)
class Transaction:
    """One request of a client: reads and writes of any number of registers, at one place in the order.

    Args:
        client: who asked.
        zxid: the place, from the answer; 0 where there is none.
        called: microseconds.
        returned: microseconds; NEVER when no answer came.
        reads: (path, version, zxid of its last change) of each register that was read.
        writes: (path, version, value) of each that was written; version -1 where no answer says it. Every value is
            written once.
        demands: (path, version) of each condition. Any that does not hold, and nothing is written.
        refused: by a condition.
        values: what was read, in the order of `reads`.
    """

    client: int
    zxid: int
    called: int
    returned: int
    reads: tuple[tuple[str, int, int], ...] = ()
    writes: tuple[tuple[str, int, str], ...] = ()
    demands: tuple[tuple[str, int], ...] = ()
    refused: bool = False
    values: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether its outcome is unknown."""
        return self.returned >= NEVER


def serializable(transactions: Sequence[Transaction], *, timely: bool = True) -> str | None:
    """Whether the order that the answers name explains all of them; else what is wrong.

    Args:
        transactions: of all clients.
        timely: whether an answer must show all that was answered before it was asked for; not so where reads are
            only sequential.
    """
    judge = _Judge(transactions)
    return judge.place() or judge.reads() or judge.demands() or (judge.time() if timely else None)


class _Judge:
    """What was written where, as far as answers tell: `_written[path]` has the zxids, in order, and the versions."""

    def __init__(self, transactions: Sequence[Transaction]) -> None:
        self._answered = [t for t in transactions if not t.open]
        self._open = [t for t in transactions if t.open and t.writes]
        self._placed: dict[int, Transaction] = {}
        self._zxids: dict[str, list[int]] = {}
        self._versions: dict[str, dict[int, int]] = {}  # -1: no answer has said it
        self._unplaced: dict[str, int] = {}  # how many writes of a path may still have come anywhere, or nowhere

    def place(self) -> str | None:
        """Find the place of every write that was answered, or whose value somebody has read."""
        writers = {(path, value): t for t in self._open for path, _, value in t.writes}
        placed = self._placed
        for t in self._answered:
            if t.writes and not t.refused:
                placed[t.zxid] = t
        at: dict[int, int] = {}  # of a transaction without an answer, by its identity
        for t in self._answered:
            for (path, _, zxid), value in zip(t.reads, t.values, strict=True):
                writer = writers.get((path, value))
                if writer is None:
                    continue
                before = at.setdefault(id(writer), zxid)
                if before != zxid:
                    return f"{_told(writer)} took effect at zxid {before}, and again at {zxid}"
                placed[zxid] = writer
        self._lay(at)
        return self._room()

    def _lay(self, at: Mapping[int, int]) -> None:
        for zxid, t in sorted(self._placed.items()):
            for path, version, _ in t.writes:
                self._zxids.setdefault(path, []).append(zxid)
                self._versions.setdefault(path, {})[zxid] = version
        for t in self._answered:
            for path, version, zxid in t.reads:
                if zxid in self._versions.get(path, ()):
                    self._versions[path][zxid] = version
        for t in self._open:
            if id(t) not in at:
                for path, _, _ in t.writes:
                    self._unplaced[path] = self._unplaced.get(path, 0) + 1

    def _room(self) -> str | None:
        """Every write makes a version: half of a transaction would be missing among them."""
        for path, zxids in self._zxids.items():
            known, since = 0, 0
            for zxid in zxids:
                since += 1
                version = self._versions[path][zxid]
                if version < 0:
                    continue
                if version < known + since:
                    return f"{path} has version {version} at zxid {zxid}, and with {_told(self._placed[zxid])} too few"
                known, since = version, 0
        return None

    def reads(self) -> str | None:
        """Whoever reads sees all of what stands before, and nothing of what stands behind."""
        for t in self._answered:
            for path, version, zxid in t.reads:
                last = self._last(path, t.zxid)
                if zxid > t.zxid:
                    return f"{_told(t)} shows {path} as of zxid {zxid}, which is after it"
                if last > zxid:
                    return (
                        f"{_told(t)} shows {path} at version {version} of zxid {zxid}, without its part in "
                        f"{_told(self._placed[last])}"
                    )
        return None

    def _last(self, path: str, upto: int) -> int:
        """The last zxid up to this one at which a register was written; 0 when there is none."""
        zxids = self._zxids.get(path, [])
        at = bisect_right(zxids, upto)
        return zxids[at - 1] if at else 0

    def demands(self) -> str | None:
        """A condition held where it was granted, and one of them did not where it was refused."""
        for t in self._answered:
            if t.refused:
                if t.demands and all(self._surely(path, version, t.zxid) for path, version in t.demands):
                    return f"{_told(t)} was refused, and what it demanded was so: {_listed(t.demands)}"
                continue
            for path, version in t.demands:
                before = self._last(path, t.zxid - 1)
                known = self._versions[path][before] if before else 0
                if known >= 0 and not known <= version <= known + self._unplaced.get(path, 0):
                    return f"{_told(t)} was granted, though it demanded version {version} of {path}, which had {known}"
        return None

    def _surely(self, path: str, version: int, zxid: int) -> bool:
        """Whether a register had this version there, whatever became of the writes without an answer."""
        zxids = self._zxids.get(path, [])
        at = bisect_left(zxids, zxid + 1)
        known = self._versions[path][zxids[at - 1]] if at else 0
        following = self._versions[path][zxids[at]] if at < len(zxids) else -1
        return known == version and (following == version + 1 or not self._unplaced.get(path, 0))

    def time(self) -> str | None:
        """What somebody had been told before a request is not behind it in the order."""
        returns = sorted(self._answered, key=lambda t: t.returned)
        known: Transaction | None = None
        at = 0
        for t in sorted(self._answered, key=lambda t: t.called):
            while at < len(returns) and returns[at].returned < t.called:
                if known is None or returns[at].zxid > known.zxid:
                    known = returns[at]
                at += 1
            if known is not None and t.zxid < known.zxid:
                return f"{_told(t)}, but {_told(known)} had been answered before it was asked"
        return None


def _listed(demands: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"version {version} of {path}" for path, version in demands)


def _told(t: Transaction) -> str:
    """A request in words."""
    wrote = " and ".join(f"{value!r} to {path}" for path, _, value in t.writes)
    read = " and ".join(path for path, _, _ in t.reads)
    what = f"writing {wrote}" if wrote else f"reading {read}" if read else "request"
    end = "?" if t.open else f"{t.returned / 1e6:.6f} s"
    return f"client {t.client}'s {what} (zxid {t.zxid}, {t.called / 1e6:.6f} s to {end})"
