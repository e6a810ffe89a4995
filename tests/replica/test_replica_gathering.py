"""When a leader waits for those who were just answered: only while trying it has shown that it pays."""

from __future__ import annotations

import random
from heapq import heapify, heappop, heappush

import pytest

from synod.base import MILLISECOND, SECOND, Micros
from synod.replica._gathering import TRIAL_AGAIN_MAX, WAIT_MAX, Gathering

FIXED: Micros = 400
"""A slot takes so long, and a request in it so much longer."""
EACH: Micros = 25


class Cell:
    """One slot at a time, and clients who come back some time after their answer, or by themselves.

    Args:
        back_after: a client's next request comes about so long after its answer; None: never.
        tries: whether anything is tried.
    """

    def __init__(self, arrivals: list[Micros], back_after: Micros | None = None, *, tries: bool = True) -> None:
        self.tries = tries
        self.draw = random.Random(1)
        self.now: Micros = 0
        self.gathering = Gathering(0)
        self.arrivals = arrivals
        heapify(arrivals)
        self.back_after = back_after
        self.waiting = 0
        self.carried = 0
        self.served = 0
        self.done_at: Micros | None = None
        self.slots: list[tuple[Micros, int, Micros]] = []

    def run(self, seconds: float) -> float:
        """Requests a second."""
        began, before = self.now, self.served
        free_at = self.now
        while self.now < began + seconds * SECOND:
            due = [self.arrivals[0]] if self.arrivals else []
            if self.done_at is not None:
                due.append(self.done_at)
            elif self.waiting:
                due.append(max(self.gathering.until, self.now))
            self.now = min(due)
            while self.arrivals and self.arrivals[0] <= self.now:
                heappop(self.arrivals)
                self.waiting += 1
            if self.done_at is not None and self.done_at <= self.now:
                self.done_at, free_at = None, self.now
                if self.tries:
                    self.gathering.chosen(self.waiting, self.now)
                for _ in range(self.carried if self.back_after is not None else 0):
                    heappush(self.arrivals, self.now + round((self.back_after or 0) * self.draw.uniform(0.5, 1.5)))
            gathering = self.gathering
            if (
                self.done_at is None
                and self.waiting
                and not (gathering.active and gathering.waits(self.waiting, self.now))
            ):
                self.slots.append((self.now, self.waiting, self.now - free_at))
                if self.tries:
                    gathering.proposed(self.waiting, self.now)
                self.served += self.waiting
                self.carried, self.waiting = self.waiting, 0
                self.done_at = self.now + FIXED + EACH * self.carried
        return (self.served - before) * SECOND / (self.now - began)


def closed(back_after: Micros, *, tries: bool = True) -> Cell:
    """Sixteen clients, of whom half come while the others are served."""
    return Cell([0] * 8 + [300] * 8, back_after, tries=tries)


def test_clients_that_come_back_at_once_become_one_crowd() -> None:
    """Half of the slots carry twice as much, and more comes through."""
    without = closed(back_after=100, tries=False)
    rate = without.run(4)
    assert sum(items == 16 for _, items, _ in without.slots) == 0
    cell = closed(back_after=100)
    cell.run(4)
    cell.slots.clear()
    assert cell.run(4) > 1.2 * rate
    assert sum(items == 16 for _, items, _ in cell.slots) > 0.8 * len(cell.slots)


def test_nobody_waits_for_clients_that_take_their_time() -> None:
    """One crowd would leave the cell idle until it is back: two are better, and the trials say so."""
    rate = closed(back_after=900, tries=False).run(10)
    cell = closed(back_after=900)
    cell.run(30)
    assert cell.run(10) > 0.98 * rate
    assert not cell.gathering.active


