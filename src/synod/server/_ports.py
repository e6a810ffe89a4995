"""Ports for servers that one machine starts together: `synod up`, the demo, a cell within a process."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import Final

from synod.base import UserError

PORTS: Final = range(20_000, 32_000)
"""Below those that Linux and others give to outgoing connections: a server that comes back finds its own free."""


def free_ports(count: int, *, but: range = range(0), of: range = PORTS) -> range:
    """Loopback ports in a row that nobody uses at this moment; from a random one on, so that two who look differ.

    Args:
        count: so many.
        but: not these.
        of: where to look.

    Raises:
        UserError: there are not so many in a row.
    """
    places = max(0, len(of) - count + 1)
    first = secrets.randbelow(places) if places else 0
    for offset in range(places):
        begin = (first + offset) % places
        found = of[begin : begin + count]
        if not set(found) & set(but) and all(map(_is_free, found)):
            return found
    raise UserError(f"there are no {count} free ports in a row on 127.0.0.1 from {of.start} to {of.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as sock, contextlib.suppress(OSError):
        sock.bind(("127.0.0.1", port))
        return True
    return False
