"""Strict mapping of a source's arrays onto the canonical names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from minit2i_deploy.checkpoints.canonical_names import UNUSED
from minit2i_deploy.checkpoints.checkpoint import Dropped
from minit2i_deploy.checkpoints.containers.container import Container
from minit2i_deploy.errors import CheckpointError

# Axes of the source in the order of the target; None is a plain copy.
Axes = tuple[int, ...] | None

COPY: Final[Axes] = None
TRANSPOSE: Final[Axes] = (1, 0)
HWIO_TO_OIHW: Final[Axes] = (3, 2, 0, 1)

_FLOATS: Final = ("float32", "float16", "bfloat16")
_MAX_LISTED: Final = 4
_UNUSED_REASON: Final = "reaches no output of the network"


@dataclass(frozen=True, slots=True)
class Target:
    """The canonical name that a source array fills, and how its axes turn."""

    name: str
    axes: Axes = COPY

    def turn(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The source's shape in the target's order; unchanged if it has other axes."""
        if self.axes is None or len(self.axes) != len(shape):
            return shape
        return tuple(shape[axis] for axis in self.axes)


@dataclass(frozen=True, slots=True)
class Drop:
    """A source array that is known and not read; ``what`` groups it in the report."""

    what: str
    reason: str


# None means that the name is not known.
Rule = Callable[[str], Target | Drop | None]


def canonical_target(name: str, axes: Axes = COPY) -> Target | Drop:
    """The target of a canonical name, or a drop where it is one of the unused embedders'."""
    if name in UNUSED:
        return Drop(name.split(".")[0], _UNUSED_REASON)
    return Target(name, axes)


def without_wrappers(name: str) -> str:
    """A tensor's name without what torch.compile and DistributedDataParallel put into it.

    ``_orig_mod.`` stands before the names of any compiled module, ``module.`` before all names.
    """
    return name.removeprefix("module.").replace("_orig_mod.", "").removeprefix("module.")


@dataclass(frozen=True, slots=True)
class Assembled:
    """Float32 tensors in canonical order, what was dropped, and the types they were stored in."""

    tensors: dict[str, np.ndarray]
    dropped: tuple[Dropped, ...]
    dtypes: dict[str, int]


def assemble(
    container: Container, rule: Rule, shapes: Mapping[str, tuple[int, ...]], where: str
) -> Assembled:
    """Read the arrays of a container that fill ``shapes``.

    Every array of the container must be a target or dropped by name, every target must be
    filled exactly once and with its shape.

    Raises:
        CheckpointError: names or shapes differ, a type is not a float of 16 or 32 bits, or a
            value is not finite.
    """
    targets, drops, unexpected, duplicate = _apply_rule(container, rule, shapes)
    missing = sorted(shapes.keys() - {target.name for target in targets.values()})
    misshaped = _misshaped(container, targets, shapes)
    if missing or unexpected or misshaped or duplicate:
        raise CheckpointError(_mismatch(where, missing, unexpected, misshaped, duplicate))
    dtypes = Counter(container.leaf(name).dtype for name in targets)
    foreign = sorted(dtypes.keys() - set(_FLOATS))
    if foreign:
        raise CheckpointError(
            f"{where}: weights of type {foreign[0]}, expected one of {', '.join(_FLOATS)}; "
            "give the checkpoint as it was before it was quantized or converted"
        )
    filled: dict[str, np.ndarray] = {}
    for source_name, array in container.read(list(targets)):
        target = targets[source_name]
        filled[target.name] = _float32(array, target.axes, f"{where}: {source_name}")
    return Assembled({name: filled[name] for name in shapes}, drops, dict(sorted(dtypes.items())))


def _apply_rule(
    container: Container, rule: Rule, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Target], tuple[Dropped, ...], list[str], list[str]]:
    """Targets by source name, what is dropped, and the unexpected and the duplicate names."""
    targets: dict[str, Target] = {}
    drops: Counter[Drop] = Counter()
    unexpected = []
    for source_name in container.names:
        result = rule(without_wrappers(source_name))
        if isinstance(result, Drop):
            drops[result] += 1
        elif result is None or result.name not in shapes:
            unexpected.append(source_name)
        else:
            targets[source_name] = result
    times = Counter(target.name for target in targets.values())
    dropped = tuple(
        Dropped(what=drop.what, num_tensors=count, reason=drop.reason)
        for drop, count in sorted(drops.items(), key=lambda item: item[0].what)
    )
    return targets, dropped, sorted(unexpected), sorted(n for n, c in times.items() if c > 1)


def _misshaped(
    container: Container,
    targets: Mapping[str, Target],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    wrong = []
    for source_name, target in targets.items():
        actual, expected = target.turn(container.leaf(source_name).shape), shapes[target.name]
        if actual != expected:
            wrong.append(f"{target.name} {list(actual)} (expected {list(expected)})")
    return sorted(wrong)


def _mismatch(
    where: str,
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
    duplicate: list[str],
) -> str:
    lists = {
        "missing": missing,
        "unexpected": unexpected,
        "misshaped": misshaped,
        "duplicate": duplicate,
    }
    parts = []
    for kind, names in lists.items():
        if names:
            rest = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            parts.append(f"{len(names)} {kind}: {', '.join(names[:_MAX_LISTED])}{rest}")
    return (
        f"{where}: the tensors are not those of the network its configuration describes: "
        f"{'; '.join(parts)}; check that weights and configuration belong together"
    )


def _float32(array: np.ndarray, axes: Axes, where: str) -> np.ndarray:
    # A copy even where none is needed: the source's buffers may be read-only or a mapped file.
    out = np.array(array if axes is None else array.transpose(axes), np.float32, order="C")
    finite = np.isfinite(out)
    if not finite.all():
        raise CheckpointError(
            f"{where}: {finite.size - np.count_nonzero(finite)} of {finite.size} values are NaN "
            "or infinite; take an earlier checkpoint of the run"
        )
    return out
