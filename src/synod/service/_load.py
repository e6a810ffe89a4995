"""How loaded this instance is, and the header that says so.

The header is ORCA's, in its text form, so that Envoy and gRPC-style weighting read it too:

    endpoint-load-metrics: TEXT cpu_utilization=0.31, rps_fractional=120.5, eps=0.5

Ref: gRPC A51; xds.data.orca.v3.OrcaLoadReport. Only the fields that balance.LoadReport has are read.
"""

from __future__ import annotations

import math
from typing import Final

from synod.balance import LoadReport
from synod.base import SECOND, Micros

LOAD_HEADER: Final = "endpoint-load-metrics"
WINDOW: Final = SECOND  # several requests long; A58's clients look at most once a second
REPORT_BYTES_MAX: Final = 4096  # a report is a line; whatever is longer is none


class LoadMeter:
    """Requests in flight, requests and errors per second, and utilization, over the last full window.

    Sans-IO: time is an argument, and so is the CPU time of the process. Utilization is CPU time over wall time,
    of one core, since one event loop can use no more; 0 to 1.
    """

    __slots__ = ("_began", "_cpu_began", "_errors", "_report", "_requests", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._began: Micros | None = None
        self._cpu_began: Micros = 0
        self._requests = 0
        self._errors = 0
        self._report: LoadReport | None = None

    def started(self) -> None:
        """A request begins."""
        self.in_flight += 1

    def ended(self, *, is_error: bool) -> None:
        """A request is over."""
        self.in_flight -= 1
        self._requests += 1
        self._errors += is_error

    def report(self, now: Micros, cpu: Micros) -> LoadReport | None:
        """The load in the last full window, or None before the first is over.

        Args:
            now: the moment.
            cpu: CPU time that the process has used so far.
        """
        if self._began is None:
            self._begin(now, cpu)
        elapsed = now - (self._began or 0)
        if elapsed >= WINDOW:
            seconds = elapsed / SECOND
            self._report = LoadReport(
                utilization=(cpu - self._cpu_began) / elapsed,
                requests_per_second=self._requests / seconds,
                errors_per_second=self._errors / seconds,
            )
            self._begin(now, cpu)
        return self._report

    def _begin(self, now: Micros, cpu: Micros) -> None:
        self._began, self._cpu_began = now, cpu
        self._requests = self._errors = 0


def format_report(report: LoadReport) -> str:
    """The header's value."""
    return (
        f"TEXT cpu_utilization={report.utilization:.4f}, rps_fractional={report.requests_per_second:.2f}, "
        f"eps={report.errors_per_second:.2f}"
    )


def parse_report(header: str | None) -> LoadReport | None:
    """Read a header's value; None when it is missing, in another form, or no report: it is only ever advice."""
    if header is None or not header.startswith("TEXT ") or len(header) > REPORT_BYTES_MAX:
        return None
    fields: dict[str, float] = {}
    for part in header[5:].split(","):
        name, equals, text = part.partition("=")
        try:
            value = float(text)
        except ValueError:
            return None
        if not equals or not math.isfinite(value) or value < 0.0:
            return None
        fields[name.strip()] = value
    # A58: application_utilization if set, else cpu_utilization.
    utilization = fields.get("application_utilization") or fields.get("cpu_utilization", 0.0)
    return LoadReport(utilization, fields.get("rps_fractional", 0.0), fields.get("eps", 0.0))
