"""minit2i train: a recipe to a checkpoint."""

from __future__ import annotations

import argparse
from typing import Final

from minit2i_deploy.cli.support.options.recipe_options import (
    RecipeOptions,
    add_recipe,
    follow_recipe,
)

_EPILOG: Final = """\
The same command continues an interrupted run. The same recipe gives the same
weights on one machine, interrupted or not. Under torchrun or accelerate
launch all processes share each batch.

examples:
  minit2i train demo --output run
  minit2i train demo --output short steps=2000 batch=32
  minit2i train b16-pretrain --print lr=2e-4
  torchrun --nproc-per-node 8 --no-python minit2i train my.yaml --output run
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Train a model from a recipe, or continue the run in the output folder."
    parser.epilog = _EPILOG
    add_recipe(
        parser,
        "YAML file, or the name of a shipped recipe such as b16-pretrain",
        "a value in place of the recipe's; model.KEY=VALUE for the network's",
    )


def run(options: RecipeOptions) -> None:
    """Train and print the path of the last checkpoint, or print the recipe."""
    from minit2i_deploy.training import train

    follow_recipe(options, train)
