"""The recipes for threads, over a `BlockingCell`: the same promises, run on the client's own event loop.

Read the classes without `Blocking` for what each does. Locks of every kind are `BlockingLock` in `client`:
`BlockingLock(cell, Semaphore(cell.cell, "/leases", 3))`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ._barrier import Barrier, DoubleBarrier
from ._counter import Counter
from ._queue import PRIORITY_DEFAULT, Queue, QueueItem

if TYPE_CHECKING:
    from synod.client import BlockingCell


class BlockingBarrier:
    """See `Barrier`."""

    def __init__(self, cell: BlockingCell, path: str) -> None:
        self._cell = cell
        self._barrier = Barrier(cell.cell, path)

    def create(self) -> bool:
        return self._cell.run(self._barrier.create())

    def remove(self) -> bool:
        return self._cell.run(self._barrier.remove())

    def wait(self, *, timeout: float | None = None) -> bool:
        return self._cell.run(self._barrier.wait(timeout=timeout))


class BlockingDoubleBarrier:
    """See `DoubleBarrier`; a context manager as well."""

    def __init__(self, cell: BlockingCell, path: str, members: int, *, identifier: str = "") -> None:
        self._cell = cell
        self._barrier = DoubleBarrier(cell.cell, path, members, identifier=identifier)

    @property
    def inside(self) -> bool:
        return self._barrier.inside

    def enter(self, *, timeout: float | None = None) -> bool:
        return self._cell.run(self._barrier.enter(timeout=timeout))

    def leave(self, *, timeout: float | None = None) -> bool:
        return self._cell.run(self._barrier.leave(timeout=timeout))

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cell.run(self._barrier.__aexit__(kind, error, trace))


class BlockingCounter:
    """See `Counter`."""

    def __init__(self, cell: BlockingCell, path: str) -> None:
        self._cell = cell
        self._counter = Counter(cell.cell, path)

    def value(self) -> int:
        return self._cell.run(self._counter.value())

    def add(self, amount: int = 1) -> int:
        return self._cell.run(self._counter.add(amount))


class BlockingQueue:
    """See `Queue`: `for item in queue:` and `with item:`."""

    def __init__(self, cell: BlockingCell, path: str) -> None:
        self._cell = cell
        self._queue = Queue(cell.cell, path)

    def put(self, data: bytes, *, priority: int = PRIORITY_DEFAULT) -> str:
        return self._cell.run(self._queue.put(data, priority=priority))

    def put_all(self, items: Sequence[bytes], *, priority: int = PRIORITY_DEFAULT) -> list[str]:
        return self._cell.run(self._queue.put_all(items, priority=priority))

    def size(self) -> int:
        return self._cell.run(self._queue.size())

    def take(self, *, timeout: float | None = None) -> BlockingQueueItem | None:
        item = self._cell.run(self._queue.take(timeout=timeout))
        return None if item is None else BlockingQueueItem(self._cell, item)

    def __iter__(self) -> Iterator[BlockingQueueItem]:
        while True:
            item = self.take()
            assert item is not None
            yield item


class BlockingQueueItem:
    """See `QueueItem`. A thread cannot be interrupted: ask `is_valid` before what must not be done twice."""

    def __init__(self, cell: BlockingCell, item: QueueItem) -> None:
        self.name = item.name
        self.data = item.data
        self.fencing_token = item.fencing_token
        self._cell = cell
        self._item = item

    @property
    def is_valid(self) -> bool:
        return self._item.is_valid

    def consume(self) -> None:
        self._cell.run(self._item.consume())

    def release(self) -> None:
        self._cell.run(self._item.release())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cell.run(self._item.__aexit__(kind, error, trace))
