"""What a balancer is told: the endpoints that there are, and how each request went.

May not know: how the view was found, or how a request travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from synod.base import BadArguments

WEIGHT_DEFAULT: Final = 100  # HAProxy's habit, so that a weight reads as a percentage of the usual machine
WEIGHT_MAX: Final = 1_000_000  # keeps every sum of shares far inside 64 bits, whatever an instance registers


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance of a service.

    Args:
        name: unique in a view; stays the same while the instance lives.
        address: opaque to this room, such as `http://host:port`.
        weight: capacity relative to the others, 0 to `WEIGHT_MAX`; 0 means that it drains.
        zone: where it runs, as free text; carried, not used so far.

    Raises:
        BadArguments: the name is empty or the weight out of bounds.
    """

    name: str
    address: str
    weight: int = WEIGHT_DEFAULT
    zone: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise BadArguments("an endpoint needs a name")
        if not 0 <= self.weight <= WEIGHT_MAX:
            raise BadArguments(f"the weight of endpoint {self.name} must lie between 0 and {WEIGHT_MAX}")


@dataclass(frozen=True, slots=True)
class View:
    """All endpoints of a service at one moment.

    Invariant: sorted by name, names are unique. `View.of` sorts.

    Raises:
        BadArguments: the invariant does not hold.
    """

    endpoints: tuple[Endpoint, ...] = ()

    def __post_init__(self) -> None:
        names = [endpoint.name for endpoint in self.endpoints]
        if names != sorted(set(names)):
            raise BadArguments("the endpoints of a view must be sorted by name, each name once")

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> View:
        """The view of these endpoints, in any order."""
        return cls(tuple(sorted(endpoints, key=lambda endpoint: endpoint.name)))

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self.endpoints)

    def __len__(self) -> int:
        return len(self.endpoints)


class Outcome(Enum):
    """How a request went, as far as it says something about the endpoint."""

    SUCCESS = "success"  # answered, by whatever status the application chose below 500
    ERROR = "error"  # answered, with a failure that is the endpoint's (an HTTP 5xx)
    REFUSED = "refused"  # no connection: it never saw the request
    TIMEOUT = "timeout"  # no answer in time: it may have seen it
    BROKEN = "broken"  # the connection went while the request was under way
    CANCELLED = "cancelled"  # the caller gave up: says nothing about the endpoint


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What an endpoint says about its own load, in the terms of ORCA.

    Args:
        utilization: of whatever limits the application; 1.0 is fully used, more is possible.
        requests_per_second: served, failed ones too.
        errors_per_second: of these, the failed ones.

    Ref: xds.data.orca.v3.OrcaLoadReport; gRPC A51, A58.
    """

    utilization: float
    requests_per_second: float
    errors_per_second: float = 0.0
