"""The request framework: registration, discovery, middleware, HTTP transport, DistributedSystem.

Joins the cell (through `client` and `recipes`) with `balance`. Knows nothing of replicas. Read `_system` for the
simplest face, `_asgi` and `_transport` for services of your own.
"""

from __future__ import annotations

from ._asgi import TOKEN_HEADER, KeyedRequests, LoadReports, writes_by_method
from ._discovery import Discovery
from ._entry import SERVICES, service_path
from ._keys import LOCKS, NAMESPACE_DEFAULT, key_name, lock_path
from ._load import LOAD_HEADER, LoadMeter, format_report, parse_report
from ._locks import KeyLock
from ._registration import Registration
from ._sender import NodeError, NodeLost, NodeUnreachable
from ._system import AsyncDistributedSystem, DistributedSystem, Request, RequestOutcome, fencing_token
from ._transport import Transport, http_module

__all__ = [
    "LOAD_HEADER",
    "LOCKS",
    "NAMESPACE_DEFAULT",
    "SERVICES",
    "TOKEN_HEADER",
    "AsyncDistributedSystem",
    "Discovery",
    "DistributedSystem",
    "KeyLock",
    "KeyedRequests",
    "LoadMeter",
    "LoadReports",
    "NodeError",
    "NodeLost",
    "NodeUnreachable",
    "Registration",
    "Request",
    "RequestOutcome",
    "Transport",
    "fencing_token",
    "format_report",
    "http_module",
    "key_name",
    "lock_path",
    "parse_report",
    "service_path",
    "writes_by_method",
]
