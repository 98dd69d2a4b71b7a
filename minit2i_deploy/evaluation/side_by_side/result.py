"""`SideBySide`: all figures of several bundles against a reference, as plain values for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.evaluation.bench.timing import SubjectTimings, ratio_quartiles
from minit2i_deploy.evaluation.compare.comparison_result import (
    ImagePair,
    final_figures,
    finite,
    score_figures,
)
from minit2i_deploy.evaluation.compare.prompt_cases import PromptCase

KIND: Final = "minit2i-side-by-side"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Time of one step of a bundle, taken in turns with the reference.

    Args:
        step_s: median seconds of a step.
        ratio: median of the reference's time over this bundle's, turn by turn; above 1 it is
            faster than the reference.
        quartiles: of the same ratios, 25% and 75%.
    """

    step_s: float
    ratio: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, reference: SubjectTimings, other: SubjectTimings) -> Speed:
        """From times that were taken in turns."""
        low, middle, high = ratio_quartiles(reference, other, "step")
        return cls(step_s=other.timings["step"].p50, ratio=middle, quartiles=(low, high))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"step_p50_s": self.step_s, "ratio": self.ratio, "quartiles": [*self.quartiles]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One bundle on its engine.

    Args:
        name: unique in the report.
        side: from ``Contender.to_dict``.
        settings: name to text of everything that made the bundle what it is.
        pairs: every image against the reference's; those of the reference are empty.
        speed: None if it was not measured.
    """

    name: str
    side: Mapping[str, Any]
    settings: Mapping[str, str]
    pairs: tuple[ImagePair, ...] = ()
    speed: Speed | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the complete bundle."""
        return int(self.side["bytes"]["total"])

    @property
    def psnr_db(self) -> float | None:
        """Mean PSNR to the reference; None if an image is equal, and for the reference."""
        if not self.pairs:
            return None
        mean: float | None = final_figures(self.pairs)["psnr_db"]["mean"]
        return mean


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShownCase:
    """Final states of one prompt, float32 [bundles, 3, H, W], the reference first."""

    index: int
    x: Float32[np.ndarray, "bundles 3 height width"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SideBySide:
    """Several bundles on the same prompts, noise and table.

    Args:
        table: name of the table.
        guidance: scale of classifier-free guidance.
        cases: what was generated.
        reference: what the others are compared with.
        candidates: the others, at least one.
        shown: cases to show, the worst first.
        machine: from ``describe_machine``.
    """

    table: str
    guidance: float
    cases: tuple[PromptCase, ...]
    reference: Candidate
    candidates: tuple[Candidate, ...]
    shown: tuple[ShownCase, ...]
    machine: Mapping[str, Any]

    @property
    def bundles(self) -> tuple[Candidate, ...]:
        """The reference and the candidates."""
        return (self.reference, *self.candidates)

    def score(self, candidate: Candidate) -> dict[str, Any] | None:
        """Prompt following of a bundle; None if nothing was judged.

        Returns:
            overall and kinds, as ``ShapesScore.to_dict``; for a candidate also ``difference`` to
            the reference, ``difference_interval_95`` and ``paired``.
        """
        if candidate is self.reference:
            figures = score_figures(self.candidates[0].pairs)
            return None if figures is None else dict(figures["a"])
        figures = score_figures(candidate.pairs)
        if figures is None:
            return None
        difference = {name: figures[name] for name in _DIFFERENCE}
        return {**figures["b"], **difference}

    def with_speed(self, speeds: Sequence[Speed]) -> SideBySide:
        """The same with the speed of each bundle, the reference first."""
        reference, *candidates = (
            dataclasses.replace(one, speed=speed)
            for one, speed in zip(self.bundles, speeds, strict=True)
        )
        return dataclasses.replace(self, reference=reference, candidates=tuple(candidates))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON."""
        return {
            "kind": KIND,
            "reference": self.reference.name,
            "table": self.table,
            "guidance": self.guidance,
            "num_images": len(self.cases),
            "machine": dict(self.machine),
            "bundles": [self._bundle(one) for one in self.bundles],
            "images": [self._image(index) for index in range(len(self.cases))],
        }

    def _bundle(self, one: Candidate) -> dict[str, Any]:
        return {
            "name": one.name,
            **one.side,
            "settings": dict(one.settings),
            "final": final_figures(one.pairs) if one.pairs else None,
            "score": self.score(one),
            "speed": None if one.speed is None else one.speed.to_dict(),
        }

    def _image(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        return {
            "prompt": case.prompt,
            "seed": case.seed,
            "kind": None if case.spec is None else case.spec.kind,
            "correct": _verdict(self.candidates[0].pairs[index], 0),
            "bundles": {
                one.name: {
                    "psnr_db": finite(one.pairs[index].psnr_db),
                    "ssim": one.pairs[index].ssim,
                    "correct": _verdict(one.pairs[index], 1),
                }
                for one in self.candidates
            },
        }


_DIFFERENCE: Final = ("difference", "difference_interval_95", "paired")


def _verdict(pair: ImagePair, side: int) -> bool | None:
    return None if pair.verdicts is None else pair.verdicts[side].correct


def worst_psnr(pairs: Sequence[ImagePair]) -> float:
    """The lowest PSNR of one prompt over the candidates."""
    return min(pair.psnr_db for pair in pairs)
