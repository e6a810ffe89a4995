"""Where a cell may be reached, in which order to try, and how long to wait between rounds.

Sans-IO: chance is an argument. Read `Hosts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from synod.base import MILLISECOND, SECOND, ConfigError, Micros, Rng

PORT_DEFAULT: Final = 2181

_BACK_OFF_MIN: Final = 50 * MILLISECOND
_BACK_OFF_MAX: Final = 2 * SECOND
"""One replica's restart takes about that long; a cell of any size bears one attempt a second from each client."""


class Address(NamedTuple):
    """Host (a name or an IP address) and TCP port of one replica's client socket."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_hosts(hosts: str) -> tuple[Address, ...]:
    """Read `host:port,host:port`; the port may be left out (2181), an IPv6 address stands in brackets.

    Raises:
        ConfigError: it is empty or malformed.
    """
    addresses = tuple(_parse_host(part.strip()) for part in hosts.split(",") if part.strip())
    if not addresses:
        raise ConfigError(f"no address of a cell in {hosts!r}: give host:port, several of them separated by commas")
    return addresses


def _parse_host(text: str) -> Address:
    if "/" in text:
        raise ConfigError(f"{text!r} holds a path: a cell's address is host:port, without one")
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError(f"{text!r} is no address: an IPv6 address is written [::1]:2181")
        port = tail[1:]
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise ConfigError(f"{text!r} is no address: an IPv6 address is written [::1]:2181")
    if not host:
        raise ConfigError(f"{text!r} has no host: give host:port")
    if not port:
        return Address(host, PORT_DEFAULT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ConfigError(f"{text!r} has no usable port: give host:port with a port from 1 to 65535")
    return Address(host, int(port))


class Hosts:
    """Hands out addresses in random order, every one once per round, with a growing pause between rounds.

    The order is random so that the clients of a replica that fails spread over the others.
    """

    def __init__(self, addresses: Sequence[Address], rng: Rng) -> None:
        if not addresses:
            raise ConfigError("a cell has at least one address")
        self.addresses = tuple(dict.fromkeys(addresses))
        self._rng = rng
        self._round: list[Address] = []
        self._rounds_failed = 0

    def next(self) -> tuple[Address, Micros]:
        """The address to try next, and how long to wait before."""
        pause = 0
        if not self._round:
            pause = self._pause()
            self._rounds_failed += 1
            self._round = list(self.addresses)
            for i in range(len(self._round) - 1, 0, -1):
                j = self._rng.randrange(0, i + 1)
                self._round[i], self._round[j] = self._round[j], self._round[i]
        return self._round.pop(), pause

    def _pause(self) -> Micros:
        if not self._rounds_failed:
            return 0
        ceiling = min(_BACK_OFF_MIN << min(self._rounds_failed, 16), _BACK_OFF_MAX)
        return self._rng.randrange(ceiling // 2, ceiling + 1)

    def succeeded(self, address: Address) -> None:
        """A replica took us: the next failure begins a fresh round, with this one last."""
        self._rounds_failed = 0
        rest = [a for a in self.addresses if a != address]
        for i in range(len(rest) - 1, 0, -1):
            j = self._rng.randrange(0, i + 1)
            rest[i], rest[j] = rest[j], rest[i]
        self._round = [address, *rest]
        self._rounds_failed = 1
