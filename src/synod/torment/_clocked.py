"""A process with clocks of its own: `python _clocked.py CLOCK ARGUMENTS...` is `synod ARGUMENTS...` with them.

Nobody can set the clock of one process, and the replica's code shall have no door for it. But all that it knows of
time comes from the module `time`: this takes its place before anything of the replica is loaded. The file CLOCK holds
three numbers: what the wall clock shows more than the machine's, in nanoseconds, looked at each time; from where the
monotonic clock counts, in nanoseconds, as if the machine had been started then; and how fast that one runs, in
millionths. Timers are the kernel's and run as ever, so the two disagree a little, as on a machine that is adjusted.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Final

LAYOUT: Final = struct.Struct("<qqq")
"""Wall offset, monotonic epoch, monotonic rate."""

MILLION: Final = 1_000_000


def write_clock(path: Path, *, wall_ns: int, epoch_ns: int, rate: int) -> None:
    """Set the clocks; only the wall clock is looked at again by a process that runs."""
    data = LAYOUT.pack(wall_ns, epoch_ns, rate)
    if path.exists():
        with path.open("r+b") as file:
            file.write(data)  # in place: it is mapped
    else:
        path.write_bytes(data)


def take_over(path: Path) -> None:
    """Put these clocks in the place of the machine's."""
    with path.open("rb") as file:
        clock = mmap.mmap(file.fileno(), LAYOUT.size, access=mmap.ACCESS_READ)
    _, epoch, rate = LAYOUT.unpack_from(clock)
    wall_ns, monotonic_ns = time.time_ns, time.monotonic_ns
    began = monotonic_ns()

    def own_time_ns() -> int:
        (offset,) = struct.unpack_from("<q", clock)
        return wall_ns() + int(offset)

    def own_monotonic_ns() -> int:
        return int(epoch + (monotonic_ns() - began) * rate // MILLION)

    time.time_ns = own_time_ns
    time.time = lambda: own_time_ns() / 1e9
    time.monotonic_ns = own_monotonic_ns
    time.monotonic = lambda: own_monotonic_ns() / 1e9


if __name__ == "__main__":
    take_over(Path(sys.argv[1]))
    del sys.argv[1]
    from synod.cli import main

    main()
