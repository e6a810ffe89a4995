"""`python -m synod`: the same as the `synod` command."""

from __future__ import annotations

from synod.cli import main

main()
