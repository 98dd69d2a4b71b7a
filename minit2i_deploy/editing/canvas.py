"""Where an image lies in the square that is generated around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A scaled image in a square canvas.

    Args:
        canvas: pixels of the square's side before scaling.
        side: pixels of its side after scaling, the bundle's.
        left: of the scaled image, in pixels of the scaled square.
        top: as ``left``.
        size: width and height of the scaled image.
    """

    canvas: int
    side: int
    left: int
    top: int
    size: tuple[int, int]

    @classmethod
    def of(cls, name: str, size: tuple[int, int], borders: Sequence[int], side: int) -> Placement:
        """Add borders to an image, make the canvas square, and scale it to ``side``.

        Where the canvas with its borders is not square, its shorter direction gets more border,
        half on each side, so that nothing of the image is cropped.

        Args:
            name: of the image, for errors.
            size: its width and height in pixels.
            borders: pixels to add at the left, top, right and bottom.
            side: of the scaled square.

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
        canvas = max(width, height)
        begins = (left + (canvas - width) // 2, top + (canvas - height) // 2)
        edges = [
            tuple(_scaled(place, side, canvas) for place in (begin, begin + length))
            for begin, length in zip(begins, size, strict=True)
        ]
        scaled = (edges[0][1] - edges[0][0], edges[1][1] - edges[1][0])
        if min(scaled) < 1:
            raise UsageError(
                f"{name}: thinner than a pixel in a canvas of {canvas} x {canvas} pixels that is "
                f"scaled to {side} x {side}; outpaint less"
            )
        if scaled == (side, side):
            raise UsageError(f"{name}: no border is left to generate; outpaint more")
        return cls(canvas=canvas, side=side, left=edges[0][0], top=edges[1][0], size=scaled)

    def note(self, name: str) -> str:
        """What was done, in a line for people."""
        width, height = self.size
        return (
            f"{name}: canvas of {self.canvas} x {self.canvas} pixels, scaled to {self.side} x "
            f"{self.side}; the image has {width} x {height} of them, {self.left} from the left and "
            f"{self.top} from the top"
        )


def place(
    values: Float32[np.ndarray, "bands image_height image_width"],
    placement: Placement,
    border: float,
) -> Float32[np.ndarray, "bands height width"]:
    """Values in their place in the square, with ``border`` around them."""
    square = np.full((len(values), placement.side, placement.side), border, np.float32)
    width, height = placement.size
    top, left = placement.top, placement.left
    square[:, top : top + height, left : left + width] = values
    return square


def _scaled(place: int, side: int, canvas: int) -> int:
    # In integers, so that no border is too large; half a pixel goes up.
    return (2 * place * side + canvas) // (2 * canvas)
