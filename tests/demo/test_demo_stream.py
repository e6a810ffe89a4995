"""The stream of the demo: what is taken, and what is refused before anything is started."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from synod.base import UserError
from synod.demo import run
from synod.demo._stream import Wanted, generate, parse_stream

WRITE = b'{"id": "r-1", "type": "write", "key": "sku-17", "op": "reserve", "quantity": 2}'
READ = b'{"id": "r-2", "type": "read", "key": "sku-17"}'


def test_a_stream_of_json_lines_is_taken_in_order() -> None:
    """Writes carry their change, reads none, empty lines are skipped."""
    assert parse_stream([WRITE, b"", READ], "x") == [
        Wanted("r-1", "write", "sku-17", "reserve", 2),
        Wanted("r-2", "read", "sku-17"),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"id": "r-9", "type": "wr', "it is not JSON"),
        (b"[" * 60_000, "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b'{"type": "read", "key": "k"}', "its id is not a text"),
        (b'{"id": "r", "type": "read"}', "its key is not a text"),
        (b'{"id": "r", "type": "delete", "key": "k"}', 'its type is neither "write" nor "read"'),
        (b'{"id": "r", "type": "write", "key": "k", "op": "steal", "quantity": 1}', "its op is neither"),
        (b'{"id": "r", "type": "write", "key": "k", "op": "restock", "quantity": 0}', "its quantity is not"),
        (b'{"id": "r", "type": "write", "key": "k", "op": "restock", "quantity": true}', "its quantity is not"),
        (b'{"id": "r-1", "type": "read", "key": "other"}', "gives the id 'r-1' of line 1 to another request"),
        (b'{"id": "r", "type": "read", "key": ".."}', "its key is '..', which no URL can carry"),
        (b'{"id": "r", "type": "read", "key": "\\ud800"}', "its key holds half of a surrogate pair"),
        (b'{"id": "\\udfff", "type": "read", "key": "k"}', "its id holds half of a surrogate pair"),
        (b'{"id": "r", "type": "read", "key": "\xff"}', "it is not JSON"),
        (b'{"id": "' + b"r" * 70_000 + b'"}', "it has more than 65536 bytes"),
    ],
)
def test_a_broken_line_is_named(line: bytes, why: str) -> None:
    """One sentence with the number of the line, what is wrong, and that nothing was sent."""
    with pytest.raises(UserError) as caught:
        parse_stream([WRITE, line, READ], "the file")
    assert "line 2 of the file" in str(caught.value)
    assert why in str(caught.value)
    assert "nothing was sent" in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_stream_is_refused(tmp_path: Path, text: str) -> None:
    """A stream without a request would prove nothing."""
    path = tmp_path / "requests.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="holds no request; nothing was started"):
        run(requests=str(path))


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    """One sentence, before anything is started."""
    with pytest.raises(UserError, match="cannot be read: No such file or directory; nothing was started"):
        run(requests=str(tmp_path / "nowhere"))


def test_the_generated_stream_is_what_the_demo_promises() -> None:
    """20,000 requests over 500 keys, skewed, a third of them writes; equal for equal seeds."""
    stream = generate()
    assert len(stream) == 20_000
    assert stream == generate()
    assert stream != generate(seed=1)
    keys = Counter(wanted.key for wanted in stream)
    assert 490 <= len(keys) <= 500, "the rarest may have no luck"
    assert sum(count for _, count in keys.most_common(50)) > len(stream) / 2, "skewed"
    writes = sum(wanted.type == "write" for wanted in stream)
    assert abs(writes / len(stream) - 1 / 3) < 0.02
    as_lines = [
        json.dumps({"id": w.id, "type": w.type, "key": w.key, "op": w.op, "quantity": w.quantity}).encode()
        for w in stream[:100]
    ]
    assert parse_stream(as_lines, "x") == stream[:100]
