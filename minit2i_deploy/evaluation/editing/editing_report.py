"""The editing meter's report: rates of each task under each table, as JSON and text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy.evaluation.quality.candidates import Candidate
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes.score import Rate

_FOOTNOTE: Final = (
    "followed: the image shows what the caption says and nothing else. won, lost: captions "
    "followed here and not under the first table, and the reverse. in place: objects outside the "
    "mask are detected where they were (image-to-image: every object). unchanged: images whose "
    "pixels outside the mask have the bytes of the original."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EditingOutcome:
    """Verdicts of one task under one candidate, in the order of the cases.

    Args:
        task: one of ``cases.TASKS``.
        candidate: the table, before a start, and its guidance scale.
        strength: of image-to-image; None where a mask is used.
        num_evaluations: evaluations of the denoiser for one image.
        followed: whether each image is what its caption says.
        in_place: whether its objects that stay are where they were.
        unchanged: whether its known pixels have the original's bytes.
        seconds: time of the rows for one image.
    """

    task: str
    candidate: Candidate
    strength: float | None
    num_evaluations: int
    followed: tuple[bool, ...]
    in_place: tuple[bool, ...]
    unchanged: tuple[bool, ...]
    seconds: float

    @property
    def label(self) -> str:
        """The task, with the strength where there is one."""
        return self.task if self.strength is None else f"{self.task} {self.strength:g}"

    def to_dict(self, baseline: EditingOutcome) -> dict[str, Any]:
        """Plain values, ready for JSON.

        Args:
            baseline: outcome of the first candidate on the same cases.
        """
        paired = None if baseline is self else PairedVerdicts.of(self.followed, baseline.followed)
        return {
            "task": self.task,
            "strength": self.strength,
            "name": self.candidate.name,
            "meta": dict(self.candidate.table.meta),
            "guidance": self.candidate.guidance,
            "evaluations": self.num_evaluations,
            "followed": _rate(self.followed).to_dict(),
            "paired": None if paired is None else paired.to_dict(),
            "in_place": _rate(self.in_place).to_dict(),
            "unchanged": None if self.strength is not None else _rate(self.unchanged).to_dict(),
            "seconds_per_image": self.seconds,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class EditingReport:
    """Outcomes of all tasks and candidates on the same cases and noise.

    Args:
        bundle: digest of the bundle.
        runtime: name of the runtime.
        settings: cases, strengths and seed, as JSON values.
        outcomes: task after task, each in the order of the candidates.
    """

    bundle: str
    runtime: str
    settings: Mapping[str, Any]
    outcomes: tuple[EditingOutcome, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "bundle": self.bundle,
            "runtime": self.runtime,
            "settings": dict(self.settings),
            "outcomes": [one.to_dict(self._baseline(one)) for one in self.outcomes],
        }

    def to_table(self) -> str:
        """Lines of text, one for each task and candidate."""
        first = max(len("task"), *(len(one.label) for one in self.outcomes))
        second = max(len("table"), *(len(one.candidate.name) for one in self.outcomes))
        lines = [
            f"{'task':<{first}} {'table':<{second}} {'guidance':>8} {'evals':>5} {'followed':>8}  "
            f"{'95% interval':<15}{'won':>4} {'lost':>4} {'in place':>8} {'unchanged':>9} {'s':>7}"
        ]
        for one in self.outcomes:
            names = f"{one.label:<{first}} {one.candidate.name:<{second}}"
            lines.append(f"{names} {_figures(one, self._baseline(one))}")
        return "\n".join([*lines, _FOOTNOTE])

    def _baseline(self, outcome: EditingOutcome) -> EditingOutcome:
        return next(one for one in self.outcomes if one.label == outcome.label)


def _figures(one: EditingOutcome, baseline: EditingOutcome) -> str:
    rate = _rate(one.followed)
    low, high = rate.interval
    pair = ("-", "-")
    if baseline is not one:
        paired = PairedVerdicts.of(one.followed, baseline.followed)
        pair = (str(paired.won), str(paired.lost))
    unchanged = "-" if one.strength is not None else f"{_rate(one.unchanged).accuracy:.3f}"
    return (
        f"{one.candidate.guidance:>8g} {one.num_evaluations:>5} {rate.accuracy:>8.3f}  "
        f"{f'{low:.3f} to {high:.3f}':<15}{pair[0]:>4} {pair[1]:>4} "
        f"{_rate(one.in_place).accuracy:>8.3f} {unchanged:>9} {one.seconds:>7.3f}"
    )


def _rate(verdicts: tuple[bool, ...]) -> Rate:
    return Rate(num_correct=sum(verdicts), num_total=len(verdicts))
