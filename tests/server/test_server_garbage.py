"""Garbage is collected in pieces: much of it soon, little of it now and then, and what lives is not looked at again."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

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


class Loops:
    """Something that keeps itself alive."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Leaves the collector as it was, which other tests may have switched off."""
    before = gc.isenabled()
    gc.enable()
    loop = Loop()
    garbage = Garbage(cast("asyncio.AbstractEventLoop", cast("Any", loop)))
    garbage.start()
    assert not gc.isenabled()
    yield loop
    garbage.stop()
    gc.unfreeze()
    assert loop.timer.is_cancelled
    assert gc.isenabled()
    if not before:
        gc.disable()


def test_much_is_collected_at_the_next_look_and_what_lives_is_frozen(loop: Loop) -> None:
    """A fill makes a million objects in some seconds: one collection of them all would stop the replica for 70 ms."""
    lost = weakref.ref(Loops())
    lives = [[number] for number in range(YOUNG_MAX)]
    before = gc.get_freeze_count()
    assert lost() is not None
    assert loop.delay_s == LOOK_S
    loop.fire()
    assert lost() is None
    assert gc.get_freeze_count() >= before + len(lives)
    assert gc.get_count()[0] < YOUNG_MAX // 2


def test_little_is_collected_after_some_looks(loop: Loop) -> None:
    """A look costs nothing until there is something worth it; but what is lost goes in the end."""
    lost = weakref.ref(Loops())
    for _ in range(LOOKS_MAX - 1):
        loop.fire()
        assert lost() is not None
    loop.fire()
    assert lost() is None


def test_a_look_follows_the_other(loop: Loop) -> None:
    """Also after a collection."""
    for _ in range(2 * LOOKS_MAX):
        lives = [[number] for number in range(YOUNG_MAX)]
        loop.fire()
        assert gc.get_count()[0] < YOUNG_MAX // 2 <= len(lives)
