"""`synod serve`, run without what the other commands need.

What reads their options brings along a validator, and together they take eight MiB of every replica for good, and a
tenth of a second of every start. So the plain forms of this one command are read here; whatever is unusual
(`--help`, a mistake) goes the ordinary way.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from ._output import reported


def plain(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """CONFIG and the settings of `serve CONFIG [--set KEY=VALUE]...`, in any order; None when it is anything else."""
    if not words or words[0] != "serve":
        return None
    configs: list[str] = []
    settings: list[str] = []
    rest = iter(words[1:])
    for word in rest:
        if word == "--set":
            setting = next(rest, None)
            if setting is None:
                return None
            settings.append(setting)
        elif word.startswith("--set="):
            settings.append(word.removeprefix("--set="))
        elif word.startswith("-"):
            return None
        else:
            configs.append(word)
    return (configs[0], settings) if len(configs) == 1 else None


def serve(config: str, settings: Sequence[str]) -> NoReturn:
    """Run one replica in the foreground, until SIGTERM."""
    with reported():
        from synod.server import load_config
        from synod.server import serve as run

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
        raise SystemExit(run(load_config(config, settings)))
    raise AssertionError("`reported` lets nothing pass that is no exit")
