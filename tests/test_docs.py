"""The documents say what is true: examples run, links lead somewhere, tests that are cited exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import synod
from synod.torment import FAULTS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link is a file of this repository."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_what_is_cited_exists(document: Path) -> None:
    """A promise that names its test names one that is there; the same for mutants and for commands of make."""
    text = document.read_text()
    for path, name in re.findall(r"`(tests/[\w./]+?)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        if name:
            assert re.search(rf"def {name}\(", (ROOT / path).read_text()), f"{path}::{name}"
    for mutants in re.findall(r"mutants? ((?:`[\w-]+`(?:, )?)+)", text):
        for mutant in re.findall(r"`([\w-]+)`", mutants):
            assert (ROOT / "tests" / "mutants" / f"{mutant}.patch").exists(), mutant
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize(("document", "rows"), [("GUARANTEES.md", 40), ("BUGS_OF_OTHERS.md", 26)])
def test_every_row_names_its_tests_and_mutants(document: str, rows: int) -> None:
    """Each failure has a test that shows its promise, and a bug made on purpose that the test finds."""
    text = (ROOT / "docs" / document).read_text()
    table = [line for line in text.splitlines() if re.match(r"\| (?!when |the bug )", line)]
    assert len(table) >= rows
    assert [row for row in table if "`tests/" not in row] == []
    assert [row for row in table if not re.search(r"mutants? `[\w-]+", row)] == []


def test_the_example_of_the_tree_runs(tmp_path: Path) -> None:
    """The block with connect, pasted, against a cell that is really there."""
    [example] = [block for block in blocks("python") if "synod.connect" in block]
    with synod.local() as cell:
        script = tmp_path / "example.py"
        script.write_text(re.sub(r'connect\("[^"]*"\)', f'connect("{cell.hosts}")', example))
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'v2'\nTrue\na\n", "")


def test_every_command_of_the_readme_exists() -> None:
    """Each `synod COMMAND` in a shell block has a help text, and each option it shows is in there."""
    lines = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    commands = [words for words in lines if words[:1] == ["synod"]]
    assert len(commands) >= 4
    for _, command, *rest in commands:
        shown = subprocess.run(
            [sys.executable, "-m", "synod", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert "Example:" in shown
        for option in [word for word in rest[: rest.index("--") if "--" in rest else None] if word.startswith("-")]:
            assert option in shown


def test_every_fault_of_torment_is_in_its_document() -> None:
    """The table of docs/TORMENT.md is the code's."""
    text = (ROOT / "docs" / "TORMENT.md").read_text()
    assert dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", text, flags=re.MULTILINE)) == dict(FAULTS)


def test_the_readme_begins_with_two_commands() -> None:
    """A fresh machine: what to install, what runs the main job, what passes the tests."""
    assert README.splitlines()[0].startswith("On a fresh Debian machine: `apt-get install python3 ")
    assert [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()] == ["make demo", "make test"]
