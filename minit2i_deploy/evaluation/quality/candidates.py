"""`Candidate`: a table at a guidance scale, and how tables are named on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.methods import solver_points
from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.table import Table

TABLE_SPEC: Final = (
    "a table of the bundle, a .json file, or SOLVER:STEPS[:shift=S][:a_min=A|land][:repeats=N]"
    "[:jump=N][:between=START-END]"
)
_KEYS: Final = ("shift", "a_min", "repeats", "jump", "between")
_LAND: Final = "land"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A table at one guidance scale; ``name`` identifies it in reports."""

    name: str
    table: Table
    guidance: float

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the denoiser for one image: branches, summed over the rows."""
        return sum(len(row.weights) for row in self.table.steps(self.guidance))


def list_candidates(tables: Sequence[Table], guidances: Sequence[float]) -> list[Candidate]:
    """Every table at every scale; the name includes the scale if there are several.

    Raises:
        UsageError: no tables or no scales.
    """
    if not tables or not guidances:
        raise UsageError("expected at least one table and one guidance scale")
    suffixes = [f"@{scale:g}" if len(guidances) > 1 else "" for scale in guidances]
    return [
        Candidate(name=table.name + suffix, table=table, guidance=scale)
        for table in tables
        for scale, suffix in zip(guidances, suffixes, strict=True)
    ]


def parse_table(bundle: Bundle, spec: str) -> Table:
    """The table that a command-line argument names.

    Args:
        bundle: its tables are known by name, and its flavour sets a_min.
        spec: TABLE_SPEC. a_min=land is the length of the last step, so that the solver ends
            on the estimate.

    Raises:
        UsageError: no such table, file, solver or setting.
        BundleError: the bundle's table is corrupt.
    """
    if ":" in spec:
        return _compiled(bundle, spec)
    return Table.load(Path(spec)) if spec.endswith(".json") else bundle.table(spec)


def _compiled(bundle: Bundle, spec: str) -> Table:
    solver, steps_text, *parts = spec.split(":")
    steps, settings = _steps(spec, steps_text), _settings(spec, parts)
    shift = _number(spec, "shift", settings["shift"]) if "shift" in settings else None
    grid = "uniform" if shift is None else "shifted"
    a_min, suffix = None, ""
    if "a_min" in settings:
        value = settings["a_min"]
        points = solver_points(solver, steps, grid, shift)
        a_min = float(1.0 - points[-2]) if value == _LAND else _number(spec, "a_min", value)
        suffix = f"-{_LAND}" if value == _LAND else f"-a{a_min:g}"
    table = bundle.compile_table(
        solver, steps, grid=grid, shift=shift, a_min=a_min, repeats=_repeats(spec, settings)
    )
    return dataclasses.replace(table, name=table.name + suffix)


def _repeats(spec: str, settings: Mapping[str, str]) -> Repeats:
    """The repeated stretches of time that settings ask for."""
    fields: dict[str, Any] = {
        name: _number(spec, key, settings[key], int)
        for key, name in (("repeats", "count"), ("jump", "jump"))
        if key in settings
    }
    if "between" in settings:
        first, _, last = settings["between"].partition("-")
        fields["interval"] = (_number(spec, "between", first), _number(spec, "between", last))
    return Repeats(**fields)


def _steps(spec: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"table {spec!r}: expected an integer number of steps, got {text!r}; give {TABLE_SPEC}"
        ) from None


def _settings(spec: str, parts: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in _KEYS or not equals or key in settings:
            raise UsageError(f"table {spec!r}: {part!r} is not a setting; give {TABLE_SPEC}")
        settings[key] = value
    return settings


def _number(spec: str, key: str, text: str, kind: Callable[[str], float] = float) -> float:
    try:
        return kind(text)
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise UsageError(f"table {spec!r}: {key}: expected {what}, got {text!r}") from None
