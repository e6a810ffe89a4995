"""The check of what must hold: a module of its own, since it is compiled and the errors are not.

It is called some dozen times around every step of the core.
"""

from __future__ import annotations

from ._errors import InvariantViolation


def invariant(holds: bool, fact: str) -> None:
    """Stop at once when a fact that must hold does not.

    Kept in production: a replica that is wrong must not go on answering.

    Raises:
        InvariantViolation: `fact` does not hold.
    """
    if not holds:
        raise InvariantViolation(fact)
