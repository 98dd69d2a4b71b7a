"""The parity ladder: what was measured of bundles from one checkpoint, side by side.

Its foot is the checkpoint in PyTorch at float32. Every rung is a precision, and every number is
the difference from the foot, not from the rung below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import PRECISIONS, Check
from minit2i_deploy.errors import UsageError, VerificationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One bundle on the ladder: precision of its denoiser, and the measured differences."""

    bundle: Bundle
    precision: str
    checks: tuple[Check, ...]


def step_check(graph: str, t: float) -> str:
    """Name of the check of one step from a stored state at time t, 0 noise to 1 data."""
    return f"{graph}@t={t:.4g}"


def ladder(bundles: Sequence[Bundle], checks: Sequence[tuple[Check, ...]]) -> tuple[Rung, ...]:
    """Rungs from the finest precision to the coarsest.

    Args:
        bundles: of one checkpoint, each of another precision.
        checks: what was measured of each.

    Raises:
        UsageError: two checkpoints, or two bundles of one precision.
    """
    rungs = [
        Rung(bundle=bundle, precision=bundle.manifest.graphs["transformer"].precision, checks=found)
        for bundle, found in zip(bundles, checks, strict=True)
    ]
    first, *others = rungs
    for other in others:
        if _source(other) != _source(first):
            raise UsageError(
                f"{other.bundle.path}: made from checkpoint {_source(other)[0][:8]}.. but"
                f" {first.bundle.path} from {_source(first)[0][:8]}..; a ladder stands on one"
            )
    rungs.sort(key=lambda rung: PRECISIONS.index(rung.precision))
    for one, next_one in pairwise(rungs):
        if one.precision == next_one.precision:
            raise UsageError(
                f"{one.bundle.path} and {next_one.bundle.path} are both {one.precision}; give one"
                " bundle of each precision"
            )
    return tuple(rungs)


def require_rungs(rungs: Sequence[Rung]) -> None:
    """Refuse a ladder with a number over its bound, or without numbers.

    Raises:
        VerificationError: names the rung and the first such check.
    """
    for rung in rungs:
        if not rung.checks:
            raise VerificationError(
                f"{rung.bundle.path}: its manifest holds no measured checks; give --checkpoint to"
                " measure, or re-run minit2i export"
            )
        for check in rung.checks:
            if not check.measured <= check.bound:
                raise VerificationError(
                    f"{rung.bundle.path}: {rung.precision} {check.name} is {check.measured:.3g}"
                    f" {check.unit} but at most {check.bound:.3g} is allowed; re-run minit2i export"
                )


def ladder_rows(rungs: Sequence[Rung]) -> list[tuple[str, ...]]:
    """One row a check: its name, then measured and bound of each rung, "-" where it has none."""
    names = dict.fromkeys(check.name for rung in rungs for check in rung.checks)
    by_name = [{check.name: check for check in rung.checks} for rung in rungs]
    rows = []
    for name in names:
        cells = [name]
        for found in by_name:
            check = found.get(name)
            cells += [f"{check.measured:.2e}", f"{check.bound:.0e}"] if check else ["-", "-"]
        rows.append(tuple(cells))
    return rows


def _source(rung: Rung) -> tuple[str, str | None]:
    provenance = rung.bundle.manifest.provenance
    return provenance.checkpoint_sha256, provenance.lora_sha256
