"""`synod sim`: many seeds on several processes, with progress; or one seed and its trace hash."""

from __future__ import annotations

import json as json_module
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from synod.base import UserError, refuse_without_checks

from ._outcome import Outcome
from ._world import never_fired, run_seed, summary

SHOWN_FAILURES_MAX = 20

PROGRESS_S = 10.0
"""Between two lines of progress where no terminal can have one line rewritten: a log of a long run stays short."""


def command(*, seeds: int | None, jobs: int, start: int, seed: int | None, json: bool) -> int:
    """Run seeds; returns 0 when no oracle found anything, else 1.

    Raises:
        UserError: of `seeds` and `seed`, not exactly one was given; or this is `python -O`, in which no oracle could
            speak.
    """
    refuse_without_checks()
    if seed is not None and seeds is not None:
        raise UserError("give --seeds N to run many seeds, or --seed S to run one, not both")
    if seed is not None:
        return _one(seed, json=json)
    if seeds is None:
        raise UserError("give --seeds N to run many seeds, or --seed S to run one")
    began = time.perf_counter()
    outcomes: list[Outcome] = []
    progress = _Progress(seeds)
    for outcome in _run(range(start, start + seeds), jobs):
        outcomes.append(outcome)
        progress.one_more(outcome)
    progress.end()
    return _report(outcomes, time.perf_counter() - began, json=json)


class _Progress:
    """What has been done so far, on stderr: a line that is rewritten on a terminal, else a line now and then.

    A violation is told at once: whoever waits for an hour wants to look at it now.
    """

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._done = self._bad = 0
        self._live = sys.stderr.isatty()
        self._told_at = time.monotonic()

    def one_more(self, outcome: Outcome) -> None:
        """A seed was run."""
        self._done += 1
        self._bad += outcome.violation is not None
        if outcome.violation is not None:
            sys.stderr.write(f"{self._clear()}seed {outcome.seed}: {outcome.violation}\n")
        text = f"{self._done}/{self._seeds} seeds, {self._bad} violations"
        if self._live:
            sys.stderr.write(f"\r{text} ")
        elif time.monotonic() >= self._told_at + PROGRESS_S:
            self._told_at = time.monotonic()
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """The report follows."""
        if self._live:
            sys.stderr.write("\n")

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""


def _run(seeds: range, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        for seed in seeds:
            yield run_seed(seed)
        return
    with ProcessPoolExecutor(max_workers=min(jobs, os.cpu_count() or 1, len(seeds))) as pool:
        for done in as_completed([pool.submit(run_seed, seed) for seed in seeds]):
            yield done.result()


def _one(seed: int, *, json: bool) -> int:
    outcome = run_seed(seed)
    if json:
        sys.stdout.write(json_module.dumps(_as_dict(outcome)) + "\n")
    else:
        for name, count in outcome.faults.items():
            sys.stdout.write(f"{count:8}  {name}\n")
        if outcome.violation:
            sys.stdout.write(f"violation: {outcome.violation}\n")
        sys.stdout.write(f"trace {outcome.trace}\n")
    return 1 if outcome.violation else 0


def _as_dict(outcome: Outcome) -> dict[str, object]:
    return {
        "seed": outcome.seed,
        "violation": outcome.violation,
        "trace": outcome.trace,
        "faults": outcome.faults,
        "virtual_seconds": outcome.virtual / 1_000_000,
        "seconds": round(outcome.seconds, 3),
        "operations": outcome.operations,
        "slots": outcome.slots,
    }


def _report(outcomes: list[Outcome], elapsed: float, *, json: bool) -> int:
    bad = sorted((o for o in outcomes if o.violation), key=lambda o: o.seed)
    faults = summary(outcomes)
    virtual = sum(o.virtual for o in outcomes) / 1_000_000
    seconds = sum(o.seconds for o in outcomes)
    silent = never_fired(outcomes)
    schedules = len({o.trace for o in outcomes})
    hourly = round(schedules * 3600 / max(elapsed, 0.001))
    if json:
        sys.stdout.write(
            json_module.dumps(
                {
                    "seeds": len(outcomes),
                    "violations": [_as_dict(o) for o in bad],
                    "faults": faults,
                    "never_fired": silent,
                    "schedules": schedules,
                    "schedules_per_hour": hourly,
                    "virtual_seconds": round(virtual, 1),
                    "core_seconds": round(seconds, 1),
                }
            )
            + "\n"
        )
        return 1 if bad else 0
    for name, count in faults.items():
        sys.stdout.write(f"{count:8}  {name}\n")
    for outcome in bad[:SHOWN_FAILURES_MAX]:
        sys.stdout.write(f"seed {outcome.seed}: {outcome.violation}\n    synod sim --seed {outcome.seed}\n")
    if silent:
        sys.stdout.write(f"fault classes that never fired: {', '.join(silent)}; more seeds reach more\n")
    sys.stdout.write(
        f"{len(outcomes)} seeds, {len(bad)} violations; {virtual:.0f} simulated seconds in {seconds:.0f} core seconds "
        f"({virtual / max(seconds, 0.001):.0f} times real time); {schedules} distinct schedules, {hourly} an hour\n"
    )
    return 1 if bad else 0