@pytest.mark.parametrize("rate", [1_000, 3_000, 6_000])
def test_who_comes_by_itself_hardly_ever_waits(rate: int) -> None:
    """The same number comes through whether slots wait or not, so that they do not; a trial now and then is all."""
    draw = random.Random(rate)
    arrivals = []
    at = 0.0
    while at < 70 * SECOND:
        at += draw.expovariate(rate / SECOND)
        arrivals.append(round(at))
    cell = Cell(arrivals)
    cell.run(30)
    cell.slots.clear()
    cell.run(30)
    held = [waited for _, items, waited in cell.slots if waited > MILLISECOND // 2 and items > 1]
    assert len(held) < 0.02 * len(cell.slots)


def test_a_lone_client_is_never_made_to_wait() -> None:
    """There is nobody to wait for, and no trial is begun."""
    cell = Cell([0], back_after=100)
    cell.run(2)
    assert max(waited for _, _, waited in cell.slots[1:]) <= 150
    assert cell.gathering._part < 0
    assert not cell.gathering._through[0]


@pytest.mark.parametrize("rate", [300, 1_000, 2_000, 4_000])
def test_when_the_load_is_another_one_the_verdict_goes(rate: int) -> None:
    """Clients that came back at once go, and others come by themselves, many or few: soon nobody waits any more."""
    cell = closed(back_after=100)
    cell.run(4)
    assert cell.gathering.active
    draw = random.Random(7)
    cell.back_after = None
    cell.arrivals = sorted(cell.now + draw.randrange(20 * SECOND) for _ in range(20 * rate))
    cell.run(10)
    cell.slots.clear()
    cell.run(9)
    assert sum(waited > FIXED and items > 1 for _, items, waited in cell.slots) < 0.03 * len(cell.slots)


def burst(gathering: Gathering, now: Micros, seconds: float, slot: Micros = 1_000, items: int = 10) -> Micros:
    """Slots one after the other, each with as many requests, and somebody waiting after each."""
    until = now + round(seconds * SECOND)
    while now < until:
        gathering.proposed(items, now)
        now += slot
        gathering.chosen(5, now)
    return now


@pytest.mark.parametrize("part", range(8))
def test_a_disk_that_stands_still_in_a_trial_makes_nobody_wait(part: int) -> None:
    """The trial says nothing then, and leaves nothing behind that the next one would count."""
    gathering = Gathering(0)
    now = burst(gathering, 0, 0.017 + part * 0.02)
    now = burst(gathering, now + SECOND // 10, 5)
    assert not gathering._pays
    assert gathering._through[0] == pytest.approx(gathering._through[1])


def test_trials_that_say_nothing_do_not_put_the_next_one_off() -> None:
    """Bursts too short to be tried, and then a load: it is tried within a second or so."""
    gathering = Gathering(0)
    now = 0
    for _ in range(60):
        now = burst(gathering, now + SECOND // 2, 0.036)
    assert gathering._through == [0.0, 0.0]
    burst(gathering, now, 1.3)
    assert gathering._through[0] > 0


def test_a_load_that_ends_leaves_no_verdict_on() -> None:
    """Of a few requests nothing can be told: then nobody waits."""
    cell = closed(back_after=100)
    cell.run(4)
    assert cell.gathering.active
    now = cell.now
    for _ in range(30):
        now = burst(cell.gathering, now + SECOND // 10, 0.003, items=1)
    assert not cell.gathering._pays


def test_no_wait_is_long() -> None:
    """Whatever the last slot took, and however many are missing."""
    cell = closed(back_after=100)
    cell.run(4)
    gathering, now = cell.gathering, cell.now
    assert gathering.active
    gathering.proposed(100, now)
    gathering.chosen(1, now + SECOND)
    assert gathering.waits(1, now + SECOND)
    assert gathering.waits(100, now + SECOND + WAIT_MAX - 1)
    assert not gathering.waits(101, now + SECOND)
    assert not gathering.waits(1, now + SECOND + WAIT_MAX)


def test_trials_become_rare_where_waiting_does_not_pay() -> None:
    """One in sixteen seconds, once it has been tried some times."""
    cell = closed(back_after=900)
    cell.run(80)
    tried = set()
    until = cell.now + 4 * TRIAL_AGAIN_MAX
    while cell.now < until:
        cell.run(0.01)
        tried.add(cell.gathering._tried_at)
    assert 4 <= len(tried) <= 5
