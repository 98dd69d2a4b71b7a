"""Sizes of images: of a bundle whose height and width are free, between its bounds."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import UsageError

# In the step graph's inputs of a bundle with free sizes.
FREE_AXES: Final = ("height", "width")


def check_side_bounds(config: ModelConfig, bounds: tuple[int, ...]) -> None:
    """Check the least and the most pixels of a side, of a network's images.

    Raises:
        UsageError: not two different multiples of the patch around the sides of ``config``, or
            too many patches.
    """
    patch, sides = config.patch_size, config.image_shape[1:]
    least, most = bounds if len(bounds) == 2 else (0, 0)
    # torch.export takes no free axis of one size.
    if least < patch or least % patch or most % patch or least == most:
        raise UsageError(
            f"sides are {'-'.join(map(str, bounds))}, expected MIN-MAX, both positive multiples of "
            f"the patch of {patch} pixels and MIN below MAX"
        )
    if not least <= min(sides) <= max(sides) <= most:
        raise UsageError(
            f"sides of {least} to {most} pixels exclude the image size of {config.size_text}; "
            "choose bounds around it, or another image size"
        )
    # Refuses a square with too many patches.
    config.with_image_size(most, most)


def sides_text(bounds: tuple[int, int]) -> str:
    """Bounds as text: "64 to 256 pixels"."""
    return "{} to {} pixels".format(*bounds)


def free_axes(
    model: ModelConfig, bounds: tuple[int, int] | None
) -> dict[str, tuple[int, int, int]]:
    """Least, usual and greatest pixels of the axes that are free; empty where none is."""
    if bounds is None:
        return {}
    least, most = bounds
    sides = model.image_shape[1:]
    return {name: (least, side, most) for name, side in zip(FREE_AXES, sides, strict=True)}


def sized_config(
    model: ModelConfig, bounds: tuple[int, int] | None, size: tuple[int, int]
) -> ModelConfig:
    """The network at another size than the bundle's own.

    Args:
        model: of the bundle's manifest.
        bounds: least and most pixels of a side, or None where the size is fixed.
        size: width and height in pixels.

    Raises:
        UsageError: the bundle's size is fixed, or it is not between its bounds.
    """
    config = model.with_image_size(*size)
    if config == model:
        return config
    if bounds is None:
        raise UsageError(
            f"image size is {config.size_text}, but the bundle's images are "
            f"{model.size_text} alone; export it with --sides MIN-MAX"
        )
    least, most = bounds
    if min(size) < least or max(size) > most:
        raise UsageError(
            f"image size is {config.size_text}, but sides of this bundle are {sides_text(bounds)}; "
            "export it with other --sides for more"
        )
    return config
