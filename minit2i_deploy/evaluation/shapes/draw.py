"""Drawing: an anti-aliased image of a scene, from the share of each pixel that a shape covers."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes.scene import BACKGROUNDS, COLOURS, FRAME, NOVEL_COLOURS, Scene

_COLOUR_VALUES: Final = {
    n: np.array(c, dtype=np.float32) for n, c in (COLOURS | NOVEL_COLOURS).items()
}
_BACKGROUND_VALUES: Final = {n: np.array(c, dtype=np.float32) for n, c in BACKGROUNDS.items()}


def draw_scene(scene: Scene, size: int = FRAME) -> UInt8[np.ndarray, "size size 3"]:
    """Draw a scene.

    Args:
        scene: coordinates are in a 64-pixel frame and are scaled to the image.
        size: height and width of the image in pixels.

    Returns:
        uint8 [size, size, 3], RGB, 0 to 255.

    Raises:
        UsageError: size is not positive.
    """
    if size <= 0:
        raise UsageError(f"expected a positive image size in pixels, got {size}")
    scale = size / FRAME
    image = np.empty((size, size, 3), dtype=np.float32)
    image[:] = _BACKGROUND_VALUES[scene.background]
    for item in scene.objects:
        x, y, side = item.x * scale, item.y * scale, item.size * scale
        # One pixel beyond the box, where an edge may cover a part.
        left, top = int(x - side / 2 - 1), int(y - side / 2 - 1)
        right, bottom = int(x + side / 2 + 2), int(y + side / 2 + 2)
        window = image[max(top, 0) : bottom, max(left, 0) : right]
        cover = coverage(
            item.shape,
            x - max(left, 0),
            y - max(top, 0),
            side,
            side,
            (window.shape[0], window.shape[1]),
        )
        window += cover[..., None] * (_COLOUR_VALUES[item.colour] - window)
    return np.rint(image).astype(np.uint8)


def coverage(
    shape: str, x: float, y: float, width: float, height: float, extent: tuple[int, int]
) -> Float32[np.ndarray, "height width"]:
    """The share of each pixel that a shape covers.

    Exact for squares and crosses; at the slanted and round edges of triangles and circles it is
    computed from the distance between the pixel's centre and the edge.

    Args:
        shape: one of SHAPES.
        x: centre of the box from the left edge, pixels.
        y: centre of the box from the top edge, pixels.
        width: width of the box, pixels.
        height: height of the box, pixels.
        extent: height and width of the result, pixels.

    Returns:
        float32 [height, width], 0 outside to 1 inside.

    Raises:
        UsageError: shape is unknown.
    """
    across = np.arange(extent[1], dtype=np.float32) + np.float32(0.5 - x)
    down = (np.arange(extent[0], dtype=np.float32) + np.float32(0.5 - y))[:, None]
    if shape == "square":
        return _span(down, height) * _span(across, width)
    if shape == "cross":
        bar_x, bar_y = _span(across, width / 3), _span(down, height / 3)
        return bar_y * _span(across, width) + _span(down, height) * bar_x - bar_y * bar_x
    if shape == "circle":
        return _ellipse(across, down, width / 2, height / 2)
    if shape == "triangle":
        return _triangle(across, down, width, height)
    raise UsageError(f"shape: expected circle, square, triangle or cross, got {shape!r}")


def _span(
    position: Float32[np.ndarray, "*extent"], length: float
) -> Float32[np.ndarray, "*extent"]:
    """Overlap of each unit pixel with an interval centred on zero, in one dimension."""
    # Something narrower than a pixel covers no more of it than its width.
    return np.clip(np.float32((length + 1) / 2) - np.abs(position), 0, np.float32(min(1, length)))


def _ellipse(
    across: Float32[np.ndarray, " width"],
    down: Float32[np.ndarray, "height 1"],
    half_width: float,
    half_height: float,
) -> Float32[np.ndarray, "height width"]:
    radius = np.sqrt((across / half_width) ** 2 + (down / half_height) ** 2)
    return np.clip((1 - radius) * np.float32((half_width + half_height) / 2) + 0.5, 0, 1)


def _triangle(
    across: Float32[np.ndarray, " width"],
    down: Float32[np.ndarray, "height 1"],
    width: float,
    height: float,
) -> Float32[np.ndarray, "height width"]:
    # |across| <= (down + height / 2) * slope, as a distance to that edge.
    slope = width / (2 * height)
    inside = (down + np.float32(height / 2)) * np.float32(slope) - np.abs(across)
    edge = np.clip(inside / np.float32(np.hypot(1, slope)) + 0.5, 0, 1)
    return edge * _span(down, height)
