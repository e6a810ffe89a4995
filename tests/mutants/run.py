"""Break the code on purpose, patch by patch, and see a test fail each time: `make mutants`.

Each `*.patch` here is a small bug in something that must not break. The comment above its diff names the promise
that it breaks and what kills it: `killed by tests/x.py::test_y`, or `killed by sim FIRST..LAST` (seeds). A mutant
that survives is a missing test.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KILLER = re.compile(r"killed by\s+(sim\s+\d+\.\.\d+|tests/\S+)")
TIMEOUT_S = 300
SEEDS_AT_ONCE = 10
"""Of the simulator: most mutants die of the first few seeds, and the rest would prove nothing more."""


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant."""

    name: str
    killer: str
    killed: bool
    why: str
    seconds: float


def killer_of(patch: Path) -> str | None:
    """What the comment above the diff says kills this mutant."""
    comment = "\n".join(line for line in patch.read_text().splitlines() if line.startswith("#"))
    found = KILLER.search(comment.replace("\n#", " "))
    return None if found is None else found.group(1).rstrip(".,;")


def commands(killer: str) -> list[list[str]]:
    """How to run a killer: one after the other, until one fails."""
    if killer.startswith("sim"):
        first, last = (int(digits) for digits in re.findall(r"\d+", killer))
        return [
            [sys.executable, "-m", "synod", "sim", "--from", str(at), "--seeds", str(min(SEEDS_AT_ONCE, last + 1 - at))]
            for at in range(first, last + 1, SEEDS_AT_ONCE)
        ]
    return [[sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", killer]]


def run(patch: Path) -> Verdict:
    """Apply a mutant to a copy and see whether its killer fails there, and only there."""
    began = time.monotonic()
    killer = killer_of(patch)
    if killer is None:
        return Verdict(patch.stem, "", killed=False, why="its comment names no killer", seconds=0)
    with tempfile.TemporaryDirectory(prefix="synod-mutant-") as directory:
        copy = Path(directory)
        for name in ("src", "tests", "bench"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        applied = subprocess.run(["git", "apply", str(patch)], cwd=copy, capture_output=True, text=True, check=False)
        if applied.returncode:
            return Verdict(patch.stem, killer, killed=False, why=f"does not apply: {applied.stderr.strip()}", seconds=0)
        code, tail = 0, [""]
        try:
            for command in commands(killer):
                left = TIMEOUT_S - (time.monotonic() - began)
                done = subprocess.run(
                    command,
                    cwd=copy,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=max(1.0, left),
                    check=False,
                )
                code, tail = done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1:]
                if code:
                    break
        except subprocess.TimeoutExpired:
            code, tail = 1, ["it hung, which is dead enough"]
    # pytest: 1 is a failed test; 4 and 5 are no such test, which proves nothing.
    killed = code == 1
    return Verdict(
        patch.stem, killer, killed, "" if killed else f"exit {code}: {' '.join(tail)}", time.monotonic() - began
    )


def main() -> int:
    """Returns 1 when a mutant survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    patches = [p for p in sorted(HERE.glob("*.patch")) if not arguments.names or p.stem in arguments.names]
    began = time.monotonic()
    # The copies have their files' times, so that what is compiled once holds for all of them but the patched file.
    compileall.compile_dir(ROOT / "src", quiet=2)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        verdicts = []
        for verdict in pool.map(run, patches):
            verdicts.append(verdict)
            print(
                f"{'killed  ' if verdict.killed else 'SURVIVED'} {verdict.seconds:5.1f} s  {verdict.name}  "
                f"{verdict.killer}  {verdict.why}",
                flush=True,
            )
    survivors = [v.name for v in verdicts if not v.killed]
    of_children = os.times()
    print(
        f"{len(verdicts) - len(survivors)} of {len(verdicts)} mutants killed in {time.monotonic() - began:.0f} s, "
        f"{of_children.children_user + of_children.children_system:.0f} core seconds"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
