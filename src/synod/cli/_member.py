"""`synod member`: who belongs to the cell. Each command waits until it is done, and changes one member at most."""

from __future__ import annotations

import sys
from typing import Any, Final

from synod.base import OutcomeUnknown

from ._operator import find_leader, operate
from ._output import print_json
from ._status import overdue_ms, silent_for

LEADERS_ASKED_MAX: Final = 5
"""A leader that is to go hands over, and others may take the lead for reasons of their own; rarely so often."""


def change(hosts: str, action: str, document: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Ask the leader for a change; when it hands over, being the one to go, or has lost the lead, ask the next one.

    Raises:
        UserError: it is a mistake; nothing was changed.
        RefusedByCell: the cell does not allow it; nothing was changed.
        OutcomeUnknown: it may or may not have happened.
    """
    for _ in range(LEADERS_ASKED_MAX):
        answer = operate(find_leader(hosts, timeout).http, action, document, timeout)
        if "members" in answer:
            return answer
        sys.stderr.write(f"replica {answer['leader']} leads in place of replica {answer['from']}, and is asked\n")
    raise OutcomeUnknown("another replica led whenever the leader was asked; nothing was changed, try again later")


def show_members(answer: dict[str, Any], *, as_json: bool) -> None:
    """Print the members as a table, or everything as JSON."""
    if as_json:
        print_json(answer)
        return
    titles = ["id", "role", "incarnation", "address", "connected", "slots behind"]
    rows = [titles]
    for member in answer["members"]:
        role = f"{member['role']}, leads" if member["id"] == answer["leader"] else member["role"]
        lag = "" if member["lag"] is None else str(member["lag"])
        connected = _connected(member, answer)
        rows.append([str(member["id"]), role, str(member["incarnation"]), member["address"], connected, lag])
    widths = [max(len(row[k]) for row in rows) for k in range(len(titles))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _connected(member: dict[str, Any], answer: dict[str, Any]) -> str:
    """Whether a member is there: the connection of one that hangs, or whose network is gone, stands for long."""
    if not member["connected"]:
        return "no"
    silent_ms = overdue_ms(member, answer)
    return silent_for(silent_ms) if silent_ms else "yes"


def show_config(answer: dict[str, Any], *, as_json: bool) -> None:
    """Print the config of a replica that joins, ready to be saved, and what is to be done with it."""
    if as_json:
        print_json(answer)
        return
    id_ = answer["id"]
    name = f"replica-{id_}.toml"
    print(
        f"# The config of replica {id_}. Save it as {name} on its machine, where its data_dir does not exist yet; then:"
    )
    print(f"#   synod format {name}")
    print(f"#   synod serve {name}")
    print(f"# It is a learner until `synod member promote {id_}`; an observer stays one.")
    print(answer["config"], end="")
