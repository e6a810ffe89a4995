"""The example that the README shows: a dozen lines that a reader can paste and run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent.parent / "README.md"
[EXAMPLE] = [
    block
    for block in re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    if "DistributedSystem" in block
]
OUTPUT = "token True\n3\n3\nlocked by token True\n"


def test_the_readme_example_runs_when_pasted(tmp_path):
    """Pasted into an empty directory it runs, says what it should, and ends by itself."""
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, OUTPUT, "")
