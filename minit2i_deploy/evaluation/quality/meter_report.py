"""The meter's report: figures of each table, as JSON and text, and the Pareto front."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from minit2i_deploy.evaluation.quality.candidates import Candidate
from minit2i_deploy.evaluation.quality.meter_settings import MeterSettings
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes import ShapesScore


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """Mean distance of images from those of a fine reference at equal noise.

    Args:
        psnr_db: decibels, infinite if an image equals its reference.
        gmsd: ``image_metrics.gmsd``, 0 equal.
        num_images: number of images compared.
    """

    psnr_db: float
    gmsd: float
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; an infinite PSNR is None."""
        psnr_db = self.psnr_db if math.isfinite(self.psnr_db) else None
        return {"psnr_db": psnr_db, "gmsd": self.gmsd, "pictures": self.num_images}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The figures of one candidate.

    Args:
        candidate: the table and its guidance scale.
        score: prompt following, overall and by kind.
        paired: verdicts against those of the first candidate; None for the first.
        distance: to a fine reference; None if it was not measured or the table has none.
        outside: share of values outside [-1, 1] before clamping.
        clipped: share of bytes that only the clamp keeps in 0 to 255.
        seams: gradient across patch borders over gradient elsewhere: horizontal, vertical, both;
            None if the images are flat inside patches.
        seconds: time of the table's rows for one image.
    """

    candidate: Candidate
    score: ShapesScore
    paired: PairedVerdicts | None
    distance: Distance | None
    outside: float
    clipped: float
    seams: tuple[float | None, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """The overall score, 0 to 1."""
        return self.score.overall.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        table = self.candidate.table
        return {
            "name": self.candidate.name,
            "table": table.name,
            "meta": dict(table.meta),
            "guidance": self.candidate.guidance,
            "rows": len(table),
            "evaluations": self.candidate.num_evaluations,
            "seconds_per_picture": self.seconds,
            "score": self.score.to_dict(),
            "paired": None if self.paired is None else self.paired.to_dict(),
            "distance": None if self.distance is None else self.distance.to_dict(),
            "outside": self.outside,
            "clipped": self.clipped,
            "seams": dict(zip(("horizontal", "vertical", "both"), self.seams, strict=True)),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class MeterReport:
    """Outcomes of candidates on the same captions and the same noise.

    Args:
        bundle: digest of the bundle.
        runtime: name of the runtime.
        settings: captions, seed and fine reference.
        outcomes: in the order of the candidates.
    """

    bundle: str
    runtime: str
    settings: MeterSettings
    outcomes: tuple[Outcome, ...]

    def pareto(self) -> tuple[Outcome, ...]:
        """The Pareto front by evaluations and score, by rising evaluations."""
        front = [one for one in self.outcomes if not any(_beats(o, one) for o in self.outcomes)]
        return tuple(sorted(front, key=lambda one: one.candidate.num_evaluations))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; ``pareto`` holds names."""
        return {
            "bundle": self.bundle,
            "runtime": self.runtime,
            "settings": self.settings.to_dict(),
            "outcomes": [one.to_dict() for one in self.outcomes],
            "pareto": [one.candidate.name for one in self.pareto()],
        }

    def to_table(self) -> str:
        """Lines of text, one for each candidate; * marks the Pareto front."""
        best = {one.candidate.name for one in self.pareto()}
        width = max(len("table"), *(len(one.candidate.name) for one in self.outcomes))
        lines = [_head(width)]
        lines += [_line(one, width, one.candidate.name in best) for one in self.outcomes]
        lines.append(
            "* Pareto front: no table with fewer evaluations scores as high. won, lost: captions "
            "right here and wrong with the first table, and the reverse."
        )
        if self.settings.reference_steps and any(one.distance is None for one in self.outcomes):
            lines.append("- under PSNR: the table does not converge to a solution of the flow.")
        return "\n".join(lines)


def _beats(one: Outcome, other: Outcome) -> bool:
    """Whether one costs no more and scores no less than another, and differs in either."""
    cost, worth = one.candidate.num_evaluations, one.accuracy
    other_cost, other_worth = other.candidate.num_evaluations, other.accuracy
    no_worse = cost <= other_cost and worth >= other_worth
    return no_worse and (cost, worth) != (other_cost, other_worth)


def _head(width: int) -> str:
    return (
        f"  {'table':<{width}} {'guidance':>8} {'evals':>5} {'score':>6}  {'95% interval':<15}"
        f"{'won':>4} {'lost':>4} {'p':>6} {'PSNR':>6} {'GMSD':>6} {'outside':>8} {'clipped':>8}"
        f" {'seams':>6} {'s':>7}"
    )


def _line(one: Outcome, width: int, best: bool) -> str:
    low, high = one.score.overall.interval
    paired, distance = one.paired, one.distance
    pair = (
        ("-", "-", "-")
        if paired is None
        else (str(paired.won), str(paired.lost), f"{paired.p_value:.3f}")
    )
    far = ("-", "-") if distance is None else (f"{distance.psnr_db:.2f}", f"{distance.gmsd:.4f}")
    seams = "-" if one.seams[2] is None else f"{one.seams[2]:.3f}"
    return (
        f"{'*' if best else ' '} {one.candidate.name:<{width}} {one.candidate.guidance:>8g} "
        f"{one.candidate.num_evaluations:>5} {one.accuracy:>6.3f}  "
        f"{f'{low:.3f} to {high:.3f}':<15}{pair[0]:>4} {pair[1]:>4} {pair[2]:>6} "
        f"{far[0]:>6} {far[1]:>6} {one.outside:>8.4f} {one.clipped:>8.4f} {seams:>6} "
        f"{one.seconds:>7.3f}"
    )
