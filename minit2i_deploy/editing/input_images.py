"""From image files to what ``generate`` takes: the first image, the pixels that stay, the mask.

Every image is scaled and cropped to the size that is generated, as training does it for squares,
its mask with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.canvas import Placement, place
from minit2i_deploy.editing.edit import check_strength
from minit2i_deploy.editing.feather import feathered
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_input import (
    crop_center,
    decode_image,
    on_white,
    read_image_file,
    scaled_size,
    to_network,
)
from minit2i_deploy.solvers.step_inputs import CANNOT_EDIT

if TYPE_CHECKING:
    from PIL.Image import Image

Source = bytes | str | os.PathLike[str]
# What of a mask is generated: its white, its black, or its transparent pixels.
NewPixels = Literal["white", "black", "transparent"]

_OPAQUE: Final = 255


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class InputImages:
    """Images of an edit as ``generate`` takes them.

    Args:
        init_image: float32 [3, H, W], -1 black to 1 white, to begin with, or None.
        strength: how much of it is new, or None.
        known: float32 [3, H, W], pixels that stay where the mask is 0, or None.
        mask: float32 [H, W], 1 where the image is new, 0 where it stays, or None.
        notes: a line for each image that was scaled, for people.
    """

    init_image: Float32[np.ndarray, "3 height width"] | None = None
    strength: float | None = None
    known: Float32[np.ndarray, "3 height width"] | None = None
    mask: Float32[np.ndarray, "height width"] | None = None
    notes: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``generate``."""
        return {
            "init_image": self.init_image,
            "strength": self.strength,
            "known": self.known,
            "mask": self.mask,
        }


def read_edit(
    bundle: Bundle,
    *,
    init_image: Source | None = None,
    strength: float | None = None,
    inpaint: Source | None = None,
    mask: Source | None = None,
    outpaint: Sequence[int] | None = None,
    feather: float = 0.0,
    new_pixels: NewPixels = "white",
) -> InputImages:
    """Read the images of an edit, from files or from bytes of files.

    Args:
        bundle: has the size of images; for another one, ``bundle.at_size``.
        init_image: image to begin with, which needs ``strength``.
        strength: how much of the first image is new, 0 to 1. With ``inpaint`` the open part
            begins with that image; without it, with noise.
        inpaint: image of which a part stays.
        mask: image of the same size that says which part; without it the transparent pixels of
            ``inpaint`` are new.
        outpaint: pixels to add to ``inpaint`` at the left, top, right and bottom, all of them new.
        feather: width in pixels of the bundle's image over which the border of the mask is
            softened into the part that stays.
        new_pixels: what of ``mask`` is new.

    Raises:
        UsageError: a file that is no usable image, or arguments that do not fit together; the
            message is one line.
    """
    _check_arguments(init_image, strength, inpaint, mask, outpaint, feather)
    if init_image is None and inpaint is None:
        return InputImages()
    target = _size_of(bundle)
    if inpaint is None:
        assert init_image is not None
        image, note = _cropped(_named("init image", init_image), target)
        pixels = to_network(on_white(image))
        return InputImages(init_image=pixels, strength=strength, notes=note)
    if not bundle.manifest.can_edit:
        raise UsageError(f"{bundle.path}: {CANNOT_EDIT}")
    name, image = _named("image", inpaint)
    open_part = _open_part(name, image, mask, new_pixels, needed=outpaint is None)
    if outpaint is not None:
        return _outpainted(name, image, open_part, outpaint, target, feather)
    cropped, note = _cropped((name, image), target)
    is_new = _values(crop_center(open_part, target, resample=_bilinear()))
    _check_both(name if mask is None else _name("mask", mask), is_new)
    # Transparent pixels are new; what is half so stays with its own color, not with white in it.
    known = to_network((on_white(cropped) if mask is not None else cropped).convert("RGB"))
    return InputImages(
        init_image=None if strength is None else to_network(on_white(cropped)),
        strength=strength,
        known=known,
        mask=feathered(is_new, feather),
        notes=note,
    )


def _size_of(bundle: Bundle) -> tuple[int, int]:
    _, height, width = bundle.config.image_shape
    return width, height


