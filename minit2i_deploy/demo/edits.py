"""The demo's edits: one image-to-image, one inpainting and one outpainting, judged as the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.evaluation.shapes import (
    Object,
    Requirement,
    Scene,
    Spec,
    Verdict,
    draw_scene,
    judge,
)
from minit2i_deploy.generate import Result, generate
from minit2i_deploy.io.images import encode_png
from minit2i_deploy.protocol import Runtime

if TYPE_CHECKING:
    from PIL.Image import Image

_RED_CIRCLE: Final = Requirement(shape="circle", colour="red")
_BLUE_SQUARE: Final = Requirement(shape="square", colour="blue")
_GREEN_TRIANGLE: Final = Requirement(shape="triangle", colour="green")


@dataclass(frozen=True, kw_only=True, slots=True)
class EditCase:
    """An edit of a drawn scene.

    Args:
        name: of its files.
        title: what is done.
        scene: that is drawn and edited.
        prompt: caption of the result.
        required: objects that the caption asks for, and no others.
        arguments: of ``read_edit``, besides the images.
        open_from: column from which the mask is white, as a share of the width; None without a
            mask.
    """

    name: str
    title: str
    scene: Scene
    prompt: str
    required: tuple[Requirement, ...]
    arguments: Mapping[str, Any]
    open_from: float | None = None

    def spec(self) -> Spec:
        """What the detector looks for."""
        kind = "colours" if len(self.required) == 1 else "colour_attribution"
        return Spec(kind=kind, required=self.required)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EditedImage:
    """The image that was edited, what it became, and the detector's verdict."""

    case: EditCase
    first: Image
    result: Result
    verdict: Verdict

    @property
    def files(self) -> tuple[str, str]:
        """File names of both images, relative to the output folder."""
        stem = f"pictures/edit-{self.case.name}"
        return f"{stem}-first.png", f"{stem}.png"

    def to_dict(self) -> dict[str, Any]:
        """All but the images, ready for JSON."""
        first, edited = self.files
        return {
            "title": self.case.title,
            "caption": self.case.prompt,
            "first": first,
            "file": edited,
            "seed": self.result.seeds[0],
            "table": self.result.table,
            "guidance": self.result.guidance,
            "correct": self.verdict.correct,
            "reason": self.verdict.reason,
        }


_CIRCLE: Final = Object(shape="circle", colour="red", x=17, y=32, size=22)
# In a canvas of twice the side it is as large as objects of the training images.
_LARGE_CIRCLE: Final = Object(shape="circle", colour="red", x=26, y=32, size=40)
_SQUARE: Final = Object(shape="square", colour="blue", x=47, y=32, size=22)
CASES: Final = (
    EditCase(
        name="image-to-image",
        title="image-to-image, strength 0.85",
        scene=Scene(objects=(_CIRCLE,), background="grey"),
        prompt="a blue square",
        required=(_BLUE_SQUARE,),
        arguments={"strength": 0.85},
    ),
    EditCase(
        name="inpainting",
        title="inpainting of the right half",
        scene=Scene(objects=(_CIRCLE, _SQUARE), background="grey"),
        prompt="a red circle and a green triangle",
        required=(_RED_CIRCLE, _GREEN_TRIANGLE),
        arguments={},
        open_from=0.5,
    ),
    EditCase(
        name="outpainting",
        title="outpainting, 64 pixels to the right, 32 above and below",
        scene=Scene(objects=(_LARGE_CIRCLE,), background="grey"),
        prompt="a red circle and a blue square",
        required=(_RED_CIRCLE, _BLUE_SQUARE),
        arguments={"outpaint": (0, 32, 64, 32)},
    ),
)


def generate_edits(bundle: Bundle, runtime: Runtime, seed: int) -> Iterator[EditedImage]:
    """Every case, with the table that an edit takes by default.

    Args:
        bundle: what to run; its images are square.
        runtime: an open runtime of that bundle.
        seed: of every result.

    Raises:
        RuntimeFailure: the engine failed.
    """
    for case in CASES:
        first = draw_scene(case.scene, bundle.config.image_size)
        image = _image(first)
        edit = read_edit(bundle, **_sources(case, image))
        result = generate(bundle, runtime, case.prompt, seed=seed, **edit.arguments())
        verdict = judge(np.asarray(result.images[0]), case.spec())
        yield EditedImage(case=case, first=image, result=result, verdict=verdict)


def mask_of(case: EditCase, image: Image) -> Image | None:
    """White from a column on, or None where the case has no mask."""
    if case.open_from is None:
        return None
    values = np.zeros((image.height, image.width), np.uint8)
    values[:, round(case.open_from * image.width) :] = 255
    return _image(values)


def _sources(case: EditCase, image: Image) -> dict[str, Any]:
    mask = mask_of(case, image)
    key = "init_image" if "strength" in case.arguments else "inpaint"
    sources = {key: encode_png(image, {}), **case.arguments}
    return sources if mask is None else {**sources, "mask": encode_png(mask, {})}


def _image(pixels: np.ndarray) -> Image:
    from PIL import Image as PillowImage

    return PillowImage.fromarray(pixels)
