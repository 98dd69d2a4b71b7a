"""Scenes: which objects an image holds and how they are laid out, and what a caption requires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64

from minit2i_deploy.errors import UsageError

FRAME: Final = 64
MARGIN: Final = 2.0
GAP: Final = 4.0

SHAPES: Final = ("circle", "square", "triangle", "cross")

# Pairwise at least 118 apart in RGB and 123 from every background, so that an image whose colours
# are slightly off is still read correctly.
COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 20, 40),
    "green": (20, 160, 50),
    "blue": (30, 70, 230),
    "yellow": (255, 230, 60),
    "orange": (255, 128, 0),
    "purple": (140, 20, 190),
}
BACKGROUNDS: Final[dict[str, tuple[int, int, int]]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
}

KINDS: Final = (
    "single_object",
    "two_objects",
    "counting",
    "colours",
    "position",
    "colour_attribution",
)

# For adapters to learn, because the shipped model never saw it: drawn, required and detected only
# in novel kinds. At least 143 from every other colour and background.
NOVEL_COLOURS: Final[dict[str, tuple[int, int, int]]] = {"cyan": (0, 210, 225)}
NOVEL_KINDS: Final = ("novel_colour", "novel_attribution")

# Unit offset of the first object from the second, in image axes (y grows downwards).
RELATIONS: Final[dict[str, tuple[int, int]]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}

_SIZE_RANGES: Final = {1: (20.0, 34.0), 2: (16.0, 26.0), 3: (14.0, 20.0), 4: (14.0, 20.0)}
_RELATION_RATIO: Final = 1.3
_BATCHES: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Object:
    """One solid, unrotated shape.

    Args:
        x: centre of the box from the left edge, in pixels of a 64-pixel frame.
        y: centre of the box from the top edge, likewise.
        size: side of the box in the same pixels.
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything an image shows."""

    objects: tuple[Object, ...]
    background: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """One required object; None allows any value of that property."""

    shape: str | None = None
    colour: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What a caption requires.

    Args:
        kind: one of KINDS or NOVEL_KINDS.
        required: the objects, in the caption's order; there must be no others.
        relation: where the first object is relative to the second, a key of RELATIONS.
        background: the background the caption names, or None.

    Raises:
        UsageError: a name is unknown, or there is a relation without exactly two objects.
    """

    kind: str
    required: tuple[Requirement, ...]
    relation: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        _check_name("kind", self.kind, (*KINDS, *NOVEL_KINDS))
        if self.relation is not None:
            _check_name("relation", self.relation, tuple(RELATIONS))
            if len(self.required) != 2:
                raise UsageError(
                    f"relation {self.relation!r}: expected two objects, got {len(self.required)}"
                )
        if self.background is not None:
            _check_name("background", self.background, tuple(BACKGROUNDS))
        for item in self.required:
            if item.shape is not None:
                _check_name("shape", item.shape, SHAPES)
            if item.colour is not None:
                _check_name("colour", item.colour, tuple(colours_of(self.kind)))


def colours_of(kind: str) -> dict[str, tuple[int, int, int]]:
    """The colours that images of a kind may have: novel ones only if the kind is novel."""
    return COLOURS | NOVEL_COLOURS if kind in NOVEL_KINDS else COLOURS


def _check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UsageError(f"{what}: expected one of {', '.join(known)}, got {name!r}")


def lay_out(
    rng: np.random.Generator, num_objects: int, relation: str | None = None
) -> Float64[np.ndarray, "num_objects 3"]:
    """Draw positions that respect the margin, the gaps and the relation, by rejection.

    Args:
        rng: generator; the result depends on its state alone.
        num_objects: 1 to 4.
        relation: where object 0 is relative to object 1; their boxes do not overlap along that
            axis, and the offset there exceeds 1.3 times the other one.

    Returns:
        float64 [num_objects, 3]: x, y, size in pixels of a 64-pixel frame.

    Raises:
        UsageError: num_objects is not 1 to 4.
    """
    if num_objects not in _SIZE_RANGES:
        raise UsageError(f"expected 1 to 4 objects, got {num_objects}")
    low, high = _SIZE_RANGES[num_objects]
    # Of four objects about one draw in a hundred passes; many draws at once cost as much as one.
    num_draws = 1 if num_objects == 1 else 128
    for _ in range(_BATCHES):
        draws = rng.random((num_draws, num_objects, 3))
        size = low + (high - low) * draws[..., 2:]
        centre = MARGIN + size / 2 + (FRAME - 2 * MARGIN - size) * draws[..., :2]
        places = np.concatenate((centre, size), axis=-1)
        passed = _accept(places, relation)
        first = int(passed.argmax())
        if passed[first]:
            return places[first]
    raise AssertionError(f"no layout of {num_objects} objects in {_BATCHES} batches")


def _accept(
    places: Float64[np.ndarray, "draws objects 3"], relation: str | None
) -> Bool[np.ndarray, " draws"]:
    passed = np.ones(len(places), dtype=bool)
    num_objects = places.shape[1]
    for i in range(num_objects):
        for j in range(i):
            offset = np.abs(places[:, i, :2] - places[:, j, :2]).max(axis=-1)
            passed &= offset - (places[:, i, 2] + places[:, j, 2]) / 2 >= GAP
    if relation is not None:
        offset = places[:, 0, :2] - places[:, 1, :2]
        axis = 0 if RELATIONS[relation][0] else 1
        along = offset[:, axis] * RELATIONS[relation][axis]
        passed &= along >= places[:, :2, 2].sum(axis=-1) / 2
        passed &= along > _RELATION_RATIO * np.abs(offset[:, 1 - axis])
    return passed
