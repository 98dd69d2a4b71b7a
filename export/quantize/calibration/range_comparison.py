"""Two calibrations side by side, the range that differs most first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.ranges import Calibration

# Percentile of the stored magnitudes that is printed beside the largest.
SHARE: Final = 99.9


@dataclass(frozen=True, kw_only=True, slots=True)
class RangePair:
    """One input in two calibrations: largest magnitudes, and percentiles of the stored ones."""

    site: str
    largest_a: float
    largest_b: float
    usual_a: float
    usual_b: float

    @property
    def ratio(self) -> float:
        """Largest magnitude of B over that of A; 1 where both are 0."""
        if self.largest_a == self.largest_b:
            return 1.0
        return self.largest_b / self.largest_a if self.largest_a else float(np.inf)

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        numbers = (self.largest_a, self.largest_b, self.ratio, self.usual_a, self.usual_b)
        return (self.site, *(f"{value:.4g}" for value in numbers))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare_ranges(a: Calibration, b: Calibration) -> tuple[RangePair, ...]:
    """Every input's ranges in both, by how much the largest magnitude differs.

    Raises:
        UsageError: they are of different networks.
    """
    if a.sites != b.sites:
        only = sorted(set(a.sites) ^ set(b.sites))
        raise UsageError(f"the calibrations are of different networks: only one has {only[0]}")
    pairs = [
        RangePair(
            site=site,
            largest_a=a.tensor_absmax(site),
            largest_b=b.tensor_absmax(site),
            usual_a=a.percentile(site, SHARE),
            usual_b=b.percentile(site, SHARE),
        )
        for site in a.sites
    ]
    return tuple(sorted(pairs, key=lambda pair: (-_distance(pair), pair.site)))


def _distance(pair: RangePair) -> float:
    ratio = pair.ratio
    return abs(float(np.log(ratio))) if ratio > 0 else float(np.inf)
