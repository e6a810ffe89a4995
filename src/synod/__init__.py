"""synod: consensus, fenced locks and balanced requests for Python services on several machines."""

from __future__ import annotations

__version__ = "0.1.0"
