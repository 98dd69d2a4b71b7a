"""Repeated stretches of a trajectory: back in time by adding noise, and forward again.

Where pixels are known, the open part is at first generated without seeing much of them. Each pass
over a stretch of time starts from an image that both parts have shaped, so the parts come to agree.

A state at time t is t x0 + (1 - t) s noise, with s the noise scale. Scaled by r = t'/t, it has the
signal of an earlier time t', and noise of variance (r (1 - t) s)**2. What lacks to ((1 - t') s)**2
is added as fresh noise. So the row that ends a stretch goes back by a' = r a, b' = r b and n.

Source: Lugmayr et al. 2201.09865 (RePaint), algorithm 1, for this flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.time_grids import MAX_STEPS

RELEASED_NOISE_SCALE: Final = 2.0
MAX_REPEATS: Final = 1000
# Of any table: Heun evaluates twice a step.
MAX_ROWS: Final = 2 * MAX_STEPS
# A grid's 0.3 may be the float beside 0.3; bounds are meant in decimals.
_TIME_ROUNDING: Final = 1e-9

Points = Float64[np.ndarray, " points"]
Rows = Float64[np.ndarray, "rows 6"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """How often stretches of the trajectory are run.

    Args:
        count: passes over each stretch, 1 to 1000.
        jump: steps of a stretch; None makes the complete interval one stretch.
        interval: times between which stretches lie; grid points inside are their ends.
        noise_scale: deviation of the start noise, above 0.

    Raises:
        UsageError: a number outside these ranges.
    """

    count: int = 1
    jump: int | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    noise_scale: float = RELEASED_NOISE_SCALE

    def __post_init__(self) -> None:
        if not _is_integer(self.count) or not 1 <= self.count <= MAX_REPEATS:
            raise UsageError(
                f"count of repeats must be an integer from 1 to {MAX_REPEATS}, got {self.count!r}"
            )
        if self.jump is not None and (not _is_integer(self.jump) or self.jump < 1):
            raise UsageError(f"jump must be a number of steps, 1 or more, got {self.jump!r}")
        first, last = self.interval
        if not 0.0 <= first < last <= 1.0:
            raise UsageError(
                f"interval of repeats must satisfy 0 <= start < end <= 1, got {self.interval!r}"
            )
        if not 0.0 < self.noise_scale < np.inf:
            raise UsageError(f"noise_scale must be above 0, got {self.noise_scale!r}")

    @property
    def suffix(self) -> str:
        """The part of a table's name, empty without repeats."""
        if self.count == 1:
            return ""
        jump = "" if self.jump is None else f"j{self.jump}"
        first, last = self.interval
        inside = "" if self.interval == (0.0, 1.0) else f"-{first:g}-{last:g}"
        return f"-r{self.count}{jump}{inside}"

    @property
    def meta(self) -> dict[str, Any]:
        """What a table's meta says of them, as JSON values; empty without repeats."""
        if self.count == 1:
            return {}
        return {
            "repeats": self.count,
            "jump": self.jump,
            "repeat_interval": list(self.interval),
            "noise_scale": self.noise_scale,
        }

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> Repeats:
        """The repeats that a table's meta describes.

        Raises:
            UsageError: values outside the ranges of ``Repeats``.
        """
        if "repeats" not in meta:
            return NO_REPEATS
        return cls(
            count=meta["repeats"],
            jump=meta.get("jump"),
            interval=tuple(meta.get("repeat_interval", (0.0, 1.0))),
            noise_scale=meta.get("noise_scale", RELEASED_NOISE_SCALE),
        )

    def times(self, points: Points) -> Points:
        """The path through time: a grid with its stretches run ``count`` times each.

        A stretch from t = 0 is run once: back there nothing of the image would remain.

        Args:
            points: float64, rising.

        Returns:
            float64, falling where it goes back.

        Raises:
            UsageError: repeats, but no step inside the interval, or too many rows.
        """
        ends = self._ends(points) if self.count > 1 else []
        num_rows = len(points) - 1 + (self.count - 1) * sum(last - first for first, last in ends)
        if num_rows > MAX_ROWS:
            raise UsageError(f"repeats make {num_rows} rows, expected at most {MAX_ROWS}")
        path = list(points[: ends[0][0] + 1]) if ends else list(points)
        for first, last in ends:
            for turn in range(self.count):
                path += list(points[first + (turn == 0) : last + 1])
        return np.array(path + list(points[ends[-1][1] + 1 :]) if ends else path)

    def _ends(self, points: Points) -> list[tuple[int, int]]:
        """Places of the first and last point of each stretch.

        With a jump, stretches are counted from the first point inside; one from t = 0 is left out.
        """
        first, last = self.interval
        inside = (first - _TIME_ROUNDING <= points) & (points <= last + _TIME_ROUNDING)
        places = np.flatnonzero(inside).tolist()
        if self.jump is None:
            places = [place for place in places if points[place] > 0.0]
            starts = places[:1] if len(places) > 1 else []
        else:
            starts = [place for place in places[: -1 : self.jump] if points[place] > 0.0]
        if not starts:
            raise UsageError(
                f"repeats need a stretch after t = 0 inside interval {self.interval!r}, "
                f"which the {len(points) - 1} steps do not have; lower jump or raise steps"
            )
        length = len(places) if self.jump is None else self.jump
        return [(start, min(start + length, places[-1])) for start in starts]


def compile_repeats(
    repeats: Repeats, points: Points, a_min: float, method: Callable[[Points, float], Rows]
) -> Rows:
    """Rows of a solver along the path through time.

    Every pass is compiled like a trajectory of its own, so history never crosses a jump.

    Args:
        repeats: stretches and their passes.
        points: float64, the grid.
        a_min: floor of the division by 1 - t.
        method: a solver's rows.

    Returns:
        float64 [rows, 6], columns t, a, b, c, n, s.

    Raises:
        UsageError: repeats of a solver that adds noise itself, or uses history in its last row.
    """
    path = repeats.times(points)
    passes = np.split(path, np.flatnonzero(np.diff(path) < 0) + 1)
    compiled = [method(part, a_min).copy() for part in passes]
    for rows, part, following in zip(compiled, passes, passes[1:], strict=False):
        if rows[:, 4].any() or rows[-1, 3]:
            raise UsageError("repeats need a solver without noise, whose last row has no history")
        rows[-1, 1:3] *= following[0] / part[-1]
        rows[-1, 4] = added_noise(part[-1], following[0], repeats.noise_scale)
    return np.concatenate(compiled)


def added_noise(t: float, earlier: float, noise_scale: float) -> float:
    """Deviation of the noise that is added to (earlier / t) x on the way back from t."""
    # As a difference of squares, which rounding cannot make negative.
    most, present = 1.0 - earlier, earlier / t * (1.0 - t)
    return float(noise_scale * np.sqrt((most - present) * (most + present)))


def _is_integer(value: object) -> bool:
    # bool is a subclass of int.
    return isinstance(value, int) and not isinstance(value, bool)


NO_REPEATS: Final = Repeats()
