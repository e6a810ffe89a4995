"""What the commands print, and how they end.

Exit codes: 0 done; 1 refused by the cell; 2 the user's mistake; 3 unavailable or outcome unknown; 130
interrupted. Errors are one sentence on stderr. With --json, stdout holds machine-readable output and nothing
else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from synod.base import (
    BadArguments,
    InvariantViolation,
    LocalProtocolError,
    NotApplied,
    OutcomeUnknown,
    SynodError,
    UserError,
)

DONE: Final = 0
REFUSED: Final = 1
USER: Final = 2
UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130


def exit_code(error: BaseException) -> int:
    """The exit code that stands for an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, (UserError, BadArguments, LocalProtocolError)):
        # A path or a value that no cell would take is a mistake of the one who typed it, whoever noticed.
        return USER
    if isinstance(error, OutcomeUnknown):
        return UNAVAILABLE
    if isinstance(error, NotApplied):
        # Code -1: nothing was reached, so nobody refused.
        return UNAVAILABLE if error.code == -1 else REFUSED
    return UNAVAILABLE


def complain(text: str) -> None:
    """One sentence on stderr, in red on a terminal."""
    text = f"\x1b[31msynod:\x1b[0m {text}" if sys.stderr.isatty() else f"synod: {text}"
    sys.stderr.write(text + "\n")


@contextmanager
def reported() -> Iterator[None]:
    """Turn what goes wrong into a sentence and an exit code; never a traceback for a user's mistake."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        raise SystemExit(INTERRUPTED) from None
    except SynodError as error:
        complain(str(error))
        raise SystemExit(exit_code(error)) from None
    except InvariantViolation as error:
        complain(f"a bug in synod: {error}; the command was stopped")
        raise SystemExit(UNAVAILABLE) from error
    except BrokenPipeError:
        raise SystemExit(DONE) from None


def print_json(document: object) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
