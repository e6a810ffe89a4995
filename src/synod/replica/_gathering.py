"""Whether the next slot waits for those who were just answered, which a leader finds out by trying.

Of a steady number of clients some wait for a slot while the others are answered for the one before, and so they go on:
two crowds in turn, with two slots where one would do. A slot costs the three replicas as much for ten requests as for
twenty. When the leader waits a moment, until as many requests are there as were on their way in all, it makes one
crowd of them, if they are clients that send as soon as they are answered. Clients that come by themselves, at whatever
rate, are only delayed.

Nothing that a leader sees of a request tells the one kind from the other, and where the machine has nothing to do
while the disk syncs, two crowds are better even for the first kind. So it is tried: for a seventh of a second, first
without waiting, then with it, then without, and what pays is kept until the next trial.
"""

from __future__ import annotations

import math
from typing import Final

from synod.base import MILLISECOND, SECOND, Micros

WAIT_MAX: Final = 4 * MILLISECOND
WAIT_SLOTS: Final = 3
"""No wait is longer than that, or than so many times what the last slot took: whoever comes back is back by then."""

PART: Final = 20 * MILLISECOND
"""A trial has seven parts, each of some ten or twenty slots, and at least as long as this."""

TRIAL: Final = (
    *((False, 0), (False, 1)),
    *((True, 0), (True, 1), (True, 1)),
    *((False, 0), (False, 1)),
)
"""Of each part: whether slots wait, and whether it counts. In this order a load that grows or falls meanwhile favours
neither; what follows a change does not count, for some requests are late then that will not be late again."""

TRIAL_AGAIN_MIN: Final = 500 * MILLISECOND
TRIAL_AGAIN_MAX: Final = 16 * SECOND
TRIAL_AGAIN_PAYS: Final = 1 * SECOND
"""Time between trials: it grows by half for as long as waiting does not pay, from the least, for one trial tells little
and a new load is to be judged within a few seconds. In the end one request in 250 waits for a trial; where a crowd comes
and goes, one in 10."""

PAYS: Final = 1.03
CHANCE: Final = 1.5
"""Waiting begins when so many times the requests came through as without it, and more by so many standard deviations of
what comes by chance (the square root of the count), for it costs those who come by themselves. It ends when it pays no
more."""

ENOUGH: Final = 100
"""Fewer requests in a trial say nothing."""

CROWD: Final = 16
"""So many slots in a row that find somebody waiting make a crowd, one that finds nobody takes two of them away; before
that there is nothing to try."""

CALM: Final = 250 * MILLISECOND
"""Without half a crowd for so long a load is over; the next one is tried as soon as a first one would be."""


class Gathering:
    """What one leader has seen of its slots.

    Args:
        now: when it began to lead.
    """

    __slots__ = (
        "_again",
        "_crowd",
        "_crowded_at",
        "_expected",
        "_items",
        "_last_items",
        "_part",
        "_part_began",
        "_pays",
        "_proposed_at",
        "_through",
        "_trial",
        "_trial_at",
        "_tried_at",
        "active",
        "under_way",
        "until",
    )

    def __init__(self, now: Micros) -> None:
        self.under_way = False
        self.until: Micros = now
        self._proposed_at = now
        self._last_items = 0
        self._expected = 0
        self._crowd = 0
        self.active = False
        self._pays = False
        self._part = -1  # of a trial; below zero between trials
        self._part_began = now
        self._items = 0
        self._trial = [0.0, 0.0]  # requests within the same time, without waiting and with it
        self._through = [0.0, 0.0]  # the same of all trials, the later the more
        self._again: Micros = TRIAL_AGAIN_MIN
        self._trial_at = now
        self._tried_at = now - TRIAL_AGAIN_MIN
        self._crowded_at = now

    def chosen(self, items: int, now: Micros) -> None:
        """All that was proposed is chosen, while so many requests of clients wait for the next slot."""
        self.under_way = False
        self._expected = items + self._last_items if self.active else 0
        self.until = now + min(WAIT_MAX, WAIT_SLOTS * (now - self._proposed_at))
        if self.active or self._part >= 0:
            return  # whoever waits together finds nobody waiting
        self._crowd = min(self._crowd + 1, CROWD) if items else max(self._crowd - 2, 0)
        if self._crowd > CROWD // 2:
            self._crowded_at = now
        elif now - self._crowded_at > CALM:
            self._again = TRIAL_AGAIN_MIN
            self._trial_at = min(self._trial_at, self._tried_at + TRIAL_AGAIN_MIN)

    def waits(self, items: int, now: Micros) -> bool:
        """While `active`: whether the next slot waits for more than so many requests, until `until` at the latest."""
        return items < self._expected and now < self.until

    def proposed(self, items: int, now: Micros) -> None:
        """A slot with so many requests of clients is on its way."""
        if not self.under_way:
            self._last_items = 0
        self.under_way = True
        self._last_items += items
        self._expected = 0
        self._proposed_at = now
        if self._part >= 0:
            self._items += items
            if now - self._part_began >= PART:
                self._end_part(now)
        elif now >= self._trial_at and (self._pays or self._crowd == CROWD):
            self._begin_part(0, now)

    def _begin_part(self, part: int, now: Micros) -> None:
        self._part, self._part_began, self._items = part, now, 0
        self.active = TRIAL[part][0]
        if part == 0:
            self._trial = [0.0, 0.0]

    def _end_part(self, now: Micros) -> None:
        took = now - self._part_began
        if took > 4 * PART:  # a disk stood still, or the load went away: there is nothing to judge
            self._end_trial(False, now)
            return
        active, weight = TRIAL[self._part]
        self._trial[active] += weight * self._items * PART / took
        if self._part + 1 < len(TRIAL):
            self._begin_part(self._part + 1, now)
        else:
            self._judge(now)

    def _judge(self, now: Micros) -> None:
        without, waiting = self._trial
        enough = without + waiting >= ENOUGH
        without += self._through[False] / 2  # earlier trials count as well, half as much each time
        waiting += self._through[True] / 2
        self._through = [without, waiting]
        margin = 0.0 if self._pays else without * (PAYS - 1) + CHANCE * math.sqrt(without + waiting)
        pays = enough and waiting > without + margin
        if not pays:
            self._again = min(3 * self._again // 2, TRIAL_AGAIN_MAX)
        self._end_trial(pays, now)

    def _end_trial(self, pays: bool, now: Micros) -> None:
        self._part = -1
        self._pays = self.active = pays
        self._tried_at = now
        if pays:
            self._again = TRIAL_AGAIN_MIN  # when it pays no more
        self._trial_at = now + (TRIAL_AGAIN_PAYS if pays else self._again)
