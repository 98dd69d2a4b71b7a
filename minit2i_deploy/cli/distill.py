"""minit2i distill: a base model to a student that paints in a few evaluations."""

from __future__ import annotations

import argparse
from typing import Final

from minit2i_deploy.cli.support.recipe_options import add_recipe, follow

_EPILOG: Final = """\
An interrupted run is continued by the same command, with the same teacher. The
student is exported as any checkpoint is, and runs the tables of solver mean-flow.

examples:
  minit2i distill demo-student --output student
  minit2i distill demo-student --output s distill.teacher=run/step-011500
  minit2i distill demo-student-finish --output f start_from=student/step-005000
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Distil a base model to a few-step student from a recipe: by Mean Flow, or on the base "
        "model's own trajectories."
    )
    parser.epilog = _EPILOG
    add_recipe(
        parser,
        "YAML file with distill, or the name of a shipped one: b16-distill, demo-student, "
        "demo-student-finish",
        "values in place of the recipe's; distill.KEY=VALUE for the distillation's",
    )


def run(options: argparse.Namespace) -> None:
    """Distil and name the last checkpoint, or print the recipe."""
    from minit2i_deploy.training import distill

    follow(options, distill)
