"""Your own code in a simulated world: processes with a client of the cell each, faults around them, and a verdict.

    def scenario(world: Simulation) -> None:
        for name in ("a", "b", "c"):
            world.process(worker, world.hosts, store, name=name)
        world.at_end(store.must_be_right)

    check(scenario, seeds=range(100))

`worker` is a coroutine function as you would run it anywhere: it calls `synod.connect(hosts)`, takes locks, stands for
election, watches. While it does, its process is paused, cut off and killed, and so are the replicas, as the seed says.
Then everything heals, every process must finish, and the checks are called.

Read `Simulation.process`, then `run`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from synod.base import MILLISECOND, SECOND, Micros, SynodError

from ._loop import SimulatedLoop
from ._outcome import Outcome, Violation
from ._plan import Plan

if TYPE_CHECKING:
    import asyncio

    from ._world import World

PROCESS_FIRST: Final = 1_001
"""Processes are numbered from here: what is below are the world's own clients."""

RESTART_AFTER: Final = 300 * MILLISECOND

Main = Callable[..., Coroutine[Any, Any, object]]


class Process:
    """A simulated process, that runs one coroutine; made by `Simulation.process`.

    When it is killed, or ends with one of synod's errors (its lock was lost, the cell was unavailable), it is started
    again after a moment, as a supervisor would do. Any other exception is a finding.
    """

    def __init__(self, world: World, id_: int, name: str, main: Main, args: tuple[Any, ...], *, waited: bool) -> None:
        self.id = id_
        self.name = name
        self.life = 0
        self.paused_until: Micros = 0
        self.finished = False
        self.waited = waited
        self._world = world
        self._main = main
        self._args = args
        self._rng = random.Random(world.rng.getrandbits(64))
        self._loops: list[SimulatedLoop] = []

    @property
    def alive(self) -> bool:
        """Whether it runs now, paused or not."""
        return bool(self._loops) and not self._loops[-1].is_closed()

    def start(self) -> None:
        """Begin a life."""
        if self.alive or self.finished:
            return
        self.life += 1
        rng = random.Random(self._rng.getrandbits(64))
        loop = SimulatedLoop(self._world, self, rng)  # type: ignore[abstract]
        self._loops.append(loop)
        loop.call_soon(self._begin, loop)

    def _begin(self, loop: SimulatedLoop) -> None:
        task = loop.create_task(self._main(*self._args))
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            self.finished = True
            self._end_life()
        elif error is None or isinstance(error, SynodError):
            self._world.count("process failed")
            self.kill()
        elif isinstance(error, Violation):
            self._world.report(str(error))
        else:
            self._world.report(f"process {self.name} ended with {type(error).__name__}: {error}")

    def _end_life(self) -> None:
        self.life += 1
        self._loops[-1].die()

    def turn(self) -> None:
        """The world gives it a turn."""
        self._loops[-1].turn()

    def kill(self) -> None:
        """End it in the middle of whatever it does; it is started again after a moment."""
        if self.alive:
            self._end_life()
            self._world.after(self._rng.randrange(RESTART_AFTER // 3, RESTART_AFTER * 3), "process", self.id)

    def pause(self, seconds: float) -> None:
        """Let it stand still for so long, as a collected heap or a suspended machine does."""
        self.paused_until = max(self.paused_until, self._world.now + round(seconds * SECOND))

    def cut(self, seconds: float) -> None:
        """Let nothing through between it and the replica that it talks to, or any other, for so long."""
        for machine in self._world.machines:
            self._world.cut_client(self.id, machine, round(seconds * SECOND))

    def bury(self) -> None:
        """The run is over."""
        for loop in self._loops:
            loop.bury()


class Simulation:
    """One simulated world, as your scenario sees it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.seed = world.seed
        self.rng = world.stream("scenario")
        """Chance for your own code; never use another, or the same seed is another run."""
        self.hosts = ",".join(f"replica-{id_}:2181" for id_ in world.machines)
        """For `synod.connect`."""

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self._world.now / SECOND

    def process(self, main: Main, *args: object, name: str = "", forever: bool = False) -> Process:
        """Run a coroutine function in a process of its own.

        Args:
            main: called with `args`, at the start and after every restart.
            args: handed over by reference: what they hold is outside of the process, like a store on another machine.
            name: for messages.
            forever: it never finishes, and nobody waits for it.
        """
        id_ = PROCESS_FIRST + len(self._world.processes)
        process = Process(self._world, id_, name or f"{main.__name__}-{id_}", main, args, waited=not forever)
        self._world.processes[id_] = process
        process.start()
        return process

    def at_end(self, check: Callable[[], None]) -> None:
        """Call this when everything has come to rest; it raises when something is wrong."""
        self._world.checks.append(check)

    def violated(self, text: str) -> None:
        """Something is wrong.

        Raises:
            Violation: always; the run ends here.
        """
        self._world.report(text)
        raise Violation(text)


Scenario = Callable[[Simulation], None]


class Found(AssertionError):
    """A seed for which a scenario goes wrong."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(
            f"seed {outcome.seed}: {outcome.violation}; synod.sim.run with this seed does the same again "
            f"(trace {outcome.trace})"
        )


def run(
    scenario: Scenario, *, seed: int, plan: Plan | None = None, seconds: float = 15.0, patience: float = 60.0
) -> Outcome:
    """Run a scenario once, faults first, then to its end in a world that has healed.

    Args:
        scenario: makes processes and checks.
        seed: the same one gives the same run, in every process and on every machine.
        plan: what goes wrong; drawn from the seed if None.
        seconds: how long things go wrong, in simulated time.
        patience: once everything is healed, all processes must finish within so many simulated seconds.
    """
    from ._world import World, judged

    drawn = plan if plan is not None else Plan.draw(random.Random(f"{seed}/plan"))
    world = World(seed, replace(drawn, clients=0))
    world.patience = round(patience * SECOND)
    world.scenario = lambda: scenario(Simulation(world))
    return judged(world, round(seconds * SECOND))


def check(
    scenario: Scenario,
    *,
    seeds: Iterable[int] = range(100),
    plan: Plan | None = None,
    seconds: float = 15.0,
    patience: float = 60.0,
) -> list[Outcome]:
    """Run a scenario with many seeds.

    Raises:
        Found: with the first seed for which it goes wrong.
    """
    outcomes = []
    for seed in seeds:
        outcome = run(scenario, seed=seed, plan=plan, seconds=seconds, patience=patience)
        if outcome.violation is not None:
            raise Found(outcome)
        outcomes.append(outcome)
    return outcomes
