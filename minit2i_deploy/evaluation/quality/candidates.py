"""What the meter compares: tables with a guidance scale, and the words that name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.methods import solver_points
from minit2i_deploy.solvers.table import Table

TABLE_SPEC: Final = "a table of the bundle, a .json file, or SOLVER:STEPS[:shift=S][:a_min=A|land]"
_LAND: Final = "land"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A table at one guidance scale; ``name`` stands for it in reports."""

    name: str
    table: Table
    guidance: float

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the denoiser a picture costs: branches, summed over the rows."""
        return sum(len(row.weights) for row in self.table.steps(self.guidance))


def list_candidates(tables: Sequence[Table], guidances: Sequence[float]) -> list[Candidate]:
    """Every table at every scale; the scale is in the name where there are several.

    Raises:
        UsageError: no tables or scales, or two of one name.
    """
    if not tables or not guidances:
        raise UsageError("no table or no guidance scale came; give at least one of each")
    suffixes = [f"@{scale:g}" if len(guidances) > 1 else "" for scale in guidances]
    return [
        Candidate(name=table.name + suffix, table=table, guidance=scale)
        for table in tables
        for scale, suffix in zip(guidances, suffixes, strict=True)
    ]


def parse_table(bundle: Bundle, spec: str) -> Table:
    """The table that a word of the command line stands for.

    Args:
        bundle: whose tables go by name, and whose flavour gives a_min.
        spec: TABLE_SPEC. a_min=land takes the last step's length, so that the solver ends on
            the estimate.

    Raises:
        UsageError: no such table, file, solver or setting.
        BundleError: the bundle's table is damaged.
    """
    if ":" in spec:
        return _compiled(bundle, spec)
    return Table.load(Path(spec)) if spec.endswith(".json") else bundle.table(spec)


def _compiled(bundle: Bundle, spec: str) -> Table:
    solver, steps_word, *words = spec.split(":")
    steps, settings = _steps(spec, steps_word), _settings(spec, words)
    shift = _number(spec, "shift", settings["shift"]) if "shift" in settings else None
    grid = "uniform" if shift is None else "shifted"
    a_min, suffix = None, ""
    if "a_min" in settings:
        word = settings["a_min"]
        points = solver_points(solver, steps, grid, shift)
        a_min = float(1.0 - points[-2]) if word == _LAND else _number(spec, "a_min", word)
        suffix = f"-{_LAND}" if word == _LAND else f"-a{a_min:g}"
    table = bundle.compile_table(solver, steps, grid=grid, shift=shift, a_min=a_min)
    return dataclasses.replace(table, name=table.name + suffix)


def _steps(spec: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"table {spec!r}: steps is {word!r}; give {TABLE_SPEC}") from None


def _settings(spec: str, words: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("shift", "a_min") or not equals or key in settings:
            raise UsageError(f"table {spec!r}: {word!r} is no setting; give {TABLE_SPEC}")
        settings[key] = value
    return settings


def _number(spec: str, key: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UsageError(f"table {spec!r}: {key} is {word!r}, but a number is needed") from None
