"""Keys to paths: any str or bytes, no two keys at one path, every path one that a cell accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.base import BadArguments
from synod.service import key_name, lock_path
from synod.wire import path_problem

anything = st.one_of(
    st.text(st.characters(exclude_categories=())), st.binary(max_size=400), st.text("./%-", max_size=5)
)


@given(anything)
def test_every_key_has_a_valid_path_of_bounded_length(key):
    """Slashes, dots, nulls, lone surrogates, a megabyte: all are keys, none is an invalid path or another node."""
    path = lock_path(key)
    assert path_problem(path) is None
    assert path.count("/") == 3
    assert len(path) < 300


@given(anything, anything)
def test_different_keys_have_different_names(one, other):
    """No collision: two names are equal only when the keys' bytes are."""

    def raw(key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")

    assert (key_name(one) == key_name(other)) == (raw(one) == raw(other))


def test_text_and_its_bytes_are_the_same_key():
    """Documented: a str is its UTF-8, so that programs which hold a key in different types meet at one lock."""
    assert lock_path("größe") == lock_path("größe".encode()) == "/locks/default/gr%C3%B6%C3%9Fe"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("sku-17", "sku-17"),
        ("", "%"),
        (".", "%2E"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        (b"\x00\xff", "%00%FF"),
    ],
)
def test_names_are_readable_and_fixed(key, name):
    """They stand in cells of users: a change of this table would let two versions hold one key's lock."""
    assert key_name(key) == name


def test_long_keys_end_in_their_digest():
    """Cut where a name would grow too long, and still told apart by what is cut off."""
    one, other = key_name("x" * 5_000), key_name("x" * 4_999 + "y")
    assert one != other
    assert one.startswith("%%xxxx")
    assert key_name("x" * 200) == "x" * 200
    assert len(key_name("x" * 201)) == len(one)


@pytest.mark.parametrize("key", [None, 17, ("a",)])
def test_other_types_are_refused(key):
    """A key of another type has no bytes that two programs would agree on."""
    with pytest.raises(BadArguments, match="str or bytes"):
        lock_path(key)
