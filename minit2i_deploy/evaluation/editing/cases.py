"""Editing cases: a drawn scene, the part that is generated anew, and the caption to follow.

Captions are held out from training. In each case some scene exists that follows the caption and
has the known pixels, so a perfect model scores 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Bool, UInt8

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes.draw import draw_scene
from minit2i_deploy.evaluation.shapes.random_scenes import held_out_captions, random_scene
from minit2i_deploy.evaluation.shapes.scene import (
    COLOURS,
    FRAME,
    SHAPES,
    Object,
    Scene,
    Spec,
    lay_out,
)

T = TypeVar("T")

ADD: Final = "add"
REMOVE: Final = "remove"
RECOLOUR: Final = "recolour"
IMAGE_TO_IMAGE: Final = "image-to-image"
# Pixels around an object that its mask opens too: less than the gap to the next object.
_MARGIN: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EditingCase:
    """One image to edit.

    Args:
        task: one of TASKS.
        caption: the prompt.
        spec: what it requires of the result.
        image: uint8 [size, size, 3], RGB, before the edit.
        is_open: bool [size, size], pixels to generate; all of them in image-to-image.
        objects: that the result must show at their places, in a frame of 64 pixels.
    """

    task: str
    caption: str
    spec: Spec
    image: UInt8[np.ndarray, "size size 3"] = field(repr=False)
    is_open: Bool[np.ndarray, "size size"] = field(repr=False)
    objects: tuple[Object, ...]


def editing_cases(task: str, count: int, seed: int, size: int = FRAME) -> list[EditingCase]:
    """Draw cases of a task, its kinds of captions in turn.

    Args:
        task: "add" an object beside a known one, "remove" one, "recolour" one under a mask, or
            "image-to-image", the same recolouring without a mask.
        count: number of cases.
        seed: of captions and scenes, 0 or more.
        size: side of the images in pixels.

    Raises:
        UsageError: the task is unknown, or count or seed is out of range.
    """
    if task not in TASKS:
        raise UsageError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    kinds, draw_case = TASKS[task]
    per_kind = math.ceil(count / len(kinds))
    captions = held_out_captions(per_kind, seed, kinds)
    # Another stream than that of the captions.
    rng = np.random.default_rng([seed, list(TASKS).index(task), 1])
    in_turn = [captions[k * per_kind + i] for i in range(per_kind) for k in range(len(kinds))]
    return [draw_case(rng, spec, caption, size) for spec, caption in in_turn[:count]]


def _add(rng: np.random.Generator, spec: Spec, caption: str, size: int) -> EditingCase:
    """One of two objects is known; the open side of the image has room for the other."""
    scene = random_scene(rng, spec)
    retained = int(rng.integers(2))
    known, missing = scene.objects[retained], scene.objects[1 - retained]
    return EditingCase(
        task=ADD,
        caption=caption,
        spec=spec,
        image=draw_scene(dataclasses.replace(scene, objects=(known,)), size),
        is_open=_side(missing, known, size),
        objects=(known,),
    )


def _remove(rng: np.random.Generator, spec: Spec, caption: str, size: int) -> EditingCase:
    """The caption names one of two objects; the box of the other is open."""
    scene = random_scene(rng, spec)
    first, second = (
        Object(shape=shape, colour=colour, x=x, y=y, size=side)
        for shape, colour, (x, y, side) in zip(
            _with_another(rng, scene.objects[0].shape, SHAPES),
            _with_another(rng, scene.objects[0].colour, tuple(COLOURS)),
            lay_out(rng, 2).tolist(),
            strict=True,
        )
    )
    return EditingCase(
        task=REMOVE,
        caption=caption,
        spec=spec,
        image=draw_scene(dataclasses.replace(scene, objects=(first, second)), size),
        is_open=_box(second, size),
        objects=(first,),
    )


def _recolour(rng: np.random.Generator, spec: Spec, caption: str, size: int) -> EditingCase:
    """One object has another colour than the caption says; its box is open."""
    scene = random_scene(rng, spec)
    changed = int(rng.integers(len(scene.objects)))
    others = tuple(item for i, item in enumerate(scene.objects) if i != changed)
    return EditingCase(
        task=RECOLOUR,
        caption=caption,
        spec=spec,
        image=draw_scene(_with_another_colour(rng, scene, changed), size),
        is_open=_box(scene.objects[changed], size),
        objects=others,
    )


def _image_to_image(rng: np.random.Generator, spec: Spec, caption: str, size: int) -> EditingCase:
    """As recolour, but every pixel may change, and every object must stay at its place."""
    scene = random_scene(rng, spec)
    changed = int(rng.integers(len(scene.objects)))
    return EditingCase(
        task=IMAGE_TO_IMAGE,
        caption=caption,
        spec=spec,
        image=draw_scene(_with_another_colour(rng, scene, changed), size),
        is_open=np.ones((size, size), bool),
        objects=scene.objects,
    )


TASKS: Final[
    dict[
        str,
        tuple[tuple[str, ...], Callable[[np.random.Generator, Spec, str, int], EditingCase]],
    ]
] = {
    ADD: (("two_objects", "position", "colour_attribution"), _add),
    REMOVE: (("single_object", "colours"), _remove),
    RECOLOUR: (("colours", "colour_attribution"), _recolour),
    IMAGE_TO_IMAGE: (("colours", "colour_attribution"), _image_to_image),
}


def _side(item: Object, other: Object, size: int) -> Bool[np.ndarray, "size size"]:
    """The side of an object, up to the middle of the widest gap between it and another one."""
    reach = (item.size + other.size) / 2
    gaps = (abs(item.x - other.x) - reach, abs(item.y - other.y) - reach)
    by_x = gaps[0] > gaps[1]
    here, there = (item.x, other.x) if by_x else (item.y, other.y)
    sign = 1 if here > there else -1
    border = here - sign * (item.size + max(gaps)) / 2
    centres = (np.arange(size) + 0.5) * FRAME / size
    beyond = sign * (centres - border) > 0
    across = beyond if by_x else beyond[:, None]
    return np.broadcast_to(across, (size, size)).copy()


def _box(item: Object, size: int) -> Bool[np.ndarray, "size size"]:
    """The box of an object with its margin."""
    scale = size / FRAME
    is_open = np.zeros((size, size), bool)
    edges = [
        (
            max(math.floor((centre - item.size / 2 - _MARGIN) * scale), 0),
            math.ceil((centre + item.size / 2 + _MARGIN) * scale),
        )
        for centre in (item.y, item.x)
    ]
    (top, bottom), (left, right) = edges
    is_open[top:bottom, left:right] = True
    return is_open


def _with_another_colour(rng: np.random.Generator, scene: Scene, index: int) -> Scene:
    """The scene with another colour of one object, which no object has."""
    colours = {item.colour for item in scene.objects}
    other = _pick(rng, [name for name in COLOURS if name not in colours])
    objects = tuple(
        dataclasses.replace(item, colour=other) if i == index else item
        for i, item in enumerate(scene.objects)
    )
    return dataclasses.replace(scene, objects=objects)


def _with_another(rng: np.random.Generator, name: str, names: Sequence[str]) -> tuple[str, str]:
    return name, _pick(rng, [one for one in names if one != name])


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
