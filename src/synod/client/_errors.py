"""The one error that only a client can raise."""

from __future__ import annotations

from synod.base import NotApplied


class Unavailable(NotApplied):
    """Definite: no replica could be reached in time, so nothing was sent (or only a read was): try later."""
