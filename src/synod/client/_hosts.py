"""Reading `host:port,host:port,...`."""

from __future__ import annotations

from synod.base import UserError

DEFAULT_PORT = 2181


def parse_hosts(hosts: str) -> tuple[tuple[str, int], ...]:
    """The addresses of a cell; the port is 2181 where none is given.

    Raises:
        UserError: it is empty, or a port is no number.
    """
    found = []
    for part in hosts.split(","):
        text = part.strip()
        if not text:
            continue
        host, colon, port = text.rpartition(":")
        if not colon or (text.count(":") > 1 and not host.endswith("]")):
            host, port = text, str(DEFAULT_PORT)
        if not port.isdecimal() or not 0 < int(port) < 65536 or not host:
            raise UserError(f"{text!r} is no address; a cell is given as HOST:PORT,HOST:PORT,...")
        found.append((host.strip("[]"), int(port)))
    if not found:
        raise UserError("the cell's addresses are empty; give HOST:PORT,HOST:PORT,...")
    return tuple(found)
