"""Scoring: whether an image meets its caption's spec, and how often a model's images do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes.caption import RELATION_PHRASES
from minit2i_deploy.evaluation.shapes.detect import UNKNOWN, Detection, detect
from minit2i_deploy.evaluation.shapes.scene import (
    KINDS,
    NOVEL_KINDS,
    RELATIONS,
    Requirement,
    Spec,
    colours_of,
)

_RELATION_NAMES: Final = {name: phrases[0] for name, phrases in RELATION_PHRASES.items()}

# The 97.5% point of the normal distribution.
Z_95: Final = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether an image meets its caption's spec, with one line that says why."""

    correct: bool
    reason: str


def judge(image: UInt8[np.ndarray, "height width 3"], spec: Spec) -> Verdict:
    """Judge an image: exactly the required objects, relation and background, nothing else.

    A background that the caption does not name may be any of the three.

    Args:
        image: uint8 [height, width, 3], RGB, 0 to 255.
        spec: what the caption requires.

    Raises:
        UsageError: the array is not such an image.
    """
    reading = detect(image, colours_of(spec.kind))
    detections = reading.detections
    if reading.background == UNKNOWN:
        return Verdict(correct=False, reason="the background is not white, black or grey")
    if spec.background not in (None, reading.background):
        return Verdict(
            correct=False,
            reason=f"expected a {spec.background} background, got {reading.background}",
        )
    matches = _assignments(detections, spec.required)
    if not matches:
        expected = ", ".join(_name(item.colour, item.shape) for item in spec.required)
        reason = f"expected {expected}; got {_describe(detections)}"
        return Verdict(correct=False, reason=reason)
    if spec.relation is not None and not any(_related(o, spec.relation) for o in matches):
        first, second = (_name(item.colour, item.shape) for item in spec.required)
        reason = f"expected the {first} {_RELATION_NAMES[spec.relation]} the {second}; it is not"
        return Verdict(correct=False, reason=reason)
    return Verdict(correct=True, reason=f"shows {_describe(detections)}")


def _assignments(
    detections: Sequence[Detection], required: Sequence[Requirement]
) -> list[tuple[Detection, ...]]:
    """Every order in which the detections are the required objects."""
    # Checked first: a noisy image has dozens of regions, too many to permute.
    if len(detections) != len(required):
        return []
    return [
        order
        for order in itertools.permutations(detections)
        if all(_fits(one, item) for one, item in zip(order, required, strict=True))
    ]


def _fits(detection: Detection, item: Requirement) -> bool:
    # An object without a shape or colour is broken, even where any colour is allowed.
    if UNKNOWN in (detection.shape, detection.colour):
        return False
    return item.shape in (None, detection.shape) and item.colour in (None, detection.colour)


def _related(order: Sequence[Detection], relation: str) -> bool:
    offset = (order[0].x - order[1].x, order[0].y - order[1].y)
    axis = 0 if RELATIONS[relation][0] else 1
    along = offset[axis] * RELATIONS[relation][axis]
    return along > 0 and along > abs(offset[1 - axis])


def _describe(detections: Sequence[Detection]) -> str:
    return ", ".join(_name(item.colour, item.shape) for item in detections) or "nothing"


def _name(colour: str | None, shape: str | None) -> str:
    return " ".join(word for word in (colour, shape) if word) or "any object"


def wilson_interval(num_correct: int, num_total: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion, both ends in 0 to 1.

    Raises:
        UsageError: num_total is not positive, or num_correct is not in 0 to num_total.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927).
    """
    if num_total <= 0 or not 0 <= num_correct <= num_total:
        raise UsageError(
            "expected a positive total and no more correct images than that, got "
            f"{num_correct} of {num_total}"
        )
    rate = num_correct / num_total
    shrink = 1 + Z_95**2 / num_total
    centre = (rate + Z_95**2 / (2 * num_total)) / shrink
    spread = rate * (1 - rate) / num_total + Z_95**2 / (4 * num_total**2)
    half = Z_95 * math.sqrt(spread) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """How many images of a group are correct."""

    num_correct: int
    num_total: int

    @property
    def accuracy(self) -> float:
        """Share of the images that are correct, 0 to 1."""
        return self.num_correct / self.num_total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy."""
        return wilson_interval(self.num_correct, self.num_total)

    def to_dict(self) -> dict[str, Any]:
        """Counts, accuracy and interval, ready for JSON."""
        low, high = self.interval
        return {
            "correct": self.num_correct,
            "total": self.num_total,
            "accuracy": self.accuracy,
            "interval_95": [low, high],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesScore:
    """Prompt-following accuracy of a model, over all images and kind by kind."""

    overall: Rate
    kinds: dict[str, Rate]

    @classmethod
    def of(cls, results: Iterable[tuple[Spec, Verdict]]) -> ShapesScore:
        """Count verdicts; kinds without images are excluded.

        Raises:
            UsageError: there are no results.
        """
        verdicts: dict[str, list[bool]] = {kind: [] for kind in (*KINDS, *NOVEL_KINDS)}
        for spec, verdict in results:
            verdicts[spec.kind].append(verdict.correct)
        kinds = {
            kind: Rate(num_correct=sum(correct), num_total=len(correct))
            for kind, correct in verdicts.items()
            if correct
        }
        if not kinds:
            raise UsageError("no images to score; judge at least one")
        overall = Rate(
            num_correct=sum(rate.num_correct for rate in kinds.values()),
            num_total=sum(rate.num_total for rate in kinds.values()),
        )
        return cls(overall=overall, kinds=kinds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "overall": self.overall.to_dict(),
            "kinds": {kind: rate.to_dict() for kind, rate in self.kinds.items()},
        }

    def to_table(self) -> str:
        """Lines of text: one for each kind, the overall score last."""
        lines = [f"{'kind':<20}{'correct':>11}{'accuracy':>10}   95% interval"]
        for name, rate in (*self.kinds.items(), ("overall", self.overall)):
            low, high = rate.interval
            count = f"{rate.num_correct}/{rate.num_total}"
            lines.append(f"{name:<20}{count:>11}{rate.accuracy:>10.3f}   {low:.3f} to {high:.3f}")
        return "\n".join(lines)
