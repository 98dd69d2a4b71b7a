"""The shapes detector: drawings read back exactly, degraded ones nearly always."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import KINDS, Object, Scene, detect, draw_scene, sample_scene
from minit2i_deploy.evaluation.shapes.detect import check_image


def _scenes(num_per_kind: int) -> list[Scene]:
    rng = np.random.default_rng(31)
    return [sample_scene(rng, kind)[0] for kind in KINDS for _ in range(num_per_kind)]


def _agree(scene: Scene, image: np.ndarray) -> bool:
    reading = detect(image)
    detected = sorted((item.shape, item.colour) for item in reading.detections)
    expected = sorted((item.shape, item.colour) for item in scene.objects)
    return detected == expected and reading.background == scene.background


def test_drawings_are_read_back_exactly() -> None:
    for scene in _scenes(100):
        reading = detect(draw_scene(scene))
        assert reading.background == scene.background
        assert len(reading.detections) == len(scene.objects)
        for thing in scene.objects:
            near = min(
                reading.detections, key=lambda d: (d.x - thing.x) ** 2 + (d.y - thing.y) ** 2
            )
            assert (near.shape, near.colour) == (thing.shape, thing.colour)
            # Measured 0.83 px and 1.75 px at most: the tip of a triangle is too thin to be seen.
            assert max(abs(near.x - thing.x), abs(near.y - thing.y)) < 1.5
            assert abs(near.size - thing.size) < 2.5
            # Measured 0.865 and more.
            assert near.overlap > 0.8


def test_larger_pictures_are_read_too() -> None:
    assert all(_agree(scene, draw_scene(scene, size=128)) for scene in _scenes(5))


def test_noise_is_forgiven() -> None:
    rng = np.random.default_rng(32)
    scenes = _scenes(50)
    right = 0
    for scene in scenes:
        noisy = draw_scene(scene) + rng.normal(0, 8, (64, 64, 3))
        right += _agree(scene, np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    # Measured 300 of 300; 2000 of 2000 in a longer run.
    assert right >= 0.99 * len(scenes)


def test_soft_and_off_colour_pictures_are_forgiven() -> None:
    rng = np.random.default_rng(33)
    scenes = _scenes(50)
    right = 0
    for scene in scenes:
        soft = np.asarray(Image.fromarray(draw_scene(scene)).filter(ImageFilter.GaussianBlur(1)))
        tinted = soft + rng.normal(0, 10, 3) + rng.normal(0, 5, soft.shape)
        right += _agree(scene, np.clip(np.rint(tinted), 0, 255).astype(np.uint8))
    # Measured 299 of 300.
    assert right >= 0.98 * len(scenes)


def _picture(*objects: Object, background: str = "white") -> np.ndarray:
    return draw_scene(Scene(objects=objects, background=background))


@pytest.mark.parametrize("background", ["white", "black", "grey"])
def test_touching_objects_are_parted_by_colour(background: str) -> None:
    image = _picture(
        Object(shape="square", colour="red", x=20.0, y=32.0, size=20.0),
        Object(shape="circle", colour="yellow", x=40.0, y=32.0, size=20.0),
        background=background,
    )
    soft = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.7)))
    for picture in (image, soft):
        detected = {(item.colour, item.shape) for item in detect(picture).detections}
        assert detected == {("red", "square"), ("yellow", "circle")}


def test_touching_objects_of_one_colour_are_one_unknown() -> None:
    image = _picture(
        Object(shape="circle", colour="red", x=22.0, y=22.0, size=20.0),
        Object(shape="circle", colour="red", x=40.0, y=40.0, size=20.0),
        Object(shape="square", colour="red", x=31.0, y=31.0, size=6.0),
    )
    (detected,) = detect(image).detections
    assert (detected.shape, detected.colour) == ("unknown", "red")


def test_specks_are_ignored_and_blobs_are_not() -> None:
    image = _picture(Object(shape="circle", colour="green", x=40.0, y=40.0, size=24.0))
    image[4:7, 4:7] = (220, 20, 40)
    assert [item.shape for item in detect(image).detections] == ["circle"]
    image[4:9, 4:9] = (220, 20, 40)
    assert len(detect(image).detections) == 2


def test_strange_shapes_and_colours_are_unknown() -> None:
    image = _picture()
    image[10:50, 10:14] = image[46:50, 10:50] = (220, 20, 40)
    (corner,) = detect(image).detections
    assert (corner.shape, corner.colour) == ("unknown", "red")
    image = _picture(background="black")
    image[10:30, 10:50] = (255, 255, 255)
    (bar,) = detect(image).detections
    assert (bar.shape, bar.colour) == ("unknown", "unknown")


def test_strange_backgrounds_are_unknown() -> None:
    image = np.empty((64, 64, 3), dtype=np.uint8)
    image[:] = (220, 20, 40)
    assert detect(image).background == "unknown"
    image[:] = (120, 130, 140)
    assert detect(image).background == "grey"
    assert detect(image).detections == ()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), dtype=np.float32),
        np.zeros((64, 64), dtype=np.uint8),
        np.zeros((3, 64, 64), dtype=np.uint8),
        np.zeros((0, 64, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(UsageError, match="height, width, 3"):
        check_image(image)
