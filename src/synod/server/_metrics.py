"""Measures that cost next to nothing: a histogram for Prometheus, and the latency that ZooKeeper's words tell."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts of observations up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many were at most that) as Prometheus wants it."""
        total = 0.0
        rows = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows


class Latency:
    """How long clients waited for an answer, in microseconds; of one request at a time, not of each."""

    __slots__ = ("count", "max", "min", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0
        self.min = 0
        self.max = 0

    def observe(self, micros: int) -> None:
        """Count one request."""
        self.min = min(self.min, micros) if self.count else micros
        self.max = max(self.max, micros)
        self.count += 1
        self.sum += micros

    @property
    def mean(self) -> float:
        """Of all that were timed; 0 when none was."""
        return self.sum / self.count if self.count else 0.0
