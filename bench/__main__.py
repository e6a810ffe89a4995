"""The command `python -m bench`: the systems in turns, row by row, and a table of medians and ratios."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import shutil
import sys
from pathlib import Path
from typing import TypeVar

from ._baseline import run as run_baseline
from ._bench import COMPILED, ETCD, OURS, QUICK, SMOKE, SYNOD, ZOOKEEPER, Bench, Effort
from ._growth import Sizes, growth
from ._publish import publish
from ._report import heading, markdown
from ._rows import ROWS
from .peers import COMPILED_PYTHON, zookeeper_command

Settings = TypeVar("Settings", Effort, Sizes)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about three minutes")
    parser.add_argument("--smoke", action="store_true", help="only that everything can be measured; no figures")
    parser.add_argument("--rows", default="", help="only rows whose title holds this text, or one of these: A|B")
    parser.add_argument("--systems", default="", help="only systems whose name holds one of these, by commas")
    parser.add_argument("--faults", type=int, help="leaders to kill and to silence")
    parser.add_argument("--set", default="", help="other effort or sizes: turns=3,measure_s=2 (bench._bench.Effort)")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--growth", action="store_true", help="ours alone, as znodes, sessions and watches grow")
    parser.add_argument("--self", action="store_true", help="ours alone, against the stored figures: under a minute")
    parser.add_argument("--save", action="store_true", help="with --self: store the figures for the next release")
    parser.add_argument("--report", type=Path, nargs="+", help="write docs/PERFORMANCE.md's figures from these reports")
    parser.add_argument("--json", type=Path, help="write the report to this file as well")
    options = parser.parse_args()
    if options.report:
        publish(options.report)
        return 0
    gc.freeze()
    gc.disable()  # the generator makes no cycles, and its pauses would be taken for the servers'

    names = [name for name in systems() if any(part in name for part in options.systems.split(","))]
    if not names or ((options.growth or options.self) and not set(names) & set(OURS)):
        raise SystemExit(f"no system that is here and can be measured so has {options.systems!r} in its name")
    if options.self:
        run_baseline(names, save=options.save)
        return 0
    if options.growth:
        sizes = Sizes(znodes=(1_000, 10_000), sessions=(10, 100), watches=(0, 100), turns=1, steady_s=1.0)
        document = growth(names, adjusted(sizes if options.smoke else Sizes(), options.set))
        if options.json:
            options.json.write_text(json.dumps(document, indent=1) + "\n")
        print(json.dumps(document["growth"], indent=1))
        return 0
    effort = adjusted(SMOKE if options.smoke else QUICK if options.quick else Effort(), options.set)
    if options.faults is not None:
        effort = dataclasses.replace(effort, faults=options.faults)
    wanted = options.rows.split("|")
    rows = [row for row in ROWS if any(part in row.title for part in wanted)][:: 4 if options.smoke else 1]
    document = Bench(names, effort, replicas=options.replicas).run(rows, only=wanted)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(heading(document), end="\n\n")
    print(markdown(document))
    return 0


def adjusted(settings: Settings, changes: str) -> Settings:
    """The settings with others in the place of some of their numbers: `name=number,name=number`."""
    pairs = [change.partition("=") for change in changes.split(",") if change]
    kinds = {field.name: type(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    unknown = [name for name, _, _ in pairs if kinds.get(name) not in (int, float)]
    if unknown:
        known = ", ".join(name for name, kind in kinds.items() if kind in (int, float))
        raise SystemExit(f"--set knows no {unknown[0]!r}; there are {known}")
    return dataclasses.replace(settings, **{name: kinds[name](value) for name, _, value in pairs})


def systems() -> list[str]:
    """What can be measured here, ours first; what is missing is told."""
    present = {
        COMPILED: COMPILED_PYTHON.exists(),
        SYNOD: True,
        ZOOKEEPER: zookeeper_command() is not None,
        ETCD: shutil.which("etcd") is not None,
    }
    for name, here in present.items():
        if not here:
            advice = "`make compiled` makes it" if name == COMPILED else "it is not installed"
            print(f"{name} is not here: its column is missing; {advice}", file=sys.stderr)
    return [name for name, here in present.items() if here]


if __name__ == "__main__":
    sys.exit(main())
