"""What lies between replicas, and between them and their clients: what the nemesis may do to it.

There are two: `_wires`, a TCP proxy that needs nothing, and `_spaces`, network namespaces, where packets are really
lost and TCP has to cope, which need root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

Link = tuple[int, int]
"""From a replica to a replica; things sent in this direction."""

CLIENTS: Final = 0
"""Stands for all clients, as an end of a link."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica is in a network; all are `host:port`.

    Args:
        client: where it listens to clients.
        peer: where it listens to other replicas.
        http: where it listens to whoever watches it.
        client_front: where clients reach it.
        peer_front: where other replicas reach it.
    """

    client: str
    peer: str
    http: str
    client_front: str
    peer_front: str


class Network(Protocol):
    """Every method may be called while the cell runs, from the main thread."""

    missing: Mapping[str, str]
    """Faults that this kind of network cannot have, and why."""

    def lay(self, ids: Sequence[int]) -> dict[int, Place]:
        """Make a place for each replica; once, before `start`."""
        ...

    def enter(self, i: int) -> Callable[[], None] | None:
        """What the process of a replica has to do before it becomes one."""
        ...

    def start(self) -> None:
        """Begin to carry."""
        ...

    def stop(self) -> None:
        """End, and leave nothing behind."""
        ...

    def cut(self, links: Iterable[Link], *, drop: bool) -> None:
        """Let nothing through these; with `drop` the connections that cross them are reset, where that can be had."""
        ...

    def mend(self, links: Iterable[Link], *, drop: bool) -> None:
        """Undo one `cut` of these."""
        ...

    def delay(self, links: Iterable[Link], seconds: float, jitter: float) -> None:
        """Let everything on these arrive later; 0 ends it."""
        ...

    def lose(self, links: Iterable[Link], share: float) -> None:
        """Lose a share of what is sent on these, less than all, and let TCP send it again; 0 ends it."""
        ...

    def heal(self) -> None:
        """Nothing is cut, late or lost any more."""
        ...

    def evidence(self) -> int:
        """How much was held up or lost so far, in units of the network's own."""
        ...
