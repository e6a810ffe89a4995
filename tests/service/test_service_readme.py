"""The example that the README shows: a dozen lines that a reader can paste and run."""

from __future__ import annotations

import subprocess
import sys

EXAMPLE = """\
from synod.service import DistributedSystem, Request, fencing_token

stock = {"sku-17": 5}

def reserve(request):
    if request.type == "write":
        stock[request.key] -= request.value
        print("token", fencing_token() > 0)
    return stock[request.key]

with DistributedSystem([reserve, reserve]) as system:
    print(system.process_request(Request("write", "sku-17", 2)).value)
    print(system.process_request(Request("read", "sku-17")).value)
    if lock := system.get_lock("sku-17", timeout=1.0):
        print("locked by token", lock.fencing_token > 0)
        system.release_lock("sku-17")
"""

OUTPUT = "token True\n3\n3\nlocked by token True\n"


def test_the_readme_example_runs_when_pasted(tmp_path):
    """Pasted into an empty directory it runs, says what it should, and ends by itself."""
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, OUTPUT, "")
