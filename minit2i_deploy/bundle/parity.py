"""Parity tables: the measured differences of bundles from one checkpoint, side by side.

The reference is the checkpoint in PyTorch at float32. Every column is a precision, and every
number is the difference from the reference, not from the next finer precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import PRECISIONS, Check
from minit2i_deploy.errors import UsageError, VerificationError


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityLevel:
    """One bundle: precision of its denoiser, and its measured differences."""

    bundle: Bundle
    precision: str
    checks: tuple[Check, ...]


def step_check(graph: str, t: float) -> str:
    """Name of the check of one step from a stored state at time t, 0 noise to 1 data."""
    return f"{graph}@t={t:.4g}"


def parity_levels(
    bundles: Sequence[Bundle], checks: Sequence[tuple[Check, ...]]
) -> tuple[ParityLevel, ...]:
    """Levels from the finest precision to the coarsest.

    Args:
        bundles: of one checkpoint, each of another precision.
        checks: measured differences of each bundle.

    Raises:
        UsageError: two checkpoints, or two bundles of one precision.
    """
    levels = [
        ParityLevel(
            bundle=bundle,
            precision=bundle.manifest.graphs["transformer"].precision,
            checks=measured,
        )
        for bundle, measured in zip(bundles, checks, strict=True)
    ]
    first, *others = levels
    for other in others:
        if _source(other) != _source(first):
            raise UsageError(
                f"{other.bundle.path}: made from checkpoint {_source(other)[0][:8]}.. but"
                f" {first.bundle.path} from {_source(first)[0][:8]}..; compare bundles of one"
                " checkpoint"
            )
    levels.sort(key=lambda level: PRECISIONS.index(level.precision))
    for one, next_one in pairwise(levels):
        if one.precision == next_one.precision:
            raise UsageError(
                f"{one.bundle.path} and {next_one.bundle.path} are both {one.precision}; give one"
                " bundle of each precision"
            )
    return tuple(levels)


def require_within_bounds(levels: Sequence[ParityLevel]) -> None:
    """Refuse levels with a number that exceeds its bound, or without numbers.

    Raises:
        VerificationError: names the bundle and the first such check.
    """
    for level in levels:
        if not level.checks:
            raise VerificationError(
                f"{level.bundle.path}: its manifest has no measured checks; measure them with"
                " --checkpoint, or re-run minit2i export"
            )
        for check in level.checks:
            # Written so that NaN, which no comparison holds for, is refused too.
            if not check.measured <= check.bound:
                raise VerificationError(
                    f"{level.bundle.path}: {level.precision} {check.name} is"
                    f" {check.measured:.3g} {check.unit}, expected at most {check.bound:.3g};"
                    " re-run minit2i export"
                )


def parity_lines(levels: Sequence[ParityLevel]) -> list[tuple[str, ...]]:
    """One line a check: its name, then measured and bound of each level, "-" where missing."""
    names = dict.fromkeys(check.name for level in levels for check in level.checks)
    by_name = [{check.name: check for check in level.checks} for level in levels]
    lines = []
    for name in names:
        cells = [name]
        for checks in by_name:
            check = checks.get(name)
            cells += [f"{check.measured:.2e}", f"{check.bound:.0e}"] if check else ["-", "-"]
        lines.append(tuple(cells))
    return lines


def _source(level: ParityLevel) -> tuple[str, str | None]:
    provenance = level.bundle.manifest.provenance
    return provenance.checkpoint_sha256, provenance.lora_sha256
