"""Presets: solvers and steps that a bundle offers by name (docs/reference/sampling.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from minit2i_deploy.bundle.flavours import NOISE_SCALE
from minit2i_deploy.bundle.manifest import Flavour
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW, StudentSettings
from minit2i_deploy.solvers.methods import find_solver
from minit2i_deploy.solvers.repeats import NO_REPEATS, Repeats
from minit2i_deploy.solvers.table import Table, solver_table

REFERENCE: Final = "reference"
BALANCED: Final = "balanced"
FAST: Final = "fast"
INPAINT: Final = "inpaint"
INPAINT_FAST: Final = "inpaint-fast"


@dataclass(frozen=True, kw_only=True, slots=True)
class PresetTable:
    """What a preset's table is compiled from.

    Args:
        solver: a name in ``solvers.SOLVERS``.
        steps: of the solver.
        shift: of the time grid; None is uniform.
        guided: times between which guidance applies; None is everywhere.
        repeats: stretches that are run several times.
    """

    solver: str
    steps: int
    shift: float | None = None
    guided: tuple[float, float] | None = None
    repeats: Repeats = NO_REPEATS

    def compile(self, a_min: float, conditions: StudentSettings) -> Table:
        """The table under a floor and, for a few-step student, its conditions."""
        table = solver_table(
            self.solver,
            steps=self.steps,
            grid="uniform" if self.shift is None else "shifted",
            shift=self.shift,
            a_min=a_min if find_solver(self.solver).divides else None,
            repeats=replace(self.repeats, noise_scale=NOISE_SCALE),
            **conditions,
        )
        return table if self.guided is None else adjust_guidance(table, interval=self.guided)


# Selected with the quality meter on the shipped model: 80 and 40 evaluations with guidance, both
# ending on the network's estimate, against 200 of the official 100 Euler steps.
_FEWER_EVALUATIONS: Final = {
    BALANCED: PresetTable(solver="dpmpp2m", steps=40),
    FAST: PresetTable(solver="ab2", steps=20),
}

# 32 and 16 evaluations. Not selected with an adapter: with two branches, twelve rows of this grid
# score what ``fast`` does (docs/measurements/sampling.md), and a row costs half here.
_ONE_PASS: Final = {
    BALANCED: PresetTable(solver="ab2", steps=32),
    FAST: PresetTable(solver="ab2", steps=16, shift=2.0),
}


# Selected with the editing meter (docs/measurements/editing.md).
_EDITING: Final = {
    INPAINT: PresetTable(
        solver="dpmpp2m", steps=8, shift=2.0, repeats=Repeats(count=10, interval=(0.2, 1.0))
    ),
    INPAINT_FAST: PresetTable(
        solver="dpmpp2m", steps=8, shift=2.0, repeats=Repeats(count=5, interval=(0.2, 1.0))
    ),
}


def presets_of(flavour: Flavour, *, one_pass: bool = False) -> dict[str, PresetTable]:
    """Preset name -> table; the official run of the flavour comes first.

    Args:
        flavour: of the bundle.
        one_pass: whether its weights give the guided estimate in one branch.
    """
    if flavour.name == MEAN_FLOW:
        return {REFERENCE: PresetTable(solver=MEAN_FLOW, steps=flavour.steps)}
    reference = PresetTable(solver="euler", steps=flavour.steps)
    fewer = _ONE_PASS if one_pass else _FEWER_EVALUATIONS
    return {REFERENCE: reference, **fewer, **_EDITING}


def default_preset(presets: Mapping[str, object]) -> str:
    """The preset that is used without a choice: balanced where there is one, else reference."""
    return BALANCED if BALANCED in presets else REFERENCE
