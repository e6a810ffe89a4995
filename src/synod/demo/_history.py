"""The history of a run: every attempt and every answer, one JSON object a line, as the load client saw them.

    {"event": "sent", "at": 17, "id": "r-1", "type": "write", "key": "sku-1", "op": "restock", "quantity": 2}
    {"event": "answer", "at": 31, "id": "r-1", "instance": "b", "stock": 2, "version": 1, "token": 99, ...}
    {"event": "failed", "at": 31, "id": "r-2", "why": "ReadError", "unknown": true}
    {"event": "kill", "at": 900, "what": "replica 2, the leader"}

`at` is microseconds of the load client's monotonic clock: before the first byte of a request was sent, and after
the last byte of its answer was read. The audit rests on nothing else.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

BUFFER_BYTES: Final = 1 << 20  # lines are written often, and read only at the end


class History:
    """Writes a history."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=BUFFER_BYTES, encoding="utf-8")
        self._dumps = json.JSONEncoder(separators=(",", ":")).encode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        """One line, stamped with now."""
        self._file.write(self._dumps({"event": event, "at": time.monotonic_ns() // 1_000, **fields}))
        self._file.write("\n")

    def flush(self) -> None:
        """Hand everything to the reader."""
        self._file.flush()
