"""Where an image lies in the canvas that is generated around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A scaled image in a canvas.

    Args:
        canvas: width and height of the canvas before scaling.
        target: and after it, the size that is generated.
        left: of the scaled image, in pixels of the scaled canvas.
        top: as ``left``.
        size: width and height of the scaled image.
    """

    canvas: tuple[int, int]
    target: tuple[int, int]
    left: int
    top: int
    size: tuple[int, int]

    @classmethod
    def of(
        cls,
        name: str,
        size: tuple[int, int],
        borders: Sequence[int],
        target: tuple[int, int],
    ) -> Placement:
        """Add borders to an image, give the canvas the target's shape, and scale it.

        Where the canvas with its borders has another shape, its shorter direction gets more
        border, half on each side, so that nothing of the image is cropped.

        Args:
            name: of the image, for errors.
            size: its width and height in pixels.
            borders: pixels to add at the left, top, right and bottom.
            target: width and height of the scaled canvas.

        Raises:
            UsageError: not four borders of at least 0, no border at all, or an image that would
                be thinner than a pixel.
        """
        if len(borders) != 4 or min(borders) < 0:
            raise UsageError(
                "outpaint expects four numbers of pixels of at least 0, LEFT,TOP,RIGHT,BOTTOM, got "
                f"{','.join(map(str, borders))}"
            )
        left, top, right, bottom = borders
        width, height = left + size[0] + right, top + size[1] + bottom
        canvas, ratio = _canvas((width, height), target)
        begins = (left + (canvas[0] - width) // 2, top + (canvas[1] - height) // 2)
        edges = [
            tuple(_scaled(place, *ratio) for place in (begin, begin + length))
            for begin, length in zip(begins, size, strict=True)
        ]
        scaled = (edges[0][1] - edges[0][0], edges[1][1] - edges[1][0])
        if min(scaled) < 1:
            raise UsageError(
                f"{name}: thinner than a pixel in a canvas of {canvas[0]} x {canvas[1]} pixels "
                f"that is scaled to {target[0]} x {target[1]}; outpaint less"
            )
        if scaled == target:
            raise UsageError(f"{name}: no border is left to generate; outpaint more")
        return cls(canvas=canvas, target=target, left=edges[0][0], top=edges[1][0], size=scaled)

    def note(self, name: str) -> str:
        """What was done, in a line for people."""
        width, height = self.size
        return (
            f"{name}: canvas of {self.canvas[0]} x {self.canvas[1]} pixels, scaled to "
            f"{self.target[0]} x {self.target[1]}; the image has {width} x {height} of them, "
            f"{self.left} from the left and {self.top} from the top"
        )


def place(
    values: Float32[np.ndarray, "bands image_height image_width"],
    placement: Placement,
    border: float,
) -> Float32[np.ndarray, "bands height width"]:
    """Values in their place in the canvas, with ``border`` around them."""
    canvas = np.full((len(values), *placement.target[::-1]), border, np.float32)
    width, height = placement.size
    top, left = placement.top, placement.left
    canvas[:, top : top + height, left : left + width] = values
    return canvas


def _canvas(
    least: tuple[int, int], target: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest canvas of the target's shape, rounded up, and the two numbers that scale it."""
    (width, height), (target_width, target_height) = least, target
    if width * target_height >= height * target_width:
        return (width, -(-width * target_height // target_width)), (target_width, width)
    return (-(-height * target_width // target_height), height), (target_height, height)


def _scaled(place: int, side: int, canvas: int) -> int:
    # In integers, so that no border is too large; half a pixel goes up.
    return (2 * place * side + canvas) // (2 * canvas)