def _check_arguments(
    init_image: Source | None,
    strength: float | None,
    inpaint: Source | None,
    mask: Source | None,
    outpaint: Sequence[int] | None,
    feather: float,
) -> None:
    rules = (
        (init_image is not None and inpaint is not None, "an init image and an image to inpaint "
         "are mutually exclusive; strength makes inpainting begin with its own image"),
        (init_image is not None and strength is None, "an init image requires a strength from 0 "
         "(the image as it is) to 1 (a new one)"),
        (strength is not None and init_image is None and inpaint is None, "strength requires an "
         "init image or an image to inpaint"),
        (mask is not None and inpaint is None, "a mask requires an image to inpaint"),
        (outpaint is not None and inpaint is None, "outpaint requires an image to inpaint"),
        (outpaint is not None and strength is not None, "outpaint and strength are mutually "
         "exclusive, because the new border has no image to begin with"),
        (feather != 0 and inpaint is None, "feather requires an image to inpaint"),
    )  # fmt: skip
    for applies, message in rules:
        if applies:
            raise UsageError(message)
    if strength is not None:
        check_strength(strength)


def _outpainted(
    name: str,
    image: Image,
    open_part: Image,
    borders: Sequence[int],
    target: tuple[int, int],
    feather: float,
) -> InputImages:
    placement = Placement.of(name, image.size, borders, target)
    known = place(to_network(on_white(image.resize(placement.size, _bicubic()))), placement, 0.0)
    scaled = open_part.resize(placement.size, _bilinear())
    is_new = place(_values(scaled)[None], placement, 1.0)[0]
    _check_both(name, is_new)
    return InputImages(known=known, mask=feathered(is_new, feather), notes=(placement.note(name),))


def _open_part(
    name: str, image: Image, mask: Source | None, new_pixels: NewPixels, *, needed: bool
) -> Image:
    """What of an image is new, as an 8-bit image of its size: 255 new, 0 stays."""
    from PIL import Image as PillowImage
    from PIL import ImageOps

    if mask is None:
        if image.mode == "RGBA":
            return ImageOps.invert(image.getchannel("A"))
        if needed:
            raise UsageError(
                f"{name}: has no transparent pixels that would be new; add a mask, or name a border"
                " to outpaint"
            )
        return PillowImage.new("L", image.size, 0)
    mask_name, values = _named("mask", mask)
    if values.size != image.size:
        raise UsageError(
            f"{mask_name}: {_size(values.size)} pixels, but {name} has {_size(image.size)}; save "
            "the mask with the size of its image"
        )
    if new_pixels == "transparent":
        alpha = values.getchannel("A") if values.mode == "RGBA" else None
        if alpha is None:
            raise UsageError(f"{mask_name}: has no transparent pixels; erase what is to be new")
        return ImageOps.invert(alpha)
    if values.mode == "RGBA":
        # Strokes on an empty layer: what was not drawn on is not marked.
        backdrop = PillowImage.new("RGBA", values.size, "black")
        values = PillowImage.alpha_composite(backdrop, values)
    grey = values.convert("L")
    return ImageOps.invert(grey) if new_pixels == "black" else grey


def _check_both(name: str, is_new: Float32[np.ndarray, "height width"]) -> None:
    if not is_new.any():
        raise UsageError(f"{name}: marks nothing that would be new in the part that is generated")
    if (is_new == 1).all():
        raise UsageError(f"{name}: marks everything as new in the part that is generated")


def _cropped(named: tuple[str, Image], target: tuple[int, int]) -> tuple[Image, tuple[str, ...]]:
    name, image = named
    if image.size == target:
        return image, ()
    scaled = scaled_size(image.size, target)
    note = f"{name}: {_size(image.size)} pixels"
    note += "" if scaled == image.size else f", scaled to {_size(scaled)}"
    note += "" if scaled == target else f", cropped to {_size(target)}"
    return crop_center(image, target), (note,)


def _named(what: str, source: Source) -> tuple[str, Image]:
    name = _name(what, source)
    data = source if isinstance(source, bytes) else read_image_file(source)
    try:
        return name, decode_image(data)
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read as an image: {error}") from error


def _name(what: str, source: Source) -> str:
    return what if isinstance(source, bytes) else str(source)


def _values(image: Image) -> Float32[np.ndarray, "height width"]:
    return np.asarray(image, np.float32) / np.float32(_OPAQUE)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _bilinear() -> int:
    from PIL import Image

    # Without overshoot, so that a scaled mask stays within 0..1.
    return Image.Resampling.BILINEAR


def _bicubic() -> int:
    from PIL import Image

    return Image.Resampling.BICUBIC
