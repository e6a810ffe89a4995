"""Keeping one instance registered: its ephemeral znode is made, watched, and made again for every new session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from synod.balance import WEIGHT_DEFAULT, Endpoint
from synod.base import NodeExists, NoNode, SynodError, UserError
from synod.client import Cell

from ._entry import decode_entry, encode_entry, service_path
from ._keys import key_name

_log = logging.getLogger(__name__)

RETRY_S: Final = 0.2  # after an error of the cell; a cell elects within about a second


class Registration:
    """One instance's entry below `/services/NAME/`, kept there while this object is open.

    `async with Registration(cell, "orders", "http://10.0.0.7:8000") as registration:` registers, and takes the
    entry away at the end. Before the instance stops listening call `drain`, and give the clients a moment.

    The entry's name is the address, so that an instance that comes back after a crash replaces the entry that
    its old session has left, at once, instead of standing beside it until that session is over. If a *newer*
    process registers the same name, this one yields.

    Args:
        cell: a started client; its session carries the entry.
        service: the name that clients ask for.
        address: where this instance listens, such as `http://host:port`, as clients reach it.
        weight: capacity relative to the other instances.
        zone: where it runs; free text.
        instance: the entry's name, if not the address.

    Raises:
        UserError: the name of the service or the weight cannot be used; nothing was registered.
    """

    def __init__(
        self,
        cell: Cell,
        service: str,
        address: str,
        *,
        weight: int = WEIGHT_DEFAULT,
        zone: str = "",
        instance: str | None = None,
    ) -> None:
        self._cell = cell
        self._service_path = service_path(service)
        self._endpoint = Endpoint(key_name(instance or address.partition("://")[2] or address), address, weight, zone)
        self._path = f"{self._service_path}/{self._endpoint.name}"
        self._owned_by = 0  # the session under which the entry was last ours
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.yielded = False

    @property
    def endpoint(self) -> Endpoint:
        """What is registered now."""
        return self._endpoint

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Register; returns when the entry stands.

        Raises:
            UserError: another address is registered under this instance's name; nothing was changed.
            SynodError: the cell refused, or its answer is unknown.
        """
        if self._task is None:
            await self._put()
            self._task = asyncio.get_running_loop().create_task(self._keep())

    async def drain(self) -> None:
        """Ask for no new requests: clients see weight 0; what is in flight goes on."""
        await self.set_weight(0)

    async def set_weight(self, weight: int) -> None:
        """Change the capacity that clients reckon with; on an error of the cell it is tried again by itself."""
        self._endpoint = replace(self._endpoint, weight=weight)
        with contextlib.suppress(NoNode):
            await self._cell.set(self._path, encode_entry(self._endpoint))

    async def close(self) -> None:
        """Take the entry away."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            if not self.yielded and self._cell.session_id == self._owned_by:
                with contextlib.suppress(SynodError):  # if it cannot be reached, the session's end does it
                    await self._cell.delete(self._path)

    async def _keep(self) -> None:
        """Look again after every change of the entry, and after every end of a session."""
        while not self.yielded:
            await self._changed.wait()
            try:
                await self._put()
            except UserError:
                _log.exception("%s is not registered any more", self._path)
                return
            except SynodError as failure:
                _log.warning("%s: %s; registering again", self._path, failure)
                self._changed.set()
                await asyncio.sleep(RETRY_S)
                await self._cell.wait_connected()

    async def _put(self) -> None:
        """Make the entry say what it should, owned by the present session."""
        while True:
            self._changed.clear()
            session = self._cell.session_id
            stat = await self._cell.exists(self._path, watch=lambda _event: self._changed.set())
            if stat is None:
                with contextlib.suppress(NodeExists):
                    await self._cell.create(self._path, encode_entry(self._endpoint), ephemeral=True, makepath=True)
                continue
            with contextlib.suppress(NoNode):
                value, stat = await self._cell.get(self._path)
                if stat.ephemeral_owner != session:
                    if self._owned_by == session:
                        self.yielded = True
                        _log.warning("%s was taken over by a newer process; this one yields", self._path)
                        return
                    await self._take_over(value, stat.version)
                    continue
                self._owned_by = session
                if value != encode_entry(self._endpoint):
                    await self._cell.set(self._path, encode_entry(self._endpoint))
                    continue
                return

    async def _take_over(self, value: bytes, version: int) -> None:
        """Remove what an earlier process at this address, or our own earlier session, has left."""
        other = decode_entry(self._endpoint.name, value)
        if other is not None and other.address != self._endpoint.address:
            raise UserError(
                f"{self._path} is registered for {other.address}: give each instance a name of its own; "
                f"nothing was changed"
            )
        await self._cell.delete(self._path, version=version)
