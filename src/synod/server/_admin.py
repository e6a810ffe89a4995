"""HTTP for people and machines that watch, and for operators: health, status, metrics, actions. Loopback only."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn import Config as UvicornConfig
from uvicorn import Server

from ._operator import operator_routes

if TYPE_CHECKING:
    from ._host import Host

_STATUS = (
    "id",
    "cell_id",
    "role",
    "leader",
    "ballot",
    "applied_slot",
    "zxid",
    "digest",
    "digest_slot",
    "sessions",
    "connections",
    "znodes",
    "watches",
    "log_bytes",
    "feature_level",
    "version",
    "compiled",
    "supported_level",
    "abstaining",
    "read_only",
    "peers",
)

_GAUGES = ("applied_slot", "zxid", "sessions", "connections", "znodes", "watches", "log_bytes", "outstanding")


class _Collector(Collector):
    def __init__(self, host: Host) -> None:
        self._host = host

    def collect(self) -> Iterable[Metric]:
        """Everything, read at the moment of the scrape."""
        host = self._host
        status = host.status()
        for name in _GAUGES:
            yield GaugeMetricFamily(
                f"synod_{name}", f"{name.replace('_', ' ')} of this replica", float(str(status[name]))
            )
        yield GaugeMetricFamily("synod_leader", "1 when this replica leads", float(status["role"] == "leader"))
        yield GaugeMetricFamily(
            "synod_ready", "1 when linearizable reads can be served", float(bool(status["readable"]))
        )
        notes = CounterMetricFamily("synod_notes", "what the core reported, by kind", labels=["kind"])
        for kind, count in sorted(host.elections.items()):
            notes.add_metric([kind], count)
        yield notes
        for name, text, histogram in (
            ("sync_seconds", "how long a sync of the log took", host.sync_seconds),
            ("sync_writes", "writes that shared a sync", host.sync_writes),
            ("batch_bytes", "bytes of a write of the log", host.batch_bytes),
            ("loop_lag_seconds", "how late a timer fired", host.loop_lag_seconds),
        ):
            family = HistogramMetricFamily(f"synod_{name}", text)
            family.add_metric([], buckets=histogram.cumulative(), sum_value=histogram.sum)
            yield family


class _QuietServer(Server):
    """uvicorn within a process that handles its own signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def admin_server(host: Host, listening: socket.socket) -> tuple[Server, list[socket.socket]]:
    """The server and its socket; run `server.serve(sockets)` as a task."""
    registry = CollectorRegistry()
    registry.register(_Collector(host))

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if host.replica.can_read:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("no leader with a quorum is heard\n", status_code=503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def status(_: Request) -> Response:
        whole = host.status()
        return JSONResponse({key: whole[key] for key in _STATUS})

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/status", status),
            *operator_routes(host),
        ]
    )
    config = UvicornConfig(app, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=1)
    return _QuietServer(config), [listening]
