"""Which paths are paths. Ref: Apache ZooKeeper 3.8, `PathUtils.validatePath`."""

from __future__ import annotations

from synod.base import BadArguments


def path_problem(path: str, *, sequential: bool = False) -> str | None:
    """What is wrong with a path, or None.

    Args:
        path: absolute, `/`-separated.
        sequential: the server will append a number, so that a trailing slash is no problem.
    """
    if sequential:
        path += "1"
    if not path:
        return "a path is not empty"
    if path[0] != "/":
        return "a path begins with a slash"
    if path == "/":
        return None
    if path[-1] == "/":
        return "a path does not end with a slash"
    for part in path[1:].split("/"):
        if not part:
            return "a path has no empty names"
        if part in (".", ".."):
            return "a path has no relative names"
    if not path.isprintable() or not path.isascii():
        return _character_problem(path)
    return None


def _character_problem(path: str) -> str | None:
    for character in path:
        # Java looks at UTF-16 units: what lies past the basic plane is a pair of surrogates to it.
        if (
            character <= "\u001f"
            or "\u007f" <= character <= "\u009f"
            or "\ud800" <= character <= "\uf8ff"
            or character >= "\ufff0"
        ):
            return f"a path does not hold the character U+{ord(character):04X}"
    return None


def validate_path(path: str, *, sequential: bool = False) -> None:
    """Refuse what cannot name a znode.

    Raises:
        BadArguments: the sentence says what is wrong; nothing was sent.
    """
    problem = path_problem(path, sequential=sequential)
    if problem is not None:
        raise BadArguments(f"{problem}: {path!r}; nothing was sent, correct the path")
