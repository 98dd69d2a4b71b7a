"""Random scenes with their captions: training data, and held-out captions to judge by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes.caption import PREFIXES, is_held_out, suffix, wordings
from minit2i_deploy.evaluation.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    NOVEL_COLOURS,
    NOVEL_KINDS,
    RELATIONS,
    SHAPES,
    Object,
    Requirement,
    Scene,
    Spec,
    lay_out,
)

T = TypeVar("T")

_PLAIN_FRACTION: Final = 0.6
_COLOUR_NAMES: Final = tuple(COLOURS)
_NOVEL_COLOUR_NAMES: Final = tuple(NOVEL_COLOURS)
_BACKGROUND_NAMES: Final = tuple(BACKGROUNDS)
_RELATION_NAMES: Final = tuple(RELATIONS)


def sample_scene(
    rng: np.random.Generator,
    kind: str | None = None,
    *,
    weights: Mapping[str, float] | None = None,
) -> tuple[Scene, Spec, str]:
    """Draw a scene and a training caption for it, never a held-out one.

    Args:
        rng: generator; the result depends on its state alone.
        kind: one of KINDS or NOVEL_KINDS, or None to draw one.
        weights: how often each kind is drawn when kind is None, in any unit; kinds that are
            not named are not drawn. None draws KINDS equally often and NOVEL_KINDS never.

    Raises:
        UsageError: kind is unknown, or weights name an unknown kind or sum to 0.
    """
    if kind is None:
        kind = _draw_kind(rng, weights)
    while True:
        spec, caption = _draw_caption(rng, kind)
        if not is_held_out(caption):
            return random_scene(rng, spec), spec, caption


def held_out_captions(
    n_per_kind: int, seed: int, kinds: Sequence[str] = KINDS
) -> list[tuple[Spec, str]]:
    """Draw captions that are excluded from training, kind after kind, each with its spec.

    Of a kind with few held-out captions some are drawn more than once.

    Raises:
        UsageError: n_per_kind or seed is negative, or a kind is unknown.
    """
    if n_per_kind < 0 or seed < 0:
        raise UsageError(
            f"expected a number of captions and a seed of 0 or more, got {n_per_kind} and {seed}"
        )
    rng = np.random.default_rng(seed)
    drawn: list[tuple[Spec, str]] = []
    for kind in kinds:
        end = len(drawn) + n_per_kind
        while len(drawn) < end:
            spec, caption = _draw_caption(rng, kind)
            if is_held_out(caption):
                drawn.append((spec, caption))
    return drawn


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    # For a single number rng.integers takes several times as long.
    return options[int(rng.random() * len(options))]


def _pick_two(rng: np.random.Generator, options: Sequence[T]) -> tuple[T, T]:
    first = int(rng.random() * len(options))
    second = int(rng.random() * (len(options) - 1))
    return options[first], options[second + (second >= first)]


def _draw_kind(rng: np.random.Generator, weights: Mapping[str, float] | None) -> str:
    if weights is None:
        return _pick(rng, KINDS)
    unknown = sorted(set(weights) - {*KINDS, *NOVEL_KINDS})
    total = float(sum(weights.values()))
    if unknown or not total > 0 or min(weights.values()) < 0:
        raise UsageError(
            "weights: expected non-negative numbers, not all 0, for kinds among "
            f"{', '.join((*KINDS, *NOVEL_KINDS))}, got {dict(weights)!r}"
        )
    point = rng.random() * total
    for kind, weight in weights.items():
        point -= weight
        if point < 0:
            return kind
    # Rounding may leave a point that no interval holds.
    return max(weights, key=lambda name: weights[name])


def _draw_caption(rng: np.random.Generator, kind: str) -> tuple[Spec, str]:
    if kind not in _DRAW_CONTENT:
        raise UsageError(f"kind: expected one of {', '.join(_DRAW_CONTENT)}, got {kind!r}")
    required = _DRAW_CONTENT[kind](rng)
    relation = _pick(rng, _RELATION_NAMES) if kind == "position" else None
    background = None if rng.random() < _PLAIN_FRACTION else _pick(rng, _BACKGROUND_NAMES)
    spec = Spec(kind=kind, required=required, relation=relation, background=background)
    return spec, _pick(rng, PREFIXES) + _pick(rng, wordings(spec)) + suffix(background)


def _one_shape(rng: np.random.Generator) -> tuple[Requirement, ...]:
    return (Requirement(shape=_pick(rng, SHAPES)),)


def _two_shapes(rng: np.random.Generator) -> tuple[Requirement, ...]:
    first, second = _pick_two(rng, SHAPES)
    return Requirement(shape=first), Requirement(shape=second)


def _several(rng: np.random.Generator) -> tuple[Requirement, ...]:
    return _one_shape(rng) * _pick(rng, (2, 3, 4))


def _coloured(rng: np.random.Generator) -> tuple[Requirement, ...]:
    return (Requirement(shape=_pick(rng, SHAPES), colour=_pick(rng, _COLOUR_NAMES)),)


def _two_coloured(rng: np.random.Generator) -> tuple[Requirement, ...]:
    shapes, colours = _pick_two(rng, SHAPES), _pick_two(rng, _COLOUR_NAMES)
    return (
        Requirement(shape=shapes[0], colour=colours[0]),
        Requirement(shape=shapes[1], colour=colours[1]),
    )


def _novel(rng: np.random.Generator) -> tuple[Requirement, ...]:
    return (Requirement(shape=_pick(rng, SHAPES), colour=_pick(rng, _NOVEL_COLOUR_NAMES)),)


def _novel_and_known(rng: np.random.Generator) -> tuple[Requirement, ...]:
    shapes = _pick_two(rng, SHAPES)
    colours = (_pick(rng, _NOVEL_COLOUR_NAMES), _pick(rng, _COLOUR_NAMES))
    # Either object may have the novel color, or its place would tell which it is.
    if rng.random() < 0.5:
        colours = (colours[1], colours[0])
    return (
        Requirement(shape=shapes[0], colour=colours[0]),
        Requirement(shape=shapes[1], colour=colours[1]),
    )


_DRAW_CONTENT: Final[dict[str, Callable[[np.random.Generator], tuple[Requirement, ...]]]] = {
    "single_object": _one_shape,
    "two_objects": _two_shapes,
    "counting": _several,
    "colours": _coloured,
    "position": _two_shapes,
    "colour_attribution": _two_coloured,
    "novel_colour": _novel,
    "novel_attribution": _novel_and_known,
}


def random_scene(rng: np.random.Generator, spec: Spec) -> Scene:
    """Draw a scene that shows what a spec requires, its objects in the order of the spec."""
    places = lay_out(rng, len(spec.required), spec.relation)
    objects = tuple(
        Object(shape=item.shape or _pick(rng, SHAPES), colour=colour, x=x, y=y, size=size)
        for item, colour, (x, y, size) in zip(
            spec.required, _draw_colours(rng, spec), places.tolist(), strict=True
        )
    )
    return Scene(objects=objects, background=spec.background or _pick(rng, _BACKGROUND_NAMES))


def _draw_colours(rng: np.random.Generator, spec: Spec) -> tuple[str, ...]:
    if spec.kind == "counting":
        return (_pick(rng, _COLOUR_NAMES),) * len(spec.required)
    if spec.kind == "position":
        return _pick_two(rng, _COLOUR_NAMES)
    return tuple(item.colour or _pick(rng, _COLOUR_NAMES) for item in spec.required)
