"""The house stands as docs/ARCHITECTURE.md says: who imports whom, what is public, what stays behind its door."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "synod"
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
UNBOUND = {"cli", "demo", "sim", "torment"}
"""Rooms that may import every other one."""
PROGRAMS = {SOURCE / "demo" / "audit.py", SOURCE / "demo" / "instance.py"}
"""Modules that are run with `python -m`."""


@cache
def table() -> dict[str, tuple[set[str], set[str]]]:
    """The table of docs/ARCHITECTURE.md: for each room, the rooms and the packages that it may import."""
    found = {}
    for line in (ROOT / "docs" / "ARCHITECTURE.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and (room := re.fullmatch(r"`(\w+)`", cells[0])):
            found[room[1]] = (set(re.findall(r"`(\w+)`", cells[2])), set(re.findall(r"`([\w-]+)`", cells[3])))
    return found


def contracts() -> dict[str, configparser.SectionProxy]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    prefix = "importlinter:contract:"
    return {name.removeprefix(prefix): parser[name] for name in parser.sections() if name.startswith(prefix)}


def modules_of(room: str) -> list[Path]:
    return sorted((SOURCE / room).rglob("*.py"))


def test_every_contract_of_the_import_linter_is_kept() -> None:
    """Rooms import only what the table allows, and the core imports no clock, no chance and no I/O."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_contracts_say_what_the_table_says() -> None:
    """One truth in two places: each room's contract forbids exactly the rooms that its row does not name."""
    assert sorted(table()) == ROOMS
    for room, (may, _) in table().items():
        if room in UNBOUND:
            assert room not in contracts()
            continue
        forbidden = contracts()[room]["forbidden_modules"].split()
        assert sorted(forbidden) == [f"synod.{other}" for other in ROOMS if other != room and other not in may], room


def test_third_party_packages_stay_in_their_rooms() -> None:
    """The core has no dependency: a package is imported only by the rooms whose row names it.

    What only the type checker and the compiler read, such as the name of a machine's integer, is no import.
    """
    graph = grimp.build_graph(
        "synod", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    for room in ROOMS:
        allowed = {name.replace("-", "_") for name in table()[room][1]}
        for module in [f"synod.{room}", *graph.find_descendants(f"synod.{room}")]:
            for imported in graph.find_modules_directly_imported_by(module):
                package = imported.partition(".")[0]
                if package == "synod" or package in sys.stdlib_module_names:
                    continue
                assert package in allowed, f"{module} imports {package}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_entered_by_its_door(room: str) -> None:
    """Cross-room imports take public names from the room itself, never from one of its private modules."""
    for path in modules_of(room):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "synod" and len(parts) > 2 and parts[1] != room:
                    pytest.fail(f"{path.relative_to(ROOT)}:{node.lineno} imports {name}")


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_what_is_public_is_listed_sorted_and_there(room: str) -> None:
    """Each `__init__` has an `__all__`: sorted, without repeats, and every name in it exists."""
    module = importlib.import_module(f"synod.{room}".rstrip("."))
    public = list(module.__all__)
    assert public == sorted(public, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert len(set(public)) == len(public)
    for name in public:
        assert hasattr(module, name), name


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is(room: str) -> None:
    """A reader who opens a room finds what it is for, and every other module of it is private."""
    head = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text()))
    assert head, f"synod.{room} has no docstring"
    for path in modules_of(room):
        assert path.stem.startswith("_") or path in PROGRAMS, path
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)} has no docstring"


def test_importing_one_room_does_not_load_the_others() -> None:
    """`import synod` is cheap: a client process never loads the replica, nor any third-party package."""
    script = (
        "import sys, synod, synod.client, synod.recipes;"
        "print(*sorted(name for name in sys.modules if name.startswith('synod.')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert loaded == {"base", "client", "recipes", "wire"}


def test_the_core_reads_no_set_in_its_own_order() -> None:
    """Replicas must compute the same: nothing in the tree depends on hash(), id() or the locale."""
    for path in modules_of("tree"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"hash", "id"}, f"{path.relative_to(ROOT)}:{node.lineno}"
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"locale", "random", "time"}
