"""Presets: solvers and steps that a bundle offers by name (docs/reference/sampling.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from minit2i_deploy.bundle.manifest import Flavour
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW

REFERENCE: Final = "reference"
BALANCED: Final = "balanced"
FAST: Final = "fast"

# Selected with the quality meter on the shipped model: 80 and 40 evaluations with guidance, both
# ending on the network's estimate, against 200 of the official 100 Euler steps.
_FEWER_EVALUATIONS: Final = {BALANCED: ("dpmpp2m", 40), FAST: ("ab2", 20)}


def presets_of(flavour: Flavour) -> dict[str, tuple[str, int]]:
    """Preset name -> solver and steps; the official run of the flavour comes first.

    A few-step student has only the official one.
    """
    if flavour.name == MEAN_FLOW:
        return {REFERENCE: (MEAN_FLOW, flavour.steps)}
    return {REFERENCE: ("euler", flavour.steps), **_FEWER_EVALUATIONS}


def default_preset(presets: Mapping[str, object]) -> str:
    """The preset that is used without a choice: balanced where there is one, else reference."""
    return BALANCED if BALANCED in presets else REFERENCE
