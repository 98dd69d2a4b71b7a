"""Wording of captions, and the split that excludes some of them from training."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Final

from minit2i_deploy.evaluation.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    NOVEL_COLOURS,
    RELATIONS,
    SHAPES,
    Requirement,
    Spec,
)

PREFIXES: Final = ("", "a picture of ", "a drawing of ", "an image of ")
RELATION_PHRASES: Final[dict[str, tuple[str, ...]]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below",),
}

_NUMBERS: Final = {2: "two", 3: "three", 4: "four"}
_PLURALS: Final = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
}
# One caption in so many is held out.
_SPLIT_MODULUS: Final = 8


def wordings(spec: Spec) -> tuple[str, ...]:
    """The phrases for what a spec requires, without prefix or background."""
    if spec.kind == "counting":
        shape = spec.required[0].shape
        assert shape is not None
        return (f"{_NUMBERS[len(spec.required)]} {_PLURALS[shape]}",)
    things = [_with_article(item) for item in spec.required]
    if spec.relation is not None:
        phrases = RELATION_PHRASES[spec.relation]
        return tuple(f"{things[0]} {phrase} {things[1]}" for phrase in phrases)
    return (" and ".join(things),)


def _with_article(item: Requirement) -> str:
    phrase = f"{item.colour} {item.shape}" if item.colour else f"{item.shape}"
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def suffix(background: str | None) -> str:
    """The phrase that names the background, with a leading space; empty for None."""
    return f" on a {background} background" if background else ""


def is_held_out(caption: str) -> bool:
    """Whether a caption is excluded from training; true for about one caption in eight.

    The answer depends on the caption's bytes alone, so it never changes between versions.
    """
    # Python's own hash() of a text differs from process to process.
    digest = hashlib.blake2b(caption.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _SPLIT_MODULUS == 0


def every_caption(kind: str) -> Iterator[tuple[Spec, str]]:
    """Every caption of a kind with its spec, in a fixed order."""
    for required, relation in _contents(kind):
        for background in (None, *BACKGROUNDS):
            spec = Spec(kind=kind, required=required, relation=relation, background=background)
            for prefix, wording in itertools.product(PREFIXES, wordings(spec)):
                yield spec, prefix + wording + suffix(background)


def _contents(kind: str) -> Iterator[tuple[tuple[Requirement, ...], str | None]]:
    pairs = itertools.permutations(SHAPES, 2)
    if kind == "single_object":
        for shape in SHAPES:
            yield (Requirement(shape=shape),), None
    elif kind == "two_objects":
        for pair in pairs:
            yield tuple(Requirement(shape=shape) for shape in pair), None
    elif kind == "counting":
        for number, shape in itertools.product(_NUMBERS, SHAPES):
            yield (Requirement(shape=shape),) * number, None
    elif kind == "colours":
        for shape, colour in itertools.product(SHAPES, COLOURS):
            yield (Requirement(shape=shape, colour=colour),), None
    elif kind == "position":
        for pair, relation in itertools.product(pairs, RELATIONS):
            yield tuple(Requirement(shape=shape) for shape in pair), relation
    elif kind == "novel_colour":
        for shape, colour in itertools.product(SHAPES, NOVEL_COLOURS):
            yield (Requirement(shape=shape, colour=colour),), None
    else:
        two_colours = tuple(itertools.permutations(COLOURS, 2))
        if kind == "novel_attribution":
            mixed = tuple(itertools.product(NOVEL_COLOURS, COLOURS))
            two_colours = (*mixed, *((old, new) for new, old in mixed))
        for pair, colours in itertools.product(pairs, two_colours):
            yield (
                tuple(Requirement(shape=s, colour=c) for s, c in zip(pair, colours, strict=True)),
                None,
            )


def vocabulary_corpus() -> Iterator[str]:
    """Every caption that is not held out, once; each word occurs many times."""
    for kind in KINDS:
        for _, caption in every_caption(kind):
            if not is_held_out(caption):
                yield caption
