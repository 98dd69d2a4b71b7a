"""Bounds of the measured differences by precision, and the refusal of what exceeds one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.errors import VerificationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Largest differences of a precision from torch in float32.

    Args:
        graph: relative error of one graph's outputs.
        levels: 8-bit levels that a byte of the image may be off by.
        share: share of bytes that may be off by more.
    """

    graph: float
    levels: int
    share: float


# Measured: fp32 3.1e-6, 0 of 1; fp16 3e-3, 0 of 2; bf16 2.4e-2, 0.003 of 8, L/16 0.016 (random
# networks of 64 channels, and of B/16's and L/16's shape).
BOUNDS: Final[Mapping[str, Bounds]] = {
    "fp32": Bounds(graph=1e-5, levels=1, share=1e-3),
    "fp16": Bounds(graph=1e-2, levels=2, share=1e-2),
    "bf16": Bounds(graph=8e-2, levels=8, share=3e-2),
}


def require_within_bounds(checks: Iterable[Check], consequence: str) -> None:
    """Refuse a check over its bound, or one whose measurement is NaN.

    Args:
        checks: what was measured.
        consequence: end of the error's text: what follows from it.

    Raises:
        VerificationError: the first such check.
    """
    for check in checks:
        # Written so that NaN fails as well.
        if not check.measured <= check.bound:
            raise VerificationError(
                f"{check.name}: {check.measured:.3g} {check.unit} but at most {check.bound:.3g} is"
                f" allowed ({check.where}); {consequence}"
            )
