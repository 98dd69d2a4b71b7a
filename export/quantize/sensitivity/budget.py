"""Which layers to leave unquantised so that the whole stays within a budget.

Layers are ranked by the squared error that each causes alone, a weight: the first of the order
gives back the most for what it costs. The least number of them that meets the budget is found by
bisection, and every number tried is measured with all other layers quantised together.
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
from minit2i_deploy.export.quantize.sensitivity.layers import Laboratory, LayerError
from minit2i_deploy.progress import Progress, no_progress

PSNR: Final = "psnr"
SCORE: Final = "score"
_SCORE_BATCH: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What is allowed.

    Args:
        kind: "psnr", decibels of the final pictures to the unquantised ones', at least; or
            "score", the share of shapes captions that may be lost, at most.
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
                f"budget {self.kind}={self.limit:g} is not psnr=DECIBELS or score=SHARE, for"
                " example psnr=35 or score=0.01"
            )

    @classmethod
    def parse(cls, words: str) -> Budget:
        """Read ``psnr=35`` or ``score=0.01``.

        Raises:
            UsageError: it is neither.
        """
        kind, _, number = words.partition("=")
        try:
            return cls(kind=kind, limit=float(number))
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"budget {words!r} is not psnr=DECIBELS or score=SHARE, for example psnr=35"
            ) from error

    def meets(self, value: float) -> bool:
        """Whether a measured value is within it."""
        return value >= self.limit if self.kind == PSNR else value <= self.limit

    def better(self, one: float, other: float) -> bool:
        """Whether the first value is the better one."""
        return one > other if self.kind == PSNR else one < other


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """So many layers of the order left out, and the measured value."""

    num_excluded: int
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Layers to leave out, and everything that was tried on the way."""

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


def ranked(layers: Sequence[LayerError]) -> tuple[LayerError, ...]:
    """Layers by falling squared error a weight; equal ones in the order they run."""
    return tuple(sorted(layers, key=lambda layer: -(layer.error**2) / layer.num_weights))


def search(
    order: Sequence[LayerError],
    budget: Budget,
    most: float,
    value_of: Callable[[Collection[str]], float],
    progress: Progress = no_progress,
) -> Found:
    """The least number of the first layers whose exclusion meets a budget.

    Args:
        order: ``ranked`` layers.
        budget: what is to be met.
        most: share of the layers' weights that may be excluded, 0 to 1.
        value_of: measures the graph without these layers' quantisation.
        progress: called with the share that is done and what is tried.

    Raises:
        UsageError: most is outside 0 to 1.
        VerificationError: no number of layers within ``most`` meets it; the best is told.
    """
    names, limit = [layer.name for layer in order], allowed(order, most)
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
    return Found(budget=budget, excluded=tuple(names[:high]), value=tried[high], trials=trials)


def allowed(order: Sequence[LayerError], most: float) -> int:
    """How many of the first layers hold at most that share of all weights.

    Raises:
        UsageError: most is outside 0 to 1.
    """
    check_most(most)
    total, count, held = sum(layer.num_weights for layer in order), 0, 0
    for layer in order:
        held += layer.num_weights
        # A whole share is every layer, whatever rounding says.
        if held > most * total and most < 1.0:
            break
        count += 1
    return count


def check_most(most: float) -> None:
    """Refuse a share of the layers' weights that is none.

    Raises:
        UsageError: it is outside 0 to 1.
    """
    if not 0.0 <= most <= 1.0:
        raise UsageError(f"the largest share excluded is {most:g}, but 0 to 1 is needed")


def check_per_kind(per_kind: int) -> None:
    """Refuse a number of captions of each kind that measures nothing.

    Raises:
        UsageError: it is below 1.
    """
    if per_kind < 1:
        raise UsageError(f"captions are {per_kind} a kind, but at least 1 is needed")


def psnr_of(laboratory: Laboratory) -> Callable[[Collection[str]], float]:
    """Measures decibels to the unquantised pictures, on the laboratory's own trajectories."""

    def value(exclude: Collection[str]) -> float:
        with laboratory.session(laboratory.graph(exclude)) as step:
            return laboratory.drift(step).psnr_db

    return value


def score_loss_of(
    laboratory: Laboratory, per_kind: int, progress: Progress = no_progress
) -> Callable[[Collection[str]], float]:
    """Measures the share of held-out shapes captions lost against the unquantised graph.

    Args:
        laboratory: gives graphs, table and guidance.
        per_kind: captions of each of the six kinds, the same with the same noise for all.
        progress: called with the share of one round of painting.

    Raises:
        UsageError: per_kind is below 1.
    """
    check_per_kind(per_kind)
    wanted = _accuracy(laboratory, laboratory.prepared.graph, per_kind, progress)

    def value(exclude: Collection[str]) -> float:
        return wanted - _accuracy(laboratory, laboratory.graph(exclude), per_kind, progress)

    return value


def _accuracy(laboratory: Laboratory, graph: Graph, per_kind: int, progress: Progress) -> float:
    captions = held_out_captions(per_kind, 0)
    reference = laboratory.reference
    graphs = {"transformer": graph}
    with GraphsRuntime(laboratory.bundle, graphs, threads=laboratory.threads) as runtime:
        painted = generate_judged_images(
            laboratory.bundle,
            runtime,
            captions,
            table=reference.table,
            guidance=reference.guidance,
            batch=_SCORE_BATCH,
            progress=progress,
        )
        return sum(item.verdict.correct for item in painted) / len(captions)


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
        " excluded; take a finer scheme, a looser budget, or let more be excluded"
    )
