"""Keep a copy of a release, so that later versions are tested against what really ran: `freeze.py [COMMIT]`.

Run it when a version is released, and commit the file that it writes beside itself, synod-VERSION.tar.xz. The tests
of upgrades (tests/server/test_server_upgrade.py) start replicas of the newest one, and upgrade them to the code of the
working tree while clients write. An older one may go once nobody upgrades from it: version N reads what N-1 wrote.

While a version is not released yet its formats may still change, and its copy is made anew: that is what to do when
those tests fail because of it. After the release the copy stays as it is, and the code must be able to live with it.

The same commit gives the same bytes. What a replica does not need (the simulator, the demo, the torment) is left out.
"""

from __future__ import annotations

import io
import lzma
import re
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEFT_OUT = ("sim", "demo", "torment")


def freeze(commit: str) -> Path:
    """Write the copy of a commit; returns where it is."""
    found = subprocess.run(
        ["git", "archive", "--format=tar", commit, "src/synod"], cwd=HERE.parents[1], check=True, capture_output=True
    ).stdout
    out = io.BytesIO()
    version = ""
    with tarfile.open(fileobj=io.BytesIO(found)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for entry in sorted(source.getmembers(), key=lambda entry: entry.name):
            parts = Path(entry.name).parts[1:]
            file = source.extractfile(entry) if entry.isfile() else None
            if file is None or (len(parts) > 2 and parts[1] in LEFT_OUT):
                continue
            data = file.read()
            if parts == ("synod", "__init__.py"):
                match = re.search(rb'^__version__ = "(.+)"', data, re.MULTILINE)
                version = "" if match is None else match.group(1).decode()
            plain = tarfile.TarInfo("/".join(parts))
            plain.size = len(data)
            target.addfile(plain, io.BytesIO(data))
    path = HERE / f"synod-{version}.tar.xz"
    path.write_bytes(lzma.compress(out.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    return path


if __name__ == "__main__":
    print(freeze(sys.argv[1] if len(sys.argv) > 1 else "HEAD"))
