"""Each mutant still fits the code and names a killer that is there; `make mutants` shows that it dies."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mutants.run import HERE, ROOT, killer_of


def fits(patch: Path) -> bool:
    return not subprocess.run(["git", "apply", "--check", patch], cwd=ROOT, capture_output=True, check=False).returncode


def test_every_mutant_fits_the_code_and_names_its_killer() -> None:
    """A patch that does not apply any more proves nothing, and nobody notices before all of them are run."""
    patches = sorted(HERE.glob("*.patch"))
    assert len(patches) > 100
    assert [patch.name for patch in patches if not fits(patch)] == []
    killers = {patch.name: killer_of(patch) for patch in patches}
    assert [name for name, killer in killers.items() if killer is None] == []
    gone = []
    for name, killer in killers.items():
        path, _, test = (killer or "").partition("::")
        function = f"def {test.partition('[')[0].rpartition('::')[2]}("
        if not path.startswith("sim ") and not (
            (ROOT / path).exists() and (not test or function in (ROOT / path).read_text())
        ):
            gone.append(name)
    assert gone == []
