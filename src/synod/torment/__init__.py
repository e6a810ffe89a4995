"""Real processes, real faults, and a judge: `synod torment`.

It starts a cell of real replicas in a network of its own, lets clients work, kills, stops, cuts off, delays and
starves replicas as a seed says, heals everything, and holds the recorded history against what the cell promises.

Read `_run` first: one run from empty directory to verdict. `_plan` is what goes wrong and when, `_nemesis` does it to
the `_processes` and the `_network`, which is a proxy (`_wires`) or namespaces (`_spaces`); `_clocked` gives a process
clocks of its own. `_load` is what the clients do, `_history` what they write down, `_judge` the verdict (with the
judges of histories that the simulator has as well), `_report` what is printed. The judge knows only the history: `synod torment --check FILE`
judges it again.
"""

from __future__ import annotations

from ._history import History, Record, Recorded, read_history
from ._judge import Finding, Verdict, judge
from ._network import CLIENTS, Network, Place
from ._plan import FAULTS, Planned, draw_plan
from ._run import Options, command
from ._spaces import Spaces, spaces_possible
from ._wires import Wires

__all__ = [
    "CLIENTS",
    "FAULTS",
    "Finding",
    "History",
    "Network",
    "Options",
    "Place",
    "Planned",
    "Record",
    "Recorded",
    "Spaces",
    "Verdict",
    "Wires",
    "command",
    "draw_plan",
    "judge",
    "read_history",
    "spaces_possible",
]
