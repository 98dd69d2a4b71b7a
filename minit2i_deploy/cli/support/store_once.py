"""Options with one value, refused if they come twice: the last one would win silently."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class StoreOnce(argparse._StoreAction):
    """argparse's default action for options and positional arguments, with that check."""

    _namespace: argparse.Namespace | None = None

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the value, or raise the parser's error."""
        # Every parse has a namespace of its own, so one parser may parse several command lines.
        if option_string is not None and self._namespace is namespace:
            parser.error(f"{option_string} is given twice; give it once")
        self._namespace = namespace
        super().__call__(parser, namespace, values, option_string)
