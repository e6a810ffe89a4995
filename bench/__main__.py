"""The command `python -m bench`: the systems in turns, row by row, and a table of medians and ratios."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import shutil
import sys
from pathlib import Path

from ._bench import COMPILED, ETCD, QUICK, SMOKE, SYNOD, ZOOKEEPER, Bench, Effort
from ._report import markdown
from ._rows import ROWS
from .peers import COMPILED_PYTHON, zookeeper_command


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about three minutes")
    parser.add_argument("--smoke", action="store_true", help="only that everything can be measured; no figures")
    parser.add_argument("--rows", default="", help="only rows whose title holds this text")
    parser.add_argument("--faults", type=int, help="leaders to kill and to silence")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the report to this file as well")
    options = parser.parse_args()
    gc.freeze()
    gc.disable()  # the generator makes no cycles, and its pauses would be taken for the servers'

    effort = SMOKE if options.smoke else QUICK if options.quick else Effort()
    if options.faults is not None:
        effort = dataclasses.replace(effort, faults=options.faults)
    names = systems()
    rows = [row for row in ROWS if options.rows in row.title][:: 4 if options.smoke else 1]
    document = Bench(names, effort, replicas=options.replicas).run(rows, only=options.rows)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    facts = document["machine"]
    print(f"{facts['date']}, {facts['cores']} cores of {facts['cpu']}, Python {facts['python']}")
    print(", ".join(f"{name} {version}" for name, version in document["systems"].items()), end="\n\n")
    print(markdown(document))
    return 0


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
