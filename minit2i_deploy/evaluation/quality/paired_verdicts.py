"""Verdicts of two candidates on the same captions, and the p-value of their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minit2i_deploy.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedVerdicts:
    """Numbers of captions whose verdict differs from the baseline's.

    Args:
        won: right here and wrong there.
        lost: wrong here and right there.
    """

    won: int
    lost: int

    @classmethod
    def of(cls, verdicts: Sequence[bool], baseline: Sequence[bool]) -> PairedVerdicts:
        """Count, caption by caption.

        Raises:
            UsageError: two lengths.
        """
        if len(verdicts) != len(baseline):
            raise UsageError(
                f"expected verdicts of the same captions, got {len(verdicts)} and {len(baseline)}"
            )
        pairs = list(zip(verdicts, baseline, strict=True))
        return cls(won=pairs.count((True, False)), lost=pairs.count((False, True)))

    @property
    def p_value(self) -> float:
        """P-value of the exact two-sided McNemar test.

        Source: Q. McNemar, Psychometrika 12 (1947); the exact form is the binomial test.
        """
        total, fewer = self.won + self.lost, min(self.won, self.lost)
        tail = sum(math.comb(total, k) for k in range(fewer + 1))
        # Integer arithmetic: 2**total exceeds the range of floats from 1024 changed verdicts on.
        return min(1.0, 2 * tail / 2**total)

    def to_dict(self) -> dict[str, Any]:
        """Counts and p-value, ready for JSON."""
        return {"won": self.won, "lost": self.lost, "p_value": self.p_value}
