"""What the comparison found: plain values for JSON, and lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from minit2i_deploy.evaluation.compare.confidence_interval import difference_interval
from minit2i_deploy.evaluation.compare.lockstep import RowErrors
from minit2i_deploy.evaluation.compare.prompt_cases import PromptCase
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes import ShapesScore, Verdict

KIND = "minit2i-compare"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePair:
    """One picture of each side.

    Args:
        task: prompt, seed and what a shapes caption promises.
        psnr_db: of B to A, decibels; infinite where they are equal.
        ssim: ``ssim.ssim``, 1 equal.
        gmsd: ``image_metrics.gmsd``, 0 equal.
        bytes_off: share of bytes that differ, 0 to 1.
        levels_off: largest difference of a byte, 0 to 255.
        verdicts: A's and B's, for a shapes caption.
    """

    task: PromptCase
    psnr_db: float
    ssim: float
    gmsd: float
    bytes_off: float
    levels_off: int
    verdicts: tuple[Verdict, Verdict] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; an infinite PSNR is None."""
        values: dict[str, Any] = {
            "prompt": self.task.prompt,
            "seed": self.task.seed,
            "psnr_db": finite(self.psnr_db),
            "ssim": self.ssim,
            "gmsd": self.gmsd,
            "bytes_off": self.bytes_off,
            "levels_off": self.levels_off,
        }
        if self.verdicts is not None:
            for side, verdict in zip("ab", self.verdicts, strict=True):
                values[f"correct_{side}"] = verdict.correct
                values[f"reason_{side}"] = verdict.reason
        return values


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairStates:
    """One pair to look at: its index among the pairs and both final states, float32 [3, H, W]."""

    index: int
    x_a: Float32[np.ndarray, "3 height width"]
    x_b: Float32[np.ndarray, "3 height width"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """Two sides on the same prompts, noise and table.

    Args:
        sides: what A and B are, ready for JSON.
        table: name of the table.
        guidance: scale used.
        times: float64 [rows], t of each row, 0 noise to 1 data.
        pairs: every picture.
        details: errors of every row, of the pictures in ``shown``.
        seams: gradient across patch borders over gradient elsewhere: of A, of B; each horizontal,
            vertical, both; None where the pictures are flat inside patches.
        shown: pictures to look at.
        speed: what ``bench`` measured, ready for JSON; None where it was not asked for.
    """

    sides: tuple[Mapping[str, Any], Mapping[str, Any]]
    table: str
    guidance: float
    times: Float64[np.ndarray, " rows"]
    pairs: tuple[ImagePair, ...]
    details: RowErrors
    seams: tuple[tuple[float | None, ...], tuple[float | None, ...]]
    shown: tuple[PairStates, ...]
    speed: Mapping[str, Any] | None = None

    def score(self) -> dict[str, Any] | None:
        """Prompt following of both and B's difference to A; None where nothing was judged."""
        judged = [(pair.task.spec, pair.verdicts) for pair in self.pairs]
        both = [(spec, found) for spec, found in judged if spec is not None and found is not None]
        if not both:
            return None
        scores = [ShapesScore.of((spec, found[i]) for spec, found in both) for i in (0, 1)]
        correct = [[found[i].correct for _, found in both] for i in (0, 1)]
        paired = PairedVerdicts.of(correct[1], correct[0])
        low, high = difference_interval(paired, len(both))
        return {
            "a": scores[0].to_dict(),
            "b": scores[1].to_dict(),
            "difference": scores[1].overall.accuracy - scores[0].overall.accuracy,
            "difference_interval_95": [low, high],
            "paired": paired.to_dict(),
        }

    def final(self) -> dict[str, Any]:
        """Figures of all pictures together."""
        psnr = [pair.psnr_db for pair in self.pairs]
        return {
            "psnr_db": {"mean": finite(float(np.mean(psnr))), "lowest": finite(min(psnr))},
            "ssim": _spread([pair.ssim for pair in self.pairs], min, "lowest"),
            "gmsd": _spread([pair.gmsd for pair in self.pairs], max, "largest"),
            "bytes_off": _spread([pair.bytes_off for pair in self.pairs], max, "largest"),
            "levels_off": max(pair.levels_off for pair in self.pairs),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Errors row by row: mean and largest over the pictures."""
        kinds = ("estimate", "step", "drift")
        arrays = [getattr(self.details, kind) for kind in kinds]
        return [
            {"row": index, "t": t}
            | {
                kind: {"mean": float(values[index].mean()), "largest": float(values[index].max())}
                for kind, values in zip(kinds, arrays, strict=True)
            }
            for index, t in enumerate(self.times.tolist())
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, ready for JSON."""
        names = ("horizontal", "vertical", "both")
        return {
            "kind": KIND,
            "a": dict(self.sides[0]),
            "b": dict(self.sides[1]),
            "table": self.table,
            "guidance": self.guidance,
            "num_pictures": len(self.pairs),
            "num_pictures_by_row": len(self.details.tokens),
            "final": self.final(),
            "score": self.score(),
            "seams": {
                side: dict(zip(names, ratios, strict=True))
                for side, ratios in zip("ab", self.seams, strict=True)
            },
            "tokens": _spread(self.details.tokens.tolist(), max, "largest"),
            "rows": self.rows(),
            "speed": None if self.speed is None else dict(self.speed),
            "pictures": [pair.to_dict() for pair in self.pairs],
        }


def finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def _spread(values: Sequence[float], worst: Any, name: str) -> dict[str, float]:
    return {"mean": float(np.mean(values)), name: float(worst(values))}
