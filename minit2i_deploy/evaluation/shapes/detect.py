"""Detection: the objects and the background of an image, drawn or generated.

A generated image is slightly noisy, soft at the edges and off in colour, so nothing here depends
on exact values: a pixel belongs to the colour it is mixed from, a region has the colour of most
of it, and its shape is the template with the largest overlap.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes.draw import coverage
from minit2i_deploy.evaluation.shapes.scene import BACKGROUNDS, COLOURS, FRAME, SHAPES

UNKNOWN: Final = "unknown"

# A region of fewer pixels in a 64-pixel image is a speck, not an object.
SPECK_AREA: Final = 12
MIN_OVERLAP: Final = 0.7
MAX_ASPECT: Final = 1.5
# RGB distances beyond which a colour has no name; palette colours are at least 118 apart.
MAX_COLOUR_DISTANCE: Final = 90.0
MAX_BACKGROUND_DISTANCE: Final = 80.0

# A colour that fills less than this part of a region is its edge, not a second object.
_MIN_COLOUR_PART: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One detected object.

    Args:
        shape: one of SHAPES, or "unknown" if no template overlaps enough.
        colour: a key of the detector's colours, or "unknown" if none is near.
        x: centre of the box from the left edge, pixels of the image.
        y: centre of the box from the top edge, pixels of the image.
        size: the longer side of the box, pixels of the image.
        overlap: intersection over union with the best template, 0 to 1.
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float
    overlap: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """All detections of an image; background is a key of BACKGROUNDS or "unknown"."""

    detections: tuple[Detection, ...]
    background: str


def detect(
    image: UInt8[np.ndarray, "height width 3"],
    colours: dict[str, tuple[int, int, int]] = COLOURS,
) -> Reading:
    """Detect the objects of an image, largest first.

    Args:
        image: uint8 [height, width, 3], RGB, 0 to 255.
        colours: names and RGB values of the colours an object may have.

    Raises:
        UsageError: the array is not such an image.
    """
    check_image(image)
    pixels = image.astype(np.float32)
    ground = _border_median(pixels)
    speck_area = SPECK_AREA * (image.shape[0] * image.shape[1]) / FRAME**2
    palette = np.array(list(colours.values()), dtype=np.float32)
    residual, foreground = _unmix(pixels, ground, palette)
    detections: list[tuple[int, Detection]] = []
    for region in _regions(foreground):
        if region.sum() < speck_area:
            continue
        for part in _split_by_colour(region, residual, speck_area):
            detections.append((int(part.sum()), _describe(part, pixels, colours)))
    detections.sort(key=lambda item: (-item[0], item[1].x, item[1].y))
    background = _nearest(ground, BACKGROUNDS, MAX_BACKGROUND_DISTANCE)
    return Reading(detections=tuple(item for _, item in detections), background=background)


def check_image(image: np.ndarray) -> None:
    """Refuse an array that is not uint8 [height, width, 3].

    Raises:
        UsageError: it is something else.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape) < 3:
        raise UsageError(
            f"expected an image of uint8 [height, width, 3], got {image.dtype} "
            f"{list(image.shape)}; convert it first"
        )


def _border_median(pixels: Float32[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " 3"]:
    sides = (pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1])
    return np.asarray(np.median(np.concatenate(sides), axis=0), dtype=np.float32)


def _nearest(
    value: Float32[np.ndarray, " 3"], names: dict[str, tuple[int, int, int]], limit: float
) -> str:
    distances = {
        name: float(np.linalg.norm(value - np.array(colour, dtype=np.float32)))
        for name, colour in names.items()
    }
    name = min(distances, key=lambda key: distances[key])
    return name if distances[name] <= limit else UNKNOWN


def _unmix(
    pixels: Float32[np.ndarray, "height width 3"],
    ground: Float32[np.ndarray, " 3"],
    palette: Float32[np.ndarray, "colours 3"],
) -> tuple[Float32[np.ndarray, "height width colours"], Bool[np.ndarray, "height width"]]:
    """Squared distance of each pixel to every mixture of ground and colour, and the foreground.

    An edge pixel is a mixture of the two, often nearer to a third colour than to either: red on
    white passes close to orange. So a pixel takes the colour whose line to the ground is nearest,
    and belongs to the object from half-way on.
    """
    lines = palette - ground
    # A ground that equals a palette colour gives a line of length 0.
    lengths = np.maximum((lines**2).sum(axis=1), 1)
    offset = pixels - ground
    squared = (offset**2).sum(axis=-1)
    part = np.clip(offset @ lines.T / lengths, 0, 1)
    residual = squared[..., None] - part * (2 * (offset @ lines.T) - part * lengths)
    nearest = residual.argmin(axis=-1)
    return residual, squared > lengths[nearest] / 4


