"""Two candidates on the same captions: which verdicts changed, and could that be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minit2i_deploy.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedVerdicts:
    """Captions whose verdict differs from the baseline's; the others say nothing on the two.

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
                f"{len(verdicts)} verdicts came with {len(baseline)}; judge the same captions"
            )
        pairs = list(zip(verdicts, baseline, strict=True))
        return cls(won=pairs.count((True, False)), lost=pairs.count((False, True)))

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar: how likely a split at least as uneven is by tossing coins.

        Source: Q. McNemar, Psychometrika 12 (1947); the exact form is the binomial test.
        """
        total, fewer = self.won + self.lost, min(self.won, self.lost)
        tail = sum(math.comb(total, k) for k in range(fewer + 1))
        # Whole numbers to the end: 2**total leaves the range of floats at 1024 changed verdicts.
        return min(1.0, 2 * tail / 2**total)

    def to_dict(self) -> dict[str, Any]:
        """Counts and p-value, ready for JSON."""
        return {"won": self.won, "lost": self.lost, "p_value": self.p_value}
