"""A child that ends when its parent does, however that ended."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def dying_with_parent(number: int = signal.SIGTERM) -> Callable[[], None]:
    """A `preexec_fn` for a child of this process: the kernel signals the child when this process is gone.

    Called in the parent, because the child cannot tell whether its parent is gone already: whoever adopts it
    may have any process id, and the parent's own may be 1 (in a container).

    Args:
        number: of the signal.

    Ref: prctl(2), PR_SET_PDEATHSIG.
    """
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl

    def ask_the_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(0)

    return ask_the_kernel
