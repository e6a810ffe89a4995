"""docs/FORMATS.md says what the code writes."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from synod.storage import _backup, _segment, _snapshots

TEXT = (Path(__file__).parents[2] / "docs" / "FORMATS.md").read_text()

TABLES = {
    "segment": _segment._SEGMENT.format,
    "fixed": _segment._FIXED.format + _segment._FIXED_CRC.format[1:],
    "row": _segment._ROW.format,
    "snapshot": _snapshots._HEADER.format,
    "backup": _backup._HEADER.format,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_the_formats_are_those_of_the_code(name: str) -> None:
    """Offsets and sizes, row by row, follow from the struct that packs them."""
    table = TEXT.split(f"<!-- table: {name} -->")[1].split("\n\n")[0]
    rows = [(int(offset), int(size)) for offset, size in re.findall(r"^\| (\d+) \| (\d+) \|", table, re.MULTILINE)]
    wanted, at = [], 0
    for field in re.findall(r"\d*[a-zA-Z]", TABLES[name]):
        wanted.append((at, struct.calcsize(">" + field)))
        at += wanted[-1][1]
    assert rows == wanted


def test_the_versions_and_sizes_in_the_text_are_those_of_the_code() -> None:
    """A new version changes the document as well."""
    assert (_segment.FORMAT_VERSION, _snapshots.FORMAT_VERSION, _backup.FORMAT_VERSION) == (1, 1, 1)
    assert TEXT.count("version, 1") == 4
    assert f"{_segment.BLOCK:,}" in TEXT
    assert f"begins with {_segment.HEAD_BYTES_MIN} bytes" in TEXT
    assert f"Only the {_segment.HEAD_ROOM} bytes" in TEXT
