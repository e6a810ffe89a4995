"""`synod serve` is read without what the other commands need: a replica would keep it in memory for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from synod.cli._serve import plain


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("serve a.toml", ("a.toml", [])),
        ("serve a.toml --set x=1 --set=y=2", ("a.toml", ["x=1", "y=2"])),
        ("serve --set x=1 a.toml", ("a.toml", ["x=1"])),
        ("serve", None),
        ("serve a.toml b.toml", None),
        ("serve a.toml --set", None),
        ("serve a.toml --help", None),
        ("serve a.toml -h", None),
        ("up a.toml", None),
        ("", None),
    ],
)
def test_only_the_plain_forms_are_read_here(words: str, found: tuple[str, list[str]] | None) -> None:
    """Whatever else was typed, the ordinary way has the words for it."""
    assert plain(words.split()) == found


def test_a_replica_loads_nothing_that_reads_options() -> None:
    """And its mistakes end as those of every command do: with one sentence and code 2."""
    code = "import sys, synod.cli\ntry:\n synod.cli.main()\nfinally:\n print({'typer', 'pydantic'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "/nowhere/at-all.toml"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert done.stderr.startswith("synod: ")
    assert done.stderr.count("\n") == 1
