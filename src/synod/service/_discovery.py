"""From the entries of a service to a balancer's view, kept up to date."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from synod.balance import Endpoint, View
from synod.client import Cell
from synod.recipes import Cache

from ._entry import decode_entry, service_path

_log = logging.getLogger(__name__)


class Discovery:
    """The instances of a service. While the cell cannot be reached, the last view stays: it is better than none.

    Args:
        cell: a started client.
        service: the name that instances registered under.
        on_view: called with every new view, the first included.
    """

    def __init__(self, cell: Cell, service: str, on_view: Callable[[View], None] | None = None) -> None:
        self._on_view = on_view
        self._cache = Cache(cell, service_path(service), on_change=self._changed)
        self._ignored: set[str] = set()
        self.view = View()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to follow; returns when the first view is there, which may be empty."""
        await self._cache.start()

    async def close(self) -> None:
        """Follow no more."""
        await self._cache.stop()

    def _changed(self, entries: Mapping[str, bytes]) -> None:
        endpoints: list[Endpoint] = []
        for name, value in entries.items():
            endpoint = decode_entry(name, value)
            if endpoint is not None:
                endpoints.append(endpoint)
            elif name not in self._ignored:
                self._ignored.add(name)  # said once
                _log.warning("the entry %s describes no instance and is ignored", name)
        self.view = View.of(endpoints)
        if self._on_view is not None:
            self._on_view(self.view)
