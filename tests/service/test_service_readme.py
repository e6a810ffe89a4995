"""The example that the README shows: a dozen lines that a reader can paste and run."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx2
import pytest

from synod.service import KeyedRequests, Registration, Transport

README = Path(__file__).parent.parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
[EXAMPLE] = [block for block in BLOCKS if "DistributedSystem" in block]
[FRAGMENT] = [block for block in BLOCKS if "KeyedRequests" in block]
OUTPUT = "token True\n3\n3\nlocked by token True\n"


def test_the_readme_example_runs_when_pasted(tmp_path):
    """Pasted into an empty directory it runs, says what it should, and ends by itself."""
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, OUTPUT, "")


async def test_the_readme_fragment_of_an_http_service_is_right(cell):
    """What it calls takes those arguments; its instance is gone again when the client asks, and that is what it hears."""
    names = {"KeyedRequests": KeyedRequests, "Registration": Registration, "Transport": Transport, "httpx2": httpx2}
    names |= {"app": object(), "cell": cell}
    address = re.sub(r"http://10[.\d]+:\d+", "http://127.0.0.1:9", FRAGMENT)
    exec("async def run(app):\n" + textwrap.indent(address, "    "), names)
    with pytest.raises(httpx2.ConnectError, match="inventory"):
        await names["run"](names["app"])
