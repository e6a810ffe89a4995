"""Run seeds in worlds whose machines with odd ids run the compiled core, and the others the same core from its source.

`python mixed_world.py SOURCE SEED...`, with a Python in which the core is compiled; SOURCE is the directory that holds
the package. Prints each seed's trace. Within one process the source is a second package, `pure`, in which every import
of ours but that of `synod.base` is one of `pure`: the errors and small values that cross between machines are shared.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

from synod.server import is_compiled
from synod.sim import _world as world_module
from synod.sim import run_seed
from synod.sim._machine import Machine

IMPORT = re.compile(rb"^(\s*(?:from|import)\s+)synod\b(?!\.base)", re.MULTILINE)


class Source(importlib.machinery.SourceFileLoader):
    """Compiles a file of the package with its imports renamed, and keeps nothing of that."""

    def get_code(self, fullname: str) -> CodeType:
        data = IMPORT.sub(rb"\1pure", self.get_data(self.path))
        return self.source_to_code(data, self.path)


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, source: Path) -> None:
        self.source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        name, *parts = fullname.split(".")
        if name != "pure":
            return None
        at = self.source.joinpath("synod", *parts)
        package = at.is_dir()
        file = at / "__init__.py" if package else at.with_suffix(".py")
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=Source(fullname, str(file)),
            submodule_search_locations=[str(at)] if package else None,
        )


def main() -> None:
    """Mix, and run."""
    source, *seeds = sys.argv[1:]
    assert is_compiled(), "this Python has no compiled core"
    sys.meta_path.insert(0, Finder(Path(source)))
    # There is no such package but for the finder of a moment ago, which a checker of types does not run.
    import pure.replica._acquaintance as acquaintance  # type: ignore[import-not-found]
    from pure.replica import Replica as PureReplica  # type: ignore[import-not-found]
    from pure.sim._machine import Machine as PureMachine  # type: ignore[import-not-found]

    from synod.replica import Forgetful

    assert hasattr(PureReplica.step, "__code__"), "this one is compiled too"
    acquaintance.Forgetful = Forgetful  # the one error between machines that is not of `base`
    made = {"compiled": 0, "pure": 0}

    def machine(world: world_module.World, id_: int, *rest: object) -> object:
        made["compiled" if id_ % 2 else "pure"] += 1
        return (Machine if id_ % 2 else PureMachine)(world, id_, *rest)

    # A function that makes machines of two classes, in the place of the one class.
    world_module.Machine = machine  # type: ignore[misc, assignment]
    for seed in seeds:
        outcome = run_seed(int(seed))
        assert outcome.violation is None, outcome.violation
        print(outcome.seed, outcome.trace)
    assert all(made.values()), made


if __name__ == "__main__":
    main()
