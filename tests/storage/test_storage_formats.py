"""docs/FORMATS.md says what the code writes."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.base import Ballot, Entry
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


NUMBERS = st.integers(0, 2**63)
BALLOTS = st.builds(Ballot, NUMBERS, st.integers(0, 255))
SIZES = st.sampled_from((0, 1, 3, 4, 5, 100, 507, 508, 512, 513, 4000, 9000))
VALUES = st.builds(lambda first, size: bytes((first + k) % 251 for k in range(size)), st.integers(0, 250), SIZES)
ENTRIES = st.lists(st.builds(Entry, NUMBERS, BALLOTS, VALUES), max_size=30)


def plain_group(nonce: bytes, offset: int, fields: list[tuple[int, int]], entries: list[Entry], peers: bytes) -> bytes:
    """A group as the document says, a byte at a time where that is the easiest.

    Args:
        fields: number and size of what the head begins with, up to the chosen mark.
    """
    tag = hashlib.blake2b(nonce, digest_size=4, person=b"synod tag").digest()

    def sum_of(data: bytes) -> bytes:
        return crc32(nonce + offset.to_bytes(8, "big") + data).to_bytes(4, "big")

    def padded(data: bytes, to: int) -> bytes:
        return data + bytes(-len(data) % to)

    body = bytearray(padded(b"".join(entry.value for entry in entries), 512))
    displaced = b""
    for sector in range(0, len(body), 512):
        displaced += body[sector : sector + 4]
        body[sector : sector + 4] = tag
    rest = b""
    for slot, ballot, value in entries:
        key = slot.to_bytes(8, "big") + ballot.round.to_bytes(8, "big") + bytes([ballot.replica])
        rest += key + len(value).to_bytes(4, "big") + sum_of(key + value)
    rest += peers + displaced
    counts = (61 + len(rest), sum(len(entry.value) for entry in entries), len(entries), len(peers))
    fixed = b"".join(number.to_bytes(size, "big") for number, size in (*fields, *((count, 4) for count in counts)))
    fixed += sum_of(rest)
    head = fixed + sum_of(fixed) + rest
    sectors = [tag + padded(head[at : at + 508], 508) for at in range(0, len(head), 508)]
    return padded(b"".join(sectors) + body, 4096)


@given(
    st.binary(min_size=8, max_size=8),
    st.integers(1, 1000),
    st.tuples(NUMBERS, NUMBERS, st.integers(0, 2**32 - 1), BALLOTS, NUMBERS),
    ENTRIES,
    st.binary(max_size=1200),
)
def test_the_bytes_of_a_group_are_those_of_the_document(
    nonce: bytes, block: int, numbers: tuple[int, int, int, Ballot, int], entries: list[Entry], peers: bytes
) -> None:
    """Whatever the sizes; and each value is found where its row says."""
    offset = block * _segment.BLOCK
    header = _segment.SegmentHeader(1, b"c" * 16, 2, 1, nonce, Ballot(1, 1), 1 << 24, 0, b"d" * 16)
    number, durable, previous, promised, mark = numbers
    buffer, crc, rows = _segment.encode_group(
        header,
        offset,
        number=number,
        durable_before=durable,
        previous_crc=previous,
        promised=promised,
        chosen_mark=mark,
        entries=entries,
        peers=peers,
    )
    data = bytes(buffer)
    fields = [(number, 8), (durable, 8), (previous, 4), (promised.round, 8), (promised.replica, 1), (mark, 8)]
    assert data == plain_group(nonce, offset, fields, entries, peers)
    assert crc.to_bytes(4, "big") == data[61:65]
    assert [_segment.extract(header, data, offset, row) for row in rows] == [entry.value for entry in entries]
