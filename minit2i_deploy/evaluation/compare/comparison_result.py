"""`Comparison`: all figures of two bundles on the same prompts, as plain values for JSON."""

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
    """One image of each bundle.

    Args:
        case: prompt, seed, and the spec of a shapes caption.
        psnr_db: of B to A, decibels; infinite if they are equal.
        ssim: ``ssim.ssim``, 1 equal.
        gmsd: ``image_metrics.gmsd``, 0 equal.
        bytes_off: share of bytes that differ, 0 to 1.
        levels_off: largest difference of a byte, 0 to 255.
        verdicts: A's and B's, for a shapes caption.
    """

    case: PromptCase
    psnr_db: float
    ssim: float
    gmsd: float
    bytes_off: float
    levels_off: int
    verdicts: tuple[Verdict, Verdict] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; an infinite PSNR is None."""
        values: dict[str, Any] = {
            "prompt": self.case.prompt,
            "seed": self.case.seed,
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
    """Final states of one pair, float32 [3, H, W], and its index among the pairs."""

    index: int
    x_a: Float32[np.ndarray, "3 height width"]
    x_b: Float32[np.ndarray, "3 height width"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """Two bundles on the same prompts, noise and table.

    Args:
        sides: what A and B are, ready for JSON.
        table: name of the table.
        guidance: scale of classifier-free guidance.
        times: float64 [rows], t of each row, 0 noise to 1 data.
        pairs: all images.
        row_errors: errors of every row, of the images in ``states``.
        seams: gradient across patch borders over gradient elsewhere: of A, of B; each horizontal,
            vertical, both; None if the images are flat inside patches.
        states: images to show in a report.
        speed: what ``bench`` measured, ready for JSON; None if it was not measured.
    """

    sides: tuple[Mapping[str, Any], Mapping[str, Any]]
    table: str
    guidance: float
    times: Float64[np.ndarray, " rows"]
    pairs: tuple[ImagePair, ...]
    row_errors: RowErrors
    seams: tuple[tuple[float | None, ...], tuple[float | None, ...]]
    states: tuple[PairStates, ...]
    speed: Mapping[str, Any] | None = None

    def score(self) -> dict[str, Any] | None:
        """Prompt following of both and B's difference to A; None if nothing was judged."""
        return score_figures(self.pairs)

    def final(self) -> dict[str, Any]:
        """Figures over all images."""
        return final_figures(self.pairs)

    def rows(self) -> list[dict[str, Any]]:
        """Errors row by row: mean and largest over the images."""
        kinds = ("estimate", "step", "drift")
        arrays = [getattr(self.row_errors, kind) for kind in kinds]
        return [
            {"row": index, "t": t}
            | {
                kind: {"mean": float(values[index].mean()), "largest": float(values[index].max())}
                for kind, values in zip(kinds, arrays, strict=True)
            }
            for index, t in enumerate(self.times.tolist())
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON."""
        names = ("horizontal", "vertical", "both")
        return {
            "kind": KIND,
            "a": dict(self.sides[0]),
            "b": dict(self.sides[1]),
            "table": self.table,
            "guidance": self.guidance,
            "num_pictures": len(self.pairs),
            "num_pictures_by_row": len(self.row_errors.tokens),
            "final": self.final(),
            "score": self.score(),
            "seams": {
                side: dict(zip(names, ratios, strict=True))
                for side, ratios in zip("ab", self.seams, strict=True)
            },
            "tokens": _spread(self.row_errors.tokens.tolist(), max, "largest"),
            "rows": self.rows(),
            "speed": None if self.speed is None else dict(self.speed),
            "pictures": [pair.to_dict() for pair in self.pairs],
        }


def final_figures(pairs: Sequence[ImagePair]) -> dict[str, Any]:
    """Figures over all images, ready for JSON."""
    psnr = [pair.psnr_db for pair in pairs]
    return {
        "psnr_db": {"mean": finite(float(np.mean(psnr))), "lowest": finite(min(psnr))},
        "ssim": _spread([pair.ssim for pair in pairs], min, "lowest"),
        "gmsd": _spread([pair.gmsd for pair in pairs], max, "largest"),
        "bytes_off": _spread([pair.bytes_off for pair in pairs], max, "largest"),
        "levels_off": max(pair.levels_off for pair in pairs),
    }


def score_figures(pairs: Sequence[ImagePair]) -> dict[str, Any] | None:
    """Prompt following of both and B's difference to A; None if nothing was judged."""
    judged = [
        (pair.case.spec, pair.verdicts)
        for pair in pairs
        if pair.case.spec is not None and pair.verdicts is not None
    ]
    if not judged:
        return None
    scores = [ShapesScore.of((spec, pair[i]) for spec, pair in judged) for i in (0, 1)]
    correct = [[pair[i].correct for _, pair in judged] for i in (0, 1)]
    paired = PairedVerdicts.of(correct[1], correct[0])
    low, high = difference_interval(paired, len(judged))
    return {
        "a": scores[0].to_dict(),
        "b": scores[1].to_dict(),
        "difference": scores[1].overall.accuracy - scores[0].overall.accuracy,
        "difference_interval_95": [low, high],
        "paired": paired.to_dict(),
    }


def finite(value: float) -> float | None:
    """The value, or None if it is not finite, for which JSON has no number."""
    return value if math.isfinite(value) else None


def _spread(values: Sequence[float], worst: Any, name: str) -> dict[str, float]:
    return {"mean": float(np.mean(values)), name: float(worst(values))}
