"""Builds the hot rooms with mypyc into a wheel: all of them, or none.

`SYNOD_COMPILE=1` demands it, `SYNOD_COMPILE=0` switches it off; otherwise it happens where there are a C compiler and
Python's headers, and a failure leaves a pure wheel. Editable installs are always pure.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOT_ROOMS = ("paxos", "tree", "replica")
HOT_MODULES = (
    "base/_change.py",
    "base/_invariant.py",
    "wire/_frames.py",
    "wire/_jute.py",
    "storage/_segment.py",
    "storage/_log.py",
    "storage/_ring.py",
    "storage/_store.py",
    "server/_metrics.py",
    "server/_disk.py",
    "server/_peers.py",
    "server/_clients.py",
    "server/_host.py",
)


class CompileHook(BuildHookInterface):
    """The hook of pyproject.toml."""

    PLUGIN_NAME = "custom"
    _work: Path | None = None

    def dependencies(self) -> list[str]:
        """What the build itself needs, only where it compiles."""
        return ["mypy>=1.14", "setuptools"] if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the results into the wheel beside their sources."""
        if version == "editable" or not self._wanted():
            return
        try:
            built = self._compile()
        except (Exception, SystemExit) as failure:  # mypyc ends the process when it finds a type error
            if os.environ.get("SYNOD_COMPILE") == "1":
                self.finalize()  # which nobody calls after a failure
                raise
            self.app.display_warning(f"the core was not compiled, and runs in pure Python: {failure}")
            return
        build_data["force_include"] |= built
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, *_: object) -> None:
        """The wheel has what was built, or nobody wants it."""
        if self._work is not None:
            shutil.rmtree(self._work)

    def _wanted(self) -> bool:
        said = os.environ.get("SYNOD_COMPILE", "")
        if said:
            return said == "1"
        compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
        headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
        return shutil.which(compiler) is not None and headers.exists()

    def _compile(self) -> dict[str, str]:
        """File on disk to path in the wheel, for each extension module."""
        from mypyc.build import mypycify
        from setuptools import Distribution
        from setuptools.command.build_ext import build_ext

        here = Path.cwd()
        os.chdir(self.root)
        try:
            package = Path("src/synod")
            modules = [str(package / module) for module in HOT_MODULES]
            for room in HOT_ROOMS:
                modules += sorted(str(path) for path in (package / room).glob("_*.py") if path.name != "__init__.py")
            work = self._work = Path(tempfile.mkdtemp(prefix="synod-build-"))
            extensions = mypycify(
                # A cache of its own: two that check types at the same time, as CI does, find a common one locked.
                ["--config-file=", "--cache-dir=.mypy_cache/compiled", "--strict", "--follow-imports=silent", *modules],
                opt_level="3",
                target_dir=str(work / "c"),
                multi_file=True,
            )
            command = build_ext(Distribution({"ext_modules": extensions}))
            command.build_lib = str(work / "lib")
            command.build_temp = str(work / "temp")
            command.ensure_finalized()
            command.build_extensions = lambda: _build_on_all_cores(command)
            command.run()
            return {str(path): str(path.relative_to(work / "lib")) for path in (work / "lib").rglob("*.so")}
        finally:
            os.chdir(here)


def _build_on_all_cores(command: Any) -> None:  # noqa: ANN401 -- setuptools has no types
    """Compile the files of an extension at the same time; setuptools knows only how to do so with extensions."""
    compiler = command.compiler
    in_a_row = compiler.compile

    def at_the_same_time(sources: list[str], **options: object) -> list[str]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [path for paths in pool.map(lambda one: in_a_row([one], **options), sources) for path in paths]

    compiler.compile = at_the_same_time
    type(command).build_extensions(command)
