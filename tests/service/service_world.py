"""What the tests of the service room share: a cell to test against, and small instances."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import synod.embedded
from synod.client import Cell, connect


@contextlib.asynccontextmanager
async def client_of(hosts: str, **options) -> AsyncIterator[Cell]:
    async with connect(hosts, **options) as cell:
        yield cell


def local_cell() -> synod.embedded.LocalCell:
    return synod.embedded.local()
