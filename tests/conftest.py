"""What every test shares: the marker `requires`, and how hypothesis looks for counterexamples.

`@pytest.mark.requires("zookeeper")` says that a test needs something from outside the project. Without it the
test is skipped, and says so; where SYNOD_REQUIRE names it (`SYNOD_REQUIRE=zookeeper,etcd make test`), it fails.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

import _peers
from synod.server import is_compiled
from synod.storage import Ring
from synod.torment import spaces_possible

hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")


def _has_ring() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        ring = Ring.open(directory)
    if ring is None:
        return False
    ring.close()
    return True


PRESENT: dict[str, Callable[[], bool]] = {
    "zookeeper": lambda: _peers.zookeeper_command() is not None,
    "etcd": lambda: shutil.which("etcd") is not None,
    "strace": lambda: shutil.which("strace") is not None,
    "io_uring": _has_ring,
    "root": lambda: os.geteuid() == 0,
    "namespaces": lambda: spaces_possible() is None,
    "compiled": lambda: _peers.COMPILED_PYTHON.exists(),
    "pure": lambda: not is_compiled(),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        for name in marker.args:
            if name not in PRESENT:
                pytest.fail(f"requires({name!r}): tests/conftest.py does not know how to look for that", pytrace=False)
            if PRESENT[name]():
                continue
            if name in os.environ.get("SYNOD_REQUIRE", "").split(","):
                pytest.fail(f"{name} is not here, and SYNOD_REQUIRE demands it", pytrace=False)
            pytest.skip(f"{name} is not here")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests begin first, in whatever order they come: else the last one of a run keeps a single worker busy."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class Scheduling(LoadScopeScheduling):
    """Each test goes to whichever worker is free, but all the interop tests stay on one worker.

    So each system that they compare is started once in a run. (A group marker cannot say this: it does not outlive
    the way to the scheduler, which knows a test only by its id.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return "interop" if nodeid.startswith("tests/interop/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)
