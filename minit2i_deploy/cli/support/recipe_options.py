"""Arguments of the commands that follow a recipe, train and distill, and what both do with them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path


def add_recipe(parser: argparse.ArgumentParser, recipe: str, overrides: str) -> None:
    """RECIPE, KEY=VALUE, --output and --print, with the help of the first two."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help=recipe)
    # Without a default of its own argparse calls it required.
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help=overrides)
    parser.set_defaults(gather="overrides")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="folder for checkpoints, sample grids and the log",
    )
    what.add_argument(
        "--print",
        dest="show",
        action="store_true",
        help="print the recipe with every value filled in, as YAML, and do nothing else",
    )


def follow(
    options: argparse.Namespace, command: Callable[[Path, Path, Sequence[str]], Path]
) -> None:
    """Print the recipe, or train and name the last checkpoint."""
    if options.show:
        from minit2i_deploy.training import resolved_recipe

        print(resolved_recipe(options.recipe, options.overrides), end="")
        return
    last = command(options.recipe, options.output, options.overrides)
    # torchrun starts this once for each device; one of them speaks.
    if os.environ.get("RANK", "0") == "0":
        print(last)
