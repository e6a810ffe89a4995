"""How a slot's value that changes the members is told from a batch: compiled, since each room asks it of every slot."""

from __future__ import annotations

from typing import Final

CHANGE_MARK: Final = 0xFE
"""The first byte of a change, and of no batch: a batch begins with the version of its layout."""


def is_change(value: bytes) -> bool:
    """Whether a slot's value changes the members."""
    return len(value) > 0 and value[0] == CHANGE_MARK
