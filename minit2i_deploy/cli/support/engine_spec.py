"""An engine as one argument, RUNTIME[:PROVIDER[:PRECISION]], for commands that take several."""

from __future__ import annotations

import argparse
from typing import Final

FORM: Final = "RUNTIME[:PROVIDER[:PRECISION]]"


def engine_words(options: argparse.Namespace) -> str:
    """The argument for the engine that options of ``add_engine`` ask for."""
    words = [options.runtime, options.provider or "", options.precision or ""]
    return ":".join(words).rstrip(":")


def engine_options(words: str, *, threads: int | None) -> argparse.Namespace:
    """What ``opened_runtime`` takes for an argument; threads count where the runtime has such.

    Raises:
        ValueError: more parts than FORM has.
        UsageError: an unknown runtime; the choices are listed.
    """
    from minit2i_deploy.runtimes import runtime_class

    runtime, *rest = words.split(":")
    if len(rest) > 2:
        raise ValueError(f"{words!r} is not {FORM}")
    provider, precision = [*rest, "", ""][:2]
    return argparse.Namespace(
        runtime=runtime,
        provider=provider or None,
        precision=precision or None,
        threads=threads if "threads" in runtime_class(runtime).options() else None,
    )
