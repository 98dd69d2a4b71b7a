"""Which layers to exclude from quantization so that the graph stays within a budget.

Layers are ranked by the squared error that each causes alone, per weight: excluding the first of
the order gains the most for its size. The least number of them that meets the budget is found by
bisection, and every number tried is measured with all other layers quantized together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from minit2i_deploy.errors import UsageError, VerificationError
from minit2i_deploy.evaluation.shapes import held_out_captions
from minit2i_deploy.evaluation.shapes.judged_images import generate_judged_images
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.sensitivity.layer_errors import (
    LayerError,
    SensitivityMeter,
)
from minit2i_deploy.progress import Progress, no_progress

PSNR: Final = "psnr"
SCORE: Final = "score"
_SCORE_BATCH: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The largest difference allowed.

    Args:
        kind: "psnr", least decibels between the final images and the unquantized graph's; or
            "score", the largest share of shapes captions that may be lost.
        limit: above 0; of a score, below 1.

    Raises:
        UsageError: another kind, or a limit outside its range.
    """

    kind: str
    limit: float

    def __post_init__(self) -> None:
        highest = {PSNR: 200.0, SCORE: 1.0}.get(self.kind)
        if highest is None or not 0.0 <= self.limit < highest:
            raise UsageError(
                "budget: expected psnr=DECIBELS or score=SHARE, such as psnr=35 or score=0.01, got"
                f" {self.kind}={self.limit:g}"
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``psnr=35`` or ``score=0.01``.

        Raises:
            UsageError: it is neither of them.
        """
        kind, _, number = text.partition("=")
        try:
            return cls(kind=kind, limit=float(number))
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"budget: expected psnr=DECIBELS or score=SHARE, such as psnr=35, got {text!r}"
            ) from error

    def meets(self, value: float) -> bool:
        """Whether a measured value is within the budget."""
        return value >= self.limit if self.kind == PSNR else value <= self.limit

    def better(self, one: float, other: float) -> bool:
        """Whether the first value is the better one."""
        return one > other if self.kind == PSNR else one < other


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A number of layers of the order excluded, and the measured value."""

    num_excluded: int
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Layers to exclude, and everything that was tried in the search."""

    budget: Budget
    excluded: tuple[str, ...]
    value: float
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "kind": self.budget.kind,
            "limit": self.budget.limit,
            "reached": self.value,
            "trials": [asdict(trial) for trial in self.trials],
        }


def rank_layers(layers: Sequence[LayerError]) -> tuple[LayerError, ...]:
    """Layers by falling squared error per weight; equal ones in the order they run."""
    return tuple(sorted(layers, key=lambda layer: -(layer.error**2) / layer.num_weights))


def select_layers(
    order: Sequence[LayerError],
    budget: Budget,
    most: float,
    value_of: Callable[[Collection[str]], float],
    progress: Progress = no_progress,
) -> Selection:
    """The least number of the first layers whose exclusion meets a budget.

    Args:
        order: layers from ``rank_layers``.
        budget: to meet.
        most: share of the layers' weights that may be excluded, 0 to 1.
        value_of: measures the graph with these layers excluded.
        progress: called with the share that is done and the number that is tried.

    Raises:
        UsageError: most is outside 0 to 1.
        VerificationError: no number of layers within ``most`` meets it; the text has the best.
    """
    names, limit = [layer.name for layer in order], count_allowed(order, most)
    tried: dict[int, float] = {}

    def value(count: int) -> float:
        if count not in tried:
            progress(min(0.9, 0.2 * len(tried)), f"{count} layers excluded")
            tried[count] = value_of(frozenset(names[:count]))
        return tried[count]

    low, high = -1, limit
    if budget.meets(value(0)):
        high = 0
    elif not budget.meets(value(limit)):
        raise VerificationError(_unmet(budget, most, order, tried))
    else:
        low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.meets(value(middle)) else (middle, high)
    trials = tuple(Trial(num_excluded=count, value=tried[count]) for count in sorted(tried))
    return Selection(budget=budget, excluded=tuple(names[:high]), value=tried[high], trials=trials)


def count_allowed(order: Sequence[LayerError], most: float) -> int:
    """Number of the first layers that have at most this share of all weights.

    Raises:
        UsageError: most is outside 0 to 1.
    """
    check_most(most)
    total, count, num_weights = sum(layer.num_weights for layer in order), 0, 0
    for layer in order:
        num_weights += layer.num_weights
        # A share of 1 is every layer, whatever rounding says.
        if num_weights > most * total and most < 1.0:
            break
        count += 1
    return count


def check_most(most: float) -> None:
    """Refuse a share of the layers' weights outside its range.

    Raises:
        UsageError: it is outside 0 to 1.
    """
    if not 0.0 <= most <= 1.0:
        raise UsageError(f"expected a largest excluded share of 0 to 1, got {most:g}")


def check_per_kind(per_kind: int) -> None:
    """Refuse a number of captions per kind that measures nothing.

    Raises:
        UsageError: it is below 1.
    """
    if per_kind < 1:
        raise UsageError(f"expected at least 1 caption per kind, got {per_kind}")


def psnr_of(meter: SensitivityMeter) -> Callable[[Collection[str]], float]:
    """Measures decibels to the unquantized images, on the meter's own trajectories."""

    def value(exclude: Collection[str]) -> float:
        with meter.subject.open(meter.subject.quantized(exclude)) as step:
            return meter.drift(step).psnr_db

    return value


def score_loss_of(
    meter: SensitivityMeter, per_kind: int, progress: Progress = no_progress
) -> Callable[[Collection[str]], float]:
    """Measures the share of held-out shapes captions lost against the unquantized graph.

    Args:
        meter: has graphs, table and guidance.
        per_kind: captions of each of the six kinds, the same with the same noise for all.
        progress: called with the share of one set of images that is done.

    Raises:
        UsageError: per_kind is below 1.
    """
    check_per_kind(per_kind)
    expected = _accuracy(meter, meter.subject.unquantized, per_kind, progress)

    def value(exclude: Collection[str]) -> float:
        graph = meter.subject.quantized(exclude)
        return expected - _accuracy(meter, graph, per_kind, progress)

    return value


def _accuracy(meter: SensitivityMeter, graph: Graph, per_kind: int, progress: Progress) -> float:
    captions = held_out_captions(per_kind, 0)
    reference, subject = meter.reference, meter.subject
    graphs = {"transformer": graph}
    with GraphsRuntime(subject.bundle, graphs, threads=subject.threads) as runtime:
        images = generate_judged_images(
            subject.bundle,
            runtime,
            captions,
            table=reference.table,
            guidance=reference.guidance,
            batch=_SCORE_BATCH,
            progress=progress,
        )
        return sum(image.verdict.correct for image in images) / len(captions)


def _unmet(
    budget: Budget, most: float, order: Sequence[LayerError], tried: dict[int, float]
) -> str:
    count = next(iter(tried))
    for other in tried:
        if budget.better(tried[other], tried[count]):
            count = other
    unit = " dB" if budget.kind == PSNR else ""
    return (
        f"budget {budget.kind}={budget.limit:g} is not met with at most {most:.0%} of the weights"
        f" excluded; best reached {tried[count]:.4g}{unit} with {count} of {len(order)} layers"
        " excluded; use a finer scheme or a looser budget, or allow more to be excluded"
    )
