"""A live progress line on a terminal, a line at every tenth elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

TENTHS: Final = 10
REFRESH: Final = 64  # requests between two updates of the bar: each costs as much as a request


class Progress:
    """Of `total` requests."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = time.monotonic()
        self._told = 0
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[rate]:.0f}/s"), console=console)
            self._task = self._bar.add_task("requests", total=total, rate=0.0)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int) -> None:
        """So many are done."""
        rate = done / max(0.001, time.monotonic() - self._began)
        if self._bar is not None:
            if done % REFRESH == 0 or done == self._total:
                self._bar.update(self._task, completed=done, rate=rate)
        elif done * TENTHS // self._total > self._told:
            self._told = done * TENTHS // self._total
            sys.stderr.write(f"{done} of {self._total} requests, {rate:.0f}/s\n")

    def remark(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            sys.stderr.write(text + "\n")
