"""The load report: what an instance measures, and the header that carries it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.balance import LoadReport
from synod.base import SECOND
from synod.service import LoadMeter, format_report, parse_report


def test_a_meter_reports_its_last_full_window():
    """Requests, errors and CPU time over the window; nothing before the first is over."""
    meter = LoadMeter()
    assert meter.report(5 * SECOND, 1_000) is None
    for number in range(30):
        meter.started()
        meter.ended(is_error=number % 3 == 0)
    assert meter.report(6 * SECOND - 1, 0) is None
    assert meter.report(7 * SECOND, 1_000 + SECOND) == LoadReport(0.5, 15.0, 5.0)
    meter.started()
    assert meter.in_flight == 1
    assert meter.report(7 * SECOND + 1, 2 * SECOND) == LoadReport(0.5, 15.0, 5.0)
    assert meter.report(8 * SECOND, 1_000 + SECOND) == LoadReport(0.0, 0.0, 0.0)


def test_the_header_is_orcas_text_form():
    """So that Envoy and gRPC-style weighting read it."""
    assert format_report(LoadReport(0.31, 120.5, 0.5)) == "TEXT cpu_utilization=0.3100, rps_fractional=120.50, eps=0.50"
    theirs = "TEXT cpu_utilization=0.3,mem_utilization=0.8, rps_fractional=10.0, eps=1, named_metrics.foo=0.4"
    assert parse_report(theirs) == LoadReport(0.3, 10.0, 1.0)
    assert parse_report("TEXT application_utilization=0.7, cpu_utilization=0.1, rps_fractional=2") == LoadReport(
        0.7, 2.0
    )


@given(st.floats(0, 8), st.floats(0, 1e6), st.floats(0, 1e6))
def test_reports_survive_the_header(utilization, rate, errors):
    """What was measured is what is read, as far as the digits go."""
    back = parse_report(format_report(LoadReport(utilization, rate, errors)))
    assert back is not None
    assert back.utilization == pytest.approx(utilization, abs=1e-4)
    assert back.requests_per_second == pytest.approx(rate, abs=1e-2)
    assert back.errors_per_second == pytest.approx(errors, abs=1e-2)


@given(st.one_of(st.none(), st.text(max_size=60), st.text(max_size=60).map("TEXT {}".format)))
def test_whatever_an_instance_sends_is_harmless(header):
    """A report is advice: garbage is no report, and never an exception in the client."""
    parse_report(header)
    for bad in (
        "TEXT eps=nan",
        "TEXT eps=-1",
        "TEXT cpu_utilization=inf",
        "TEXT cpu_utilization",
        "JSON {}",
        "TEXT " + "x" * 5_000,
    ):
        assert parse_report(bad) is None
