"""What clients asked and were told, as JSON lines: written while they work, read again by the judge.

Each line has `at`: microseconds of one monotonic clock, from the start of the run. An attempt is a line with `call`
before it is sent, and at most one more with the same `id` when its answer came: `ok` (what was answered), `refused`
(it did not happen, and never will) or `unknown` (it may have happened, or may still). Without any of them it was
under way when the run ended. All other lines have `event`; the last one of a whole history is `end`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from synod.base import UserError

Record = dict[str, Any]
"""One line."""

FORMAT: Final = 1
OUTCOMES: Final = ("ok", "refused", "unknown")


class History:
    """Writes the lines.

    Args:
        path: of the file; it is made, or emptied.
        about: what the first line says of the run.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, about: Mapping[str, object]) -> None:
        try:
            self._file = path.open("w")
        except OSError as failure:
            raise UserError(f"the history {path} cannot be written: {failure.strerror}") from failure
        self._began = time.monotonic_ns()
        self._next = 0
        self.answered = 0
        self.last_answer = 0
        self.longest_gap = 0
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.event("torment", format=FORMAT, **about)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def now(self) -> int:
        """Microseconds since the start."""
        return (time.monotonic_ns() - self._began) // 1000

    def _write(self, record: Record) -> None:
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def event(self, event: str, **what: object) -> None:
        """Something that is no attempt: a fault, a watch, the end of the run."""
        self._write({"at": self.now(), "event": event, **what})

    def call(self, client: int, op: str, key: str, **asked: object) -> int:
        """An attempt is about to be sent; its id."""
        self._next += 1
        self._write({"at": self.now(), "id": self._next, "client": client, "call": op, "key": key, **asked})
        return self._next

    def ok(self, id_: int, **answer: object) -> None:
        """It happened; this is what was answered."""
        at = self.now()
        self.longest_gap = max(self.longest_gap, at - self.last_answer)
        self.last_answer = at
        self.counts["ok"] += 1
        self._write({"at": at, "id": id_, "ok": answer})

    def refused(self, id_: int, why: str) -> None:
        """It did not happen."""
        self.counts["refused"] += 1
        self._write({"at": self.now(), "id": id_, "refused": why})

    def unknown(self, id_: int, why: str) -> None:
        """Nobody knows: it stays open."""
        self.counts["unknown"] += 1
        self._write({"at": self.now(), "id": id_, "unknown": why})

    def flush(self) -> None:
        """Give to the operating system what was written."""
        self._file.flush()


@dataclass(frozen=True, slots=True)
class Recorded:
    """A history that was read.

    Args:
        records: its lines.
        ended: whether the run that wrote it came to its end.
        notes: what whoever reads the verdict should know.
    """

    records: list[Record]
    ended: bool
    notes: tuple[str, ...] = ()


def read_history(path: Path) -> Recorded:
    """The lines of a history; one that was cut off is judged as far as it goes.

    Raises:
        UserError: it cannot be read, or is no history.
    """
    try:
        file = path.open("rb")
    except OSError as failure:
        raise UserError(f"the history {path} cannot be read: {failure.strerror}") from failure
    records: list[Record] = []
    notes = []
    with file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                notes.append(f"the last line, number {number}, is cut off in the middle: it was left out")
                break
            records.append(_record(path, number, line))
    first = records[0] if records else {}
    if first.get("event") != "torment":
        raise UserError(f"{path} is no history of `synod torment`: its first line does not say so; nothing was judged")
    if first.get("format") != FORMAT:
        raise UserError(
            f"{path} has the format {first.get('format')}, and this version reads {FORMAT}: judge it with the version "
            f"that wrote it; nothing was judged"
        )
    ended = records[-1].get("event") == "end"
    if not ended:
        notes.append("the run that wrote this did not come to its end: what is judged is what it saw")
    return Recorded(records, ended, tuple(notes))


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        record: Record = json.loads(line)
        sound = isinstance(record, dict) and isinstance(record["at"], int) and ("event" in record or "id" in record)
    except (ValueError, KeyError):
        sound = False
    if not sound:
        raise UserError(f"{path}: line {number} is no line of a history; nothing was judged")
    return record
