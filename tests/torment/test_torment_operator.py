"""The operator of torment brings the members to where he wants them, whatever becomes of his requests."""

from __future__ import annotations

import random

import pytest

from synod.torment import _operator as operator_module
from synod.torment._operator import Operator
from synod.torment._processes import whole_answer

SPARE = 4


class Cell:
    """A cell that does what it is asked, and loses requests and answers: `Replicas`, as far as an operator knows it."""

    def __init__(self, seed: int, lost: float) -> None:
        self.ids = [1, 2, 3]
        self.table = {i: {"incarnation": 1, "role": "voter"} for i in self.ids}
        self.retired: dict[int, int] = {}
        self.disks = dict.fromkeys(self.ids, 1)
        self.fewest = 3
        self.asked: list[str] = []
        self._rng = random.Random(seed)
        self._lost = lost

    async def members(self):
        """None when nobody leads."""
        return None if self._rng.random() < self._lost else {i: dict(member) for i, member in self.table.items()}

    async def operate(self, action: str, i: int) -> None:
        """Whether it happened, nobody says."""
        if self._rng.random() < self._lost:
            return
        self.asked.append(action)
        member = self.table.get(i)
        if action == "member-add" and member is None:
            self.table[i] = {"incarnation": self.retired.get(i, 0) + 1, "role": "learner"}
        elif action == "member-promote" and member and self.disks.get(i) == member["incarnation"]:
            member["role"] = "voter"
        elif action == "member-replace" and member:
            self.table[i] = {"incarnation": member["incarnation"] + 1, "role": "learner"}
        elif action == "member-remove" and member:
            self.retired[i] = self.table.pop(i)["incarnation"]
        self.fewest = min(self.fewest, sum(m["role"] == "voter" for m in self.table.values()))

    def join(self, i: int, incarnation: int, members) -> None:
        assert i in members
        self.disks[i] = incarnation
        self.ids = sorted({*self.ids, i})

    def leave(self, i: int) -> None:
        self.ids.remove(i)

    def expect_end(self, i: int) -> None:
        pass

    async def wait_ended(self, i: int, seconds: float) -> int:
        return 3


@pytest.fixture(autouse=True)
def _at_once(monkeypatch) -> None:
    monkeypatch.setattr(operator_module, "LOOK_S", 0)


@pytest.mark.parametrize("lost", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(5))
async def test_another_one_takes_the_place_of_a_member(seed: int, lost: float) -> None:
    """It votes before the other one goes; and the one that went can come back, as a later incarnation."""
    cell = Cell(seed, lost)
    operator = Operator(cell)
    for gone, come, incarnation in ((2, SPARE, 1), (SPARE, 2, 2), (2, SPARE, 2)):
        operator.goal = operator.goal - {gone} | {come}
        assert await operator.settle(30)
        assert cell.ids == sorted(operator.goal)
        assert {i: member["role"] for i, member in cell.table.items()} == dict.fromkeys(operator.goal, "voter")
        assert cell.table[come]["incarnation"] == cell.disks[come] == incarnation
    assert cell.fewest == 3


@pytest.mark.parametrize("lost", [0.0, 0.6])
async def test_one_that_lost_its_disk_is_replaced(lost: float) -> None:
    """Once, however many requests get no answer, and by an incarnation of its own."""
    cell = Cell(1, lost)
    operator = Operator(cell)
    operator.lost.add(3)
    assert await operator.settle(30)
    assert cell.table[3] == {"incarnation": cell.disks[3], "role": "voter"}
    assert cell.asked.count("member-replace") == cell.disks[3] - 1 == 1
    assert operator.lost == set()


async def test_what_is_as_it_should_be_is_left_alone() -> None:
    """Nothing is asked of the cell."""
    cell = Cell(1, 0.0)
    assert await Operator(cell).settle(30)
    assert cell.asked == []


async def test_a_cell_without_a_leader_is_given_up_in_time() -> None:
    """The fault is over then; what is left undone is done when all is healed."""
    cell = Cell(1, 1.0)
    operator = Operator(cell)
    operator.lost.add(3)
    assert not await operator.settle(0.01)
    assert operator.lost == {3}


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}", None),
        (b"", None),
    ],
)
def test_what_a_killed_replica_left_unfinished_is_no_answer(answer, body):
    """A run must not end with it."""
    assert whole_answer(answer) == body
