"""Arguments of the commands that follow a recipe: train and distill."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_recipe(parser: argparse.ArgumentParser, recipe: str, overrides: str) -> None:
    """RECIPE, KEY=VALUE and --output, with the help of the first two."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help=recipe)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=overrides)
    parser.set_defaults(gather="overrides")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for checkpoints, sample grids and the log",
    )
