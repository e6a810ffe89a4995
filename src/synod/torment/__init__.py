"""Real processes, real faults, and a judge: `synod torment`.

It starts a cell of real replicas behind a TCP proxy of its own, lets clients work, kills, stops, cuts off, delays and
starves replicas as a seed says, heals everything, and holds the recorded history against what the cell promises.

Read `_run` first: one run from empty directory to verdict. `_plan` is what goes wrong and when, `_nemesis` does it,
`_wires` is the proxy, `_load` what the clients do, `_history` what they write down, `_judge` the verdict (with
the judges of histories that the simulator has as well). The judge knows only the history: `synod torment --check FILE` judges it again.
"""

from __future__ import annotations

from ._history import History, Record, read_history
from ._judge import Finding, Verdict, judge
from ._plan import FAULTS, Planned, draw_plan
from ._run import Options, command
from ._wires import CLIENTS, Wires

__all__ = [
    "CLIENTS",
    "FAULTS",
    "Finding",
    "History",
    "Options",
    "Planned",
    "Record",
    "Verdict",
    "Wires",
    "command",
    "draw_plan",
    "judge",
    "read_history",
]