def _regions(mask: Bool[np.ndarray, "height width"]) -> list[Bool[np.ndarray, "height width"]]:
    """The 4-connected regions of a mask, by joining runs of neighbouring pixel lines."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    lines, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    runs = list(zip(lines.tolist(), starts.tolist(), stops.tolist(), strict=True))
    roots = _join_runs(runs)
    regions: dict[int, Bool[np.ndarray, "height width"]] = {}
    for (line, start, stop), root in zip(runs, roots, strict=True):
        region = regions.setdefault(root, np.zeros(mask.shape, dtype=bool))
        region[line, start:stop] = True
    return list(regions.values())


def _join_runs(runs: list[tuple[int, int, int]]) -> list[int]:
    """Index of the root run of each run (line, start, stop); runs of one region share a root."""
    parent = list(range(len(runs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    above = 0
    for index, (line, start, stop) in enumerate(runs):
        while runs[above][0] < line - 1 or (runs[above][0] == line - 1 and runs[above][2] <= start):
            above += 1
        other = above
        while runs[other][0] == line - 1 and runs[other][1] < stop:
            parent[root(index)] = root(other)
            other += 1
    return [root(index) for index in range(len(runs))]


def _split_by_colour(
    region: Bool[np.ndarray, "height width"],
    residual: Float32[np.ndarray, "height width colours"],
    speck_area: float,
) -> list[Bool[np.ndarray, "height width"]]:
    """Divide a region in which objects of different colours touch."""
    candidates = residual[region]
    # Only inner pixels count: the mixtures at edges resemble other colours.
    inner = residual[_interior(region)].argmin(axis=1)
    counts = np.bincount(inner, minlength=residual.shape[-1])
    present = np.nonzero(counts >= max(speck_area, _MIN_COLOUR_PART * len(inner)))[0]
    if len(present) < 2:
        return [region]
    labels: Int64[np.ndarray, " pixels"] = present[candidates[:, present].argmin(axis=1)]
    parts: list[Bool[np.ndarray, "height width"]] = []
    for colour in present:
        mask = np.zeros(region.shape, dtype=bool)
        mask[region] = labels == colour
        parts.extend(part for part in _regions(mask) if part.sum() >= speck_area)
    # If every part is a speck, the region is one broken object, which must not vanish.
    return parts or [region]


def _describe(
    region: Bool[np.ndarray, "height width"],
    pixels: Float32[np.ndarray, "height width 3"],
    colours: dict[str, tuple[int, int, int]],
) -> Detection:
    top, bottom, left, right = _box(region, 1)
    shape, overlap = _match(region)
    colour = np.median(pixels[_interior(region)], axis=0).astype(np.float32)
    return Detection(
        shape=shape,
        colour=_nearest(colour, colours, MAX_COLOUR_DISTANCE),
        x=(left + right) / 2,
        y=(top + bottom) / 2,
        size=float(max(bottom - top, right - left)),
        overlap=overlap,
    )


def _box(region: Bool[np.ndarray, "height width"], min_pixels: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the lines and columns with so many pixels of the region."""
    lines = np.nonzero(region.sum(axis=1) >= min_pixels)[0]
    columns = np.nonzero(region.sum(axis=0) >= min_pixels)[0]
    if not (len(lines) and len(columns)):
        return _box(region, 1)
    return int(lines[0]), int(lines[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _interior(region: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels whose four neighbours are in the region; the region itself if there are none."""
    padded = np.pad(region, 1)
    inner = region & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner if inner.any() else region


def _match(region: Bool[np.ndarray, "height width"]) -> tuple[str, float]:
    """Best template for a region, and the overlap with it."""
    top, bottom, left, right = _box(region, 1)
    # One noisy pixel stretches the box, and the tip of a triangle is too thin to be seen; so a
    # template may also sit in the box without lone pixels, or start one pixel higher.
    boxes = {(top, bottom, left, right), _box(region, 2), (top - 1, bottom, left, right)}
    best, overlap = UNKNOWN, 0.0
    for shape, box in itertools.product(SHAPES, sorted(boxes)):
        value = _overlap(region, shape, box)
        if value > overlap:
            best, overlap = shape, value
    height, width = bottom - top, right - left
    known = overlap >= MIN_OVERLAP and max(height, width) <= MAX_ASPECT * min(height, width)
    return (best if known else UNKNOWN), overlap


def _overlap(
    region: Bool[np.ndarray, "height width"], shape: str, box: tuple[int, int, int, int]
) -> float:
    top, bottom, left, right = box
    template = (
        coverage(
            shape,
            (left + right) / 2,
            (top + bottom) / 2,
            float(right - left),
            float(bottom - top),
            (region.shape[0], region.shape[1]),
        )
        > 0.5
    )
    return float((region & template).sum() / (region | template).sum())
