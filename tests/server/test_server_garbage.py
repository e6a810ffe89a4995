"""Garbage is collected in pieces: much of it soon, little of it now and then, and what lives is not looked at again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from synod.server import _garbage
from synod.server._garbage import LOOK_S, LOOKS_MAX, YOUNG_MAX, Garbage


class Timer:
    """What `Loop.call_later` gives."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """An event loop with one timer, which fires when the test says so."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.timer = Timer()
        self._call: Callable[[], None] | None = None

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """As asyncio has it."""
        self.delay_s, self._call, self.timer = delay_s, call, Timer()
        return self.timer

    def fire(self) -> None:
        """The time of the timer has come."""
        call, self._call = self._call, None
        assert call is not None
        call()


class Collector:
    """In place of `gc`, which other tests of this process use as well, in threads of theirs."""

    def __init__(self) -> None:
        self.young = 0
        self.done: list[str] = []

    def collect(self, generation: int = 2) -> None:
        self.young = 0
        self.done.append(f"collect {generation}")

    def freeze(self) -> None:
        self.done.append("freeze")

    def enable(self) -> None:
        self.done.append("enable")

    def disable(self) -> None:
        self.done.append("disable")

    def get_count(self) -> tuple[int, int, int]:
        return self.young, 0, 0


@pytest.fixture
def started(monkeypatch) -> tuple[Loop, Collector, Garbage]:
    """All that there was at the start is collected and frozen."""
    loop, collector = Loop(), Collector()
    monkeypatch.setattr(_garbage, "gc", collector)
    garbage = Garbage(cast("asyncio.AbstractEventLoop", cast("Any", loop)))
    garbage.start()
    assert collector.done == ["collect 2", "freeze", "disable"]
    collector.done.clear()
    return loop, collector, garbage


def test_much_is_collected_at_the_next_look_and_what_lives_is_frozen(started) -> None:
    """A fill makes a million objects in some seconds: one collection of them all would stop the replica for 70 ms."""
    loop, collector, _ = started
    for _ in range(3):
        collector.young = YOUNG_MAX
        assert loop.delay_s == LOOK_S
        loop.fire()
        assert collector.done == ["collect 0", "freeze"]
        collector.done.clear()


def test_little_is_collected_after_some_looks(started) -> None:
    """A look costs nothing until there is something worth it; but what is lost goes in the end."""
    loop, collector, _ = started
    for _ in range(2):
        collector.young = YOUNG_MAX - 1
        for _ in range(LOOKS_MAX - 1):
            loop.fire()
        assert collector.done == []
        loop.fire()
        assert collector.done == ["collect 0", "freeze"]
        collector.done.clear()


def test_at_the_end_the_collector_is_pythons_again(started) -> None:
    """Once, and no look comes any more."""
    loop, collector, garbage = started
    garbage.stop()
    garbage.stop()
    assert loop.timer.is_cancelled
    assert collector.done == ["enable"]
