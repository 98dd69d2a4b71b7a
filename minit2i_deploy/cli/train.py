"""minit2i train: a recipe to a checkpoint."""

from __future__ import annotations

import argparse
from typing import Final

from minit2i_deploy.cli.recipe_options import add_recipe

_EPILOG: Final = """\
An interrupted run is continued by the same command. The same recipe gives the
same weights on one machine, interrupted or not.

examples:
  minit2i train training/recipes/demo.yaml --output run
  minit2i train training/recipes/demo.yaml --output short steps=2000 batch=32
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Train a model from a recipe, or continue the run in the output folder."
    parser.epilog = _EPILOG
    add_recipe(
        parser,
        "YAML file",
        "values in place of the recipe's; model.KEY=VALUE for the network's",
    )


def run(options: argparse.Namespace) -> None:
    """Train and name the last checkpoint."""
    from minit2i_deploy.training import train

    print(train(options.recipe, options.output, options.overrides))
