"""What an instance says of itself in the cell: one ephemeral znode below `/services/NAME/`, a JSON object.

    {"address": "http://10.0.0.7:8000", "weight": 100, "zone": "a"}

Weight 0 means that it drains. Unknown members are left alone, so that a later version may say more.
"""

from __future__ import annotations

import json
from typing import Final

from synod.balance import WEIGHT_DEFAULT, Endpoint
from synod.base import BadArguments, UserError

SERVICES: Final = "/services"


def service_path(service: str) -> str:
    """Where the instances of a service are registered.

    Raises:
        UserError: that is no name for a service.
    """
    if not service or service.strip(".") == "" or not service.isprintable() or "/" in service:
        raise UserError(f"{service!r} is no name for a service: use letters, digits, dots and dashes")
    return f"{SERVICES}/{service}"


def encode_entry(endpoint: Endpoint) -> bytes:
    """The value of an instance's znode."""
    entry = {"address": endpoint.address, "weight": endpoint.weight, "zone": endpoint.zone}
    return json.dumps(entry, separators=(",", ":")).encode()


def decode_entry(name: str, value: bytes) -> Endpoint | None:
    """The endpoint that a znode describes, or None when it describes none: one bad entry must not hide the others."""
    try:
        entry = json.loads(value)
        return Endpoint(
            name, str(entry["address"]), int(entry.get("weight", WEIGHT_DEFAULT)), str(entry.get("zone", ""))
        )
    except (ValueError, KeyError, TypeError, AttributeError, BadArguments):
        return None
