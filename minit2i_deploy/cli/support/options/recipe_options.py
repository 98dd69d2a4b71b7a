"""What train and distill share: a recipe, values in place of its own, and an output folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeOptions:
    """A recipe with overrides, and either a folder to train in or the wish to see the recipe."""

    recipe: Path
    overrides: tuple[str, ...]
    output: Path | None
    print: bool


def add_recipe(parser: argparse.ArgumentParser, recipe: str, overrides: str) -> None:
    """RECIPE, KEY=VALUE, --output and --print, with the help of the first two."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help=recipe)
    # Without a default of its own argparse calls it required.
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", default=[], help=overrides)
    parser.set_defaults(gather="overrides")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="folder for checkpoints, sample grids and the log",
    )
    action.add_argument(
        "--print",
        action="store_true",
        help="print the recipe with every value filled in, as YAML, and do nothing else",
    )


def follow_recipe(
    options: RecipeOptions, train: Callable[[Path, Path, Sequence[str]], Path]
) -> None:
    """Print the recipe, or train and print the path of the last checkpoint."""
    if options.output is None:
        from minit2i_deploy.training import resolved_recipe

        print(resolved_recipe(options.recipe, options.overrides), end="")
        return
    last = train(options.recipe, options.output, options.overrides)
    # torchrun starts this once per device; one of them prints.
    if os.environ.get("RANK", "0") == "0":
        print(last)
