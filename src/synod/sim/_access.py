"""Who was let in, and who had to be: a judge of access control lists.

One znode whose list clients change. Its version (`aversion`) numbers the lists, and every answer names a zxid, so
that what was in force where an answer stands is known: exactly, or up to changes whose outcome is unknown.

Read `admitted`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from synod.wire import PERM_ADMIN, PERM_ALL, PERM_READ, PERM_WRITE


@dataclass(frozen=True, slots=True)
class Rule:
    """A list: its owner may do everything, and all others what `others` says. Owner 0 is nobody."""

    owner: int
    others: int

    def permits(self, client: int, perm: int, *, identified: bool) -> bool:
        """Whether a client may, which has proved who it is, or has not."""
        return bool(self.others & perm) or (identified and client == self.owner)


OPEN: Final = Rule(0, PERM_ALL)

Kind = Literal["read", "write", "change", "event"]
AccessOutcome = Literal["done", "no auth", "bad version", "unknown"]

_PERMS: Final[dict[Kind, int]] = {"read": PERM_READ, "event": PERM_READ, "write": PERM_WRITE, "change": PERM_ADMIN}


@dataclass(frozen=True, slots=True)
class Access:
    """What became of one request for the znode.

    Args:
        client: who asked.
        identified: whether its connection had proved who it is.
        kind: a `change` is one of the list; an `event` is what a watch told.
        outcome: `unknown` matters of changes only.
        zxid: where the answer stands, as in `Transaction`.
        aversion: the version of the list in the answer; -1 where there is none.
        expected: the version that a change demands.
        rule: that a change sets, or that a read of the list has shown.
    """

    client: int
    identified: bool
    kind: Kind
    outcome: AccessOutcome
    zxid: int
    aversion: int = -1
    expected: int = -1
    rule: Rule | None = None


def admitted(accesses: Sequence[Access], initial: Rule = OPEN) -> str | None:
    """Whether each was let in or refused by the list in force where its answer stands; else what is wrong."""
    judge = _Judge(accesses, initial)
    return judge.ordered() or judge.shown() or judge.judged()


class _Judge:
    def __init__(self, accesses: Sequence[Access], initial: Rule) -> None:
        self._accesses = accesses
        self._known: dict[int, Rule] = {0: initial}
        self._maybe: dict[int, list[Rule]] = {}
        for a in accesses:
            if a.kind == "change" and a.rule is not None:
                if a.outcome == "done":
                    self._known[a.aversion] = a.rule
                elif a.outcome == "unknown":
                    self._maybe.setdefault(a.expected + 1, []).append(a.rule)
        # In force from each zxid on; and of a change, that it was not so before.
        evidence = {(a.zxid, a.aversion, a.kind == "change") for a in accesses if a.aversion >= 0 and a.zxid}
        self._evidence = sorted(evidence)
        self._places = [zxid for zxid, _, _ in self._evidence]

    def ordered(self) -> str | None:
        """The lists are numbered in the order in which they came."""
        for (zxid, version, _), (later, following, changed) in pairwise(self._evidence):
            if following < version or (changed and following == version and later > zxid):
                return f"the list has version {version} at zxid {zxid}, and version {following} at {later}"
        return None

    def shown(self) -> str | None:
        """A list that was shown is the one that was set."""
        for a in self._accesses:
            if a.kind == "read" and a.rule is not None:
                rules = self._rules(a.aversion)
                if a.rule not in rules:
                    return f"{_told(a)} and was shown {a.rule} as version {a.aversion}, which is one of {rules}"
                self._known[a.aversion] = a.rule
        return None

    def _rules(self, version: int) -> list[Rule]:
        """The lists that can have this version."""
        known = self._known.get(version)
        return [known] if known is not None else self._maybe.get(version, [])

    def _range(self, zxid: int) -> range:
        """The versions that can have been in force at a zxid."""
        before = bisect_right(self._places, zxid)
        lowest = self._evidence[before - 1][1] if before else 0
        at = bisect_left(self._places, zxid)
        if at == len(self._evidence):
            return range(lowest, max(lowest, *self._known, *self._maybe) + 1)
        place, version, changed = self._evidence[at]
        return range(lowest, version if changed and place > zxid else version + 1)

    def judged(self) -> str | None:
        """Nobody passed whom the list keeps out, and nobody was kept out whom it lets in."""
        for a in self._accesses:
            if a.outcome == "unknown":
                continue
            if a.outcome == "done" and a.aversion >= 0:
                versions = range(a.aversion, a.aversion + 1)
                if a.kind == "change":
                    versions = range(a.aversion - 1, a.aversion)  # the list before it decides
            else:
                versions = self._range(a.zxid)
            if not self._possible(a, versions):
                lists = [rule for version in versions for rule in self._rules(version)]
                return f"{_told(a)}, under {lists}"
        return None

    def _possible(self, a: Access, versions: range) -> bool:
        for version in versions:
            for rule in self._rules(version):
                may = rule.permits(a.client, _PERMS[a.kind], identified=a.identified)
                if a.outcome == "bad version":
                    may = may and version != a.expected
                if may == (a.outcome != "no auth"):
                    return True
        return False


def _told(a: Access) -> str:
    """A request in words."""
    who = f"client {a.client}, {'identified' if a.identified else 'nobody to the cell'},"
    what = {"event": "was told of a change of the znode", "change": "asked for another list"}.get(
        a.kind, f"asked to {a.kind}"
    )
    how = {"done": "and got it", "no auth": "and was refused", "bad version": "and was told of another version"}
    return f"{who} {what} {how.get(a.outcome, '')} at zxid {a.zxid}"
