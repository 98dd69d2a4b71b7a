"""minit2i distill: a base model to a student that needs a few evaluations."""

from __future__ import annotations

import argparse
from typing import Final

from minit2i_deploy.cli.support.options.recipe_options import (
    RecipeOptions,
    add_recipe,
    follow_recipe,
)

_EPILOG: Final = """\
The same command continues an interrupted run, with the same teacher. The
student is exported as any checkpoint is, and runs the tables of solver mean-flow.

examples:
  minit2i distill demo-student --output student
  minit2i distill demo-student --output s distill.teacher=run/step-011500
  minit2i distill demo-student-finish --output f start_from=student/step-005000
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Distill a base model into a few-step student from a recipe: by Mean Flow, or on the base "
        "model's own trajectories."
    )
    parser.epilog = _EPILOG
    add_recipe(
        parser,
        "YAML file with a section distill, or a shipped recipe: b16-distill, demo-student, "
        "demo-student-finish",
        "a value in place of the recipe's; distill.KEY=VALUE for the distillation's",
    )


def run(options: RecipeOptions) -> None:
    """Distill and print the path of the last checkpoint, or print the recipe."""
    from minit2i_deploy.training import distill

    follow_recipe(options, distill)
