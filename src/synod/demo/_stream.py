"""The stream of requests: read from JSON lines and checked whole before anything starts, or generated.

{"id": "r-17", "type": "write", "key": "sku-17", "op": "reserve", "quantity": 2}
{"id": "r-18", "type": "read", "key": "sku-17"}
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

from synod.base import UserError

REQUESTS_DEFAULT: Final = 20_000
KEYS_DEFAULT: Final = 500
ZIPF_EXPONENT: Final = 0.99
"""Skew: key k is asked for in proportion to 1 / k^0.99 [the Zipfian constant of YCSB, Cooper et al. 2010]."""

LINE_BYTES_MAX: Final = 65_536  # a request is a short line; whatever is longer is another kind of file
QUANTITY_MAX: Final = 1_000_000_000  # keeps every stock inside the 64 bits of SQLite

Op = Literal["restock", "reserve"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request.

    Args:
        id: names it; a request that is sent again has the same.
        type: what it does to its key.
        key: the item.
        op: of a write.
        quantity: of a write, at least 1.
    """

    id: str
    type: Literal["write", "read"]
    key: str
    op: Op | None = None
    quantity: int = 0


def read_stream(source: str) -> list[Wanted]:
    """All requests of a file, or of standard input for `-`.

    The whole stream is checked before the first request is sent, so that a broken line leaves nothing half-done.

    Raises:
        UserError: the file cannot be read, a line is broken, or an id stands for two different requests; the
            message names the line.
    """
    if source == "-":
        return parse_stream(sys.stdin.buffer, "standard input")
    try:
        with Path(source).open("rb") as lines:
            return parse_stream(lines, source)
    except OSError as failure:
        raise UserError(f"the stream {source} cannot be read: {failure.strerror}; nothing was started") from failure


def parse_stream(lines: Iterable[bytes], name: str) -> list[Wanted]:
    """As `read_stream`; empty lines are skipped."""
    wanted: list[Wanted] = []
    seen: dict[str, tuple[int, Wanted]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = parse_line(line)
        except ValueError as broken:
            raise UserError(f"line {number} of {name} is no request: {broken}; nothing was sent") from broken
        first, same = seen.setdefault(request.id, (number, request))
        if same != request:
            raise UserError(
                f"line {number} of {name} gives the id {request.id!r} of line {first} to another request; "
                f"nothing was sent"
            )
        wanted.append(request)
    if not wanted:
        raise UserError(f"{name} holds no request; nothing was started")
    return wanted


def parse_line(line: bytes) -> Wanted:
    """One request.

    Raises:
        ValueError: it is none, and why.
    """
    if len(line) > LINE_BYTES_MAX:
        raise ValueError(f"it has more than {LINE_BYTES_MAX} bytes")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as broken:  # the latter of brackets without end
        raise ValueError(f"it is not JSON ({broken})") from broken
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - data, not a type in the program
    id_, kind, key = _text(document, "id"), document.get("type"), _text(document, "key")
    if key in (".", ".."):
        raise ValueError(f"its key is {key!r}, which no URL can carry as a name")
    if kind == "read":
        return Wanted(id_, "read", key)
    if kind != "write":
        raise ValueError('its type is neither "write" nor "read"')
    return Wanted(id_, "write", key, *parse_change(document))


def _text(document: dict[str, object], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {name} is not a text")
    if any("\ud800" <= character <= "\udfff" for character in value):  # JSON can write half a character
        raise ValueError(f"its {name} holds half of a surrogate pair, which UTF-8 cannot say")
    return value


def parse_change(document: dict[str, object]) -> tuple[Op, int]:
    """Operation and quantity of a write.

    Raises:
        ValueError: one of them cannot be used.
    """
    op, quantity = document.get("op"), document.get("quantity")
    if op != "restock" and op != "reserve":
        raise ValueError('its op is neither "restock" nor "reserve"')
    if not isinstance(quantity, int) or isinstance(quantity, bool) or not 1 <= quantity <= QUANTITY_MAX:
        raise ValueError(f"its quantity is not a whole number from 1 to {QUANTITY_MAX}")
    return ("restock" if op == "restock" else "reserve"), quantity


def generate(count: int = REQUESTS_DEFAULT, keys: int = KEYS_DEFAULT, seed: int = 0) -> list[Wanted]:
    """A stream with Zipfian keys, a third of it writes; equal seeds give equal streams."""
    rng = random.Random(seed)
    weights = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, keys + 1)))
    wanted: list[Wanted] = []
    for number, key in enumerate(rng.choices(range(keys), cum_weights=weights, k=count)):
        id_, sku = f"g{seed}-{number}", f"sku-{key}"
        if rng.randrange(3):
            wanted.append(Wanted(id_, "read", sku))
        elif rng.randrange(2):
            wanted.append(Wanted(id_, "write", sku, "restock", rng.randrange(1, 11)))
        else:
            wanted.append(Wanted(id_, "write", sku, "reserve", rng.randrange(1, 6)))
    return wanted
