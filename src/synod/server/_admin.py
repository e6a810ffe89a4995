"""HTTP for people and machines that watch, and for operators: health, status, metrics, actions. Loopback only."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn import Config as UvicornConfig
from uvicorn import Server

from synod import __version__

from ._metrics import FAMILIES, Histogram
from ._operator import operator_routes
from ._words import status_document

if TYPE_CHECKING:
    from ._host import Host

_FAMILIES = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}


class _Collector(Collector):
    """Everything, read at the moment of the scrape; named and typed by `FAMILIES`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def collect(self) -> Iterable[Metric]:
        """Each family with its samples."""
        status, measures = self._host.status(), self._host.measures
        peers = status["peers"]
        assert isinstance(peers, list)
        labelled: dict[str, tuple[list[str], dict[tuple[str, ...], float]]] = {
            "synod_info": (
                ["version", "core", "cell_id", "id"],
                {
                    (
                        __version__,
                        "compiled" if status["compiled"] else "pure",
                        str(status["cell_id"]),
                        str(status["id"]),
                    ): 1
                },
            ),
            "synod_peer_connected": (["peer"], {(str(p["id"]),): float(p["connected"]) for p in peers}),
            "synod_peer_lag_slots": (["peer"], {(str(p["id"]),): p["lag"] for p in peers if p["lag"] is not None}),
            "synod_peer_silence_seconds": (
                ["peer"],
                {(str(p["id"]),): p["silent_ms"] / 1000 for p in peers if p["silent_ms"] is not None},
            ),
            "synod_elections": (["reason"], {(reason,): count for reason, count in measures.elections.items()}),
            "synod_ballots": (["outcome"], {(outcome,): count for outcome, count in measures.ballots.items()}),
            "synod_stalls": (["what"], {(what,): count for what, count in measures.stalls.items()}),
            "synod_refusals": (["what"], {(what,): count for what, count in measures.refusals.items()}),
        }
        plain: dict[str, object] = {
            "synod_leader": status["role"] == "leader",
            "synod_ready": status["readable"],
            "synod_outstanding_requests": status["outstanding"],
            "synod_leader_changes": measures.leader_changes,
            "synod_snapshots": measures.snapshots,
            "synod_requests": status["received"],
        }
        for name, (kind, text) in FAMILIES.items():
            if kind == "histogram":
                histogram: Histogram = getattr(measures, name.removeprefix("synod_"))
                yield HistogramMetricFamily(name, text, buckets=histogram.cumulative(), sum_value=histogram.sum)
                continue
            labels, samples = labelled.get(name, ([], {}))
            if name not in labelled:
                value = plain[name] if name in plain else status[name.removeprefix("synod_")]
                assert isinstance(value, int)
                samples = {(): value}
            family = _FAMILIES[kind](name, text, labels=labels)
            for values, sample in samples.items():
                family.add_metric(values, sample)
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
    ProcessCollector(registry=registry)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if host.replica.can_read:
            return PlainTextResponse("ready\n")
        reasons = [host.replica.why_not_ready(), *host.damage]
        return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), status_code=503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def status(_: Request) -> Response:
        return JSONResponse(status_document(host.status()))

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
