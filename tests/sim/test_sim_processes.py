"""A user's own code in the simulator: docs/SIMULATION.md, run as it stands, and what it promises of processes."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import synod
from synod.sim import Found, Plan, Process, Simulation, check, run

ROOT = Path(__file__).parents[2]
CALM = Plan.calm()


def documented() -> dict[str, Callable[..., object]]:
    """Everything that the examples of the document define."""
    names: dict[str, Callable[..., object]] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "SIMULATION.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/SIMULATION.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_example_of_the_document_counts() -> None:
    """The client, the lock recipe and the token guard, unchanged, among all faults."""
    documented()["test_the_counter_counts"]()


def test_the_careless_lock_of_the_document_is_found_out() -> None:
    """The seed that it names does the same again, with the same trace."""
    documented()["test_the_careless_lock_is_found_out"]()


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_sim_processes import documented
from synod.sim import run
names = documented()
for scenario, seed in (("scenario", 3), ("scenario", 9), ("careless_scenario", 5)):
    outcome = run(names[scenario], seed=seed)
    print(outcome.violation, outcome.trace)
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    """Tasks and futures live at other addresses there, and sets of strings have another order."""
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent))],
            capture_output=True,
            text=True,
            timeout=100,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 3


@pytest.mark.slow
def test_two_leaders_are_never_believed_in_at_once() -> None:
    """An election's leader is told in time that it leads no more, whatever happens to its process."""

    def scenario(world: Simulation) -> None:
        terms: list[tuple[float, float]] = []

        async def candidate(hosts: str) -> None:
            async with synod.connect(hosts, session_timeout_ms=2_000) as cell:
                for _ in range(3):
                    async with cell.elect("/chief") as leadership:
                        began = world.now
                        lease = leadership.deadline
                        assert lease
                        await asyncio.sleep(0.3)
                        leadership.check()
                        terms.append((began, world.now))

        def apart() -> None:
            ordered = sorted(terms)
            assert all(a[1] <= b[0] for a, b in pairwise(ordered)), ordered

        for name in "abc":
            world.process(candidate, world.hosts, name=name)
        world.at_end(apart)

    check(scenario, seeds=range(8))


@pytest.mark.slow
def test_a_watch_ends_at_the_last_value() -> None:
    """A follower that sees every change or a gap comes to what was written last."""

    def scenario(world: Simulation) -> None:
        seen: list[bytes] = []

        async def writer(hosts: str) -> None:
            async with synod.connect(hosts, session_timeout_ms=2_000) as cell:
                if await cell.exists("/v") is None:
                    await cell.create("/v", b"0")
                for n in range(8):
                    await cell.set("/v", str(n).encode())
                    await asyncio.sleep(0.3)
                await cell.set("/v", b"last")

        async def follower(hosts: str) -> None:
            async with synod.connect(hosts, session_timeout_ms=2_000) as cell:
                async for change in cell.watch("/v"):
                    if change.data is not None:
                        seen.append(change.data)
                    if change.data == b"last":
                        return

        world.process(writer, world.hosts)
        world.process(follower, world.hosts)

        def ended() -> None:
            assert seen[-1] == b"last"

        world.at_end(ended)

    check(scenario, seeds=range(8), plan=replace(CALM, crashes=True, client_cuts=True, resets=True))


def test_a_killed_process_does_nothing_more_and_begins_anew() -> None:
    """As after SIGKILL: no `finally` runs; its connection closes, its session stays until it times out."""

    def scenario(world: Simulation) -> None:
        said: list[str] = []
        processes: list[Process] = []

        async def victim(hosts: str) -> None:
            said.append("begins")
            async with synod.connect(hosts) as cell:
                await cell.create("/here", ephemeral=True)
                try:
                    if said.count("begins") == 1:
                        processes[0].kill()
                        await asyncio.sleep(5)
                        said.append("goes on")
                finally:
                    if said.count("begins") == 1:
                        said.append("cleans up")

        async def patient(hosts: str) -> None:
            while True:
                try:
                    await victim(hosts)
                except synod.NodeExists:
                    said.append("still there")
                    await asyncio.sleep(1)
                else:
                    return

        processes.append(world.process(patient, world.hosts))

        def in_order() -> None:
            assert said[:2] == ["begins", "begins"]
            assert "still there" in said
            assert set(said) == {"begins", "still there"}

        world.at_end(in_order)

    assert run(scenario, seed=1, plan=CALM).violation is None


def test_a_paused_process_stands_still_while_time_goes_on() -> None:
    """Its timers fire late, all at once, and its clock shows how late."""

    def scenario(world: Simulation) -> None:
        late: list[float] = []
        processes: list[Process] = []

        async def sleeper() -> None:
            began = asyncio.get_running_loop().time()
            processes[0].pause(3.0)
            await asyncio.sleep(0.5)
            late.append(asyncio.get_running_loop().time() - began)

        processes.append(world.process(sleeper))

        def three() -> None:
            assert 3.0 <= late[0] < 3.1

        world.at_end(three)

    assert run(scenario, seed=1, plan=CALM).violation is None


@pytest.mark.parametrize(
    ("main", "sentence"),
    [
        ("raises", "process raises ended with KeyError: 'lost'"),
        ("hangs", "process hangs get nothing done"),
        ("reports", "the flag is wrong"),
        ("threads", "NotImplementedError"),
    ],
)
def test_what_goes_wrong_in_a_process_is_found(main: str, sentence: str) -> None:
    """An exception, a process that never ends, a violation of the user's own, a thread."""

    def scenario(world: Simulation) -> None:
        async def raises() -> None:
            await asyncio.sleep(0.1)
            raise KeyError("lost")

        async def hangs() -> None:
            await asyncio.get_running_loop().create_future()

        async def reports() -> None:
            world.violated("the flag is wrong")

        async def threads() -> None:
            await asyncio.to_thread(print)

        world.process({"raises": raises, "hangs": hangs, "reports": reports, "threads": threads}[main], name=main)

    with pytest.raises(Found) as found:
        check(scenario, seeds=[1], plan=CALM)
    assert sentence in str(found.value)
    assert found.value.outcome.seed == 1


def test_an_address_that_is_not_there_is_refused_as_anywhere() -> None:
    """The client goes on to the next address, as it does with real sockets."""

    def scenario(world: Simulation) -> None:
        async def main() -> None:
            async with synod.connect(f"replica-9:2181,{world.hosts}") as cell:
                await cell.create("/a")

        world.process(main)

    for seed in range(3):
        assert run(scenario, seed=seed, plan=CALM).violation is None
