"""The shapes world: layouts, captions, the held-out split and the drawings."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    SHAPES,
    Object,
    Requirement,
    Scene,
    Spec,
    draw_scene,
    held_out_captions,
    is_held_out,
    sample_scene,
    vocabulary_corpus,
)
from minit2i_deploy.evaluation.shapes.caption import every_caption
from minit2i_deploy.evaluation.shapes.draw import coverage

PER_KIND = 100


@pytest.fixture(scope="module")
def samples() -> list[tuple[Scene, Spec, str]]:
    rng = np.random.default_rng(20)
    return [sample_scene(rng, kind) for kind in KINDS for _ in range(PER_KIND)]


def test_scenes_keep_margin_gap_and_sizes(samples: list[tuple[Scene, Spec, str]]) -> None:
    sizes = {1: (20, 34), 2: (16, 26), 3: (14, 20), 4: (14, 20)}
    for scene, _, _ in samples:
        low, high = sizes[len(scene.objects)]
        for item in scene.objects:
            assert low <= item.size <= high
            for centre in (item.x, item.y):
                assert centre - item.size / 2 >= 2 - 1e-9
                assert centre + item.size / 2 <= 62 + 1e-9
        for one, two in itertools.combinations(scene.objects, 2):
            reach = (one.size + two.size) / 2 + 4 - 1e-9
            assert abs(one.x - two.x) >= reach or abs(one.y - two.y) >= reach


def test_scenes_keep_what_their_captions_promise(samples: list[tuple[Scene, Spec, str]]) -> None:
    for scene, spec, caption in samples:
        assert spec.background in (None, scene.background)
        for item, thing in zip(spec.required, scene.objects, strict=True):
            assert item.shape == thing.shape
            assert item.colour in (None, thing.colour)
        colours = {thing.colour for thing in scene.objects}
        if spec.kind == "counting":
            assert len(colours) == 1 and len({thing.shape for thing in scene.objects}) == 1
        if spec.kind in ("two_objects", "position", "colour_attribution"):
            assert len({thing.shape for thing in scene.objects}) == 2
        if spec.kind in ("position", "colour_attribution"):
            assert len(colours) == 2
        assert (spec.background is None) == ("background" not in caption)


def test_positions_are_clear(samples: list[tuple[Scene, Spec, str]]) -> None:
    relations = set()
    for scene, spec, _ in samples:
        if spec.relation is None:
            continue
        relations.add(spec.relation)
        one, two = scene.objects
        along, other = {
            "left": (two.x - one.x, two.y - one.y),
            "right": (one.x - two.x, two.y - one.y),
            "above": (two.y - one.y, two.x - one.x),
            "below": (one.y - two.y, two.x - one.x),
        }[spec.relation]
        assert along > 1.3 * abs(other)
        assert along >= (one.size + two.size) / 2
    assert len(relations) == 4


def test_every_kind_varies(samples: list[tuple[Scene, Spec, str]]) -> None:
    things = [thing for scene, _, _ in samples for thing in scene.objects]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {scene.background for scene, _, _ in samples} == set(BACKGROUNDS)
    plain = sum(spec.background is None for _, spec, _ in samples) / len(samples)
    # 0.6 is meant; measured 0.588 at 600 captions, whose standard deviation is 0.02.
    assert abs(plain - 0.6) < 0.08


def test_samples_are_deterministic() -> None:
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    assert [sample_scene(first) for _ in range(50)] == [sample_scene(second) for _ in range(50)]
    other = np.random.default_rng(4)
    assert sample_scene(np.random.default_rng(3)) != sample_scene(other)


def test_weights_choose_the_kinds() -> None:
    rng = np.random.default_rng(0)
    weights = {"counting": 3.0, "colours": 1.0, "position": 0.0}
    kinds = [sample_scene(rng, weights=weights)[1].kind for _ in range(400)]
    assert set(kinds) == {"counting", "colours"}
    # Expected 0.75, standard deviation 0.022; measured 0.745.
    assert abs(kinds.count("counting") / 400 - 0.75) < 0.08
    kinds = [sample_scene(rng)[1].kind for _ in range(600)]
    # Expected 100 each, standard deviation 9.1; measured 93 to 111.
    assert all(60 < kinds.count(kind) < 140 for kind in KINDS)


@pytest.mark.parametrize("weights", [{}, {"counting": 0.0}, {"counting": -1.0, "colours": 2.0}])
def test_weights_must_add_up(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="non-negative"):
        sample_scene(np.random.default_rng(0), weights=weights)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="single_object"):
        sample_scene(np.random.default_rng(0), "colour")
    with pytest.raises(UsageError, match="kinds among"):
        sample_scene(np.random.default_rng(0), weights={"colour": 1.0})
    with pytest.raises(UsageError, match="circle, square"):
        Spec(kind="colours", required=(Requirement(shape="star"),))
    with pytest.raises(UsageError, match="relation 'left': expected two objects, got 1"):
        Spec(kind="position", required=(Requirement(shape="cross"),), relation="left")
    with pytest.raises(UsageError, match="seed of 0 or more, got -1 and 0"):
        held_out_captions(-1, 0)


def test_captions_are_short_distinct_and_plain() -> None:
    captions = [caption for kind in KINDS for _, caption in every_caption(kind)]
    # 4 prefixes and 4 endings of 4, 12, 12, 24, 12 * 6 and 12 * 30 contents.
    assert len(captions) == 16 * (4 + 12 + 12 + 24 + 72 + 360)
    assert len(set(captions)) == len(captions)
    for caption in captions:
        assert caption == caption.lower().strip() and "." not in caption and "  " not in caption
        assert len(caption.split()) <= 16
        assert "a orange" not in caption and "an red" not in caption


def test_wording() -> None:
    captions = {caption for kind in KINDS for _, caption in every_caption(kind)}
    assert captions >= {
        "a circle",
        "a picture of a circle and a square on a white background",
        "three triangles",
        "an image of two crosses on a grey background",
        "an orange circle",
        "a circle to the left of a square",
        "a circle right of a square",
        "a drawing of a cross above a triangle",
        "a red circle and an orange square on a black background",
    }


def test_held_out_split_is_stable() -> None:
    # Literals: a change here would put captions a shipped model was trained on into its test.
    assert is_held_out("a square")
    assert is_held_out("an image of a triangle")
    assert not is_held_out("a circle")
    assert not is_held_out("a red circle")
    assert not is_held_out("")
    corpus = "\n".join(vocabulary_corpus()).encode()
    digest = "ad2dc1bc3945974019582fbbfc03ba5354932bbaf71a370e635de9d794688c77"
    assert hashlib.sha256(corpus).hexdigest() == digest


def test_held_out_split_is_one_in_eight_of_every_kind() -> None:
    for kind in KINDS:
        captions = [caption for _, caption in every_caption(kind)]
        part = sum(map(is_held_out, captions)) / len(captions)
        # Measured 0.119 (position) to 0.135 (colours).
        assert 0.10 < part < 0.15


def test_training_never_meets_a_held_out_caption(samples: list[tuple[Scene, Spec, str]]) -> None:
    held_out = held_out_captions(PER_KIND, 5)
    assert not {caption for _, _, caption in samples} & {caption for _, caption in held_out}
    assert not set(vocabulary_corpus()) & {caption for _, caption in held_out}
    assert not any(is_held_out(caption) for _, _, caption in samples)


def test_held_out_captions_come_with_their_spec() -> None:
    held_out = held_out_captions(PER_KIND, 5)
    assert [spec.kind for spec, _ in held_out] == [k for k in KINDS for _ in range(PER_KIND)]
    meaning = {caption: spec for kind in KINDS for spec, caption in every_caption(kind)}
    assert all(meaning[caption] == spec for spec, caption in held_out)
    assert held_out == held_out_captions(PER_KIND, 5)
    assert held_out != held_out_captions(PER_KIND, 6)


def test_vocabulary_corpus_covers_every_word() -> None:
    corpus = [word for caption in vocabulary_corpus() for word in caption.split()]
    expected = {word for kind in KINDS for _, text in every_caption(kind) for word in text.split()}
    assert set(corpus) == expected
    # Measured: the rarest, "circles", comes 38 times.
    assert min(corpus.count(word) for word in expected) >= 20


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_against_many_points_a_pixel(shape: str) -> None:
    x, y, width, height, grid = 15.3, 16.8, 21.7, 18.9, 16
    points = (np.arange(32 * grid) + 0.5) / grid
    across, down = (points - x) / width, ((points - y) / height)[:, None]
    inside = {
        "circle": across**2 + down**2 <= 0.25,
        "square": (abs(across) <= 0.5) & (abs(down) <= 0.5),
        "triangle": (abs(across) <= (down + 0.5) / 2) & (down <= 0.5),
        "cross": ((abs(across) <= 1 / 6) & (abs(down) <= 0.5))
        | ((abs(across) <= 0.5) & (abs(down) <= 1 / 6)),
    }[shape]
    expected = inside.reshape(32, grid, 32, grid).mean(axis=(1, 3))
    got = coverage(shape, x, y, width, height, (32, 32))
    assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1
    # Measured: square and cross 0.025 (16 points a side cannot tell finer), circle 0.046,
    # triangle 0.061; the whole area to 0.2%.
    assert np.abs(got - expected).max() < 0.1
    assert abs(got.sum() / expected.sum() - 1) < 0.005


def test_drawing_has_the_scene_s_colours() -> None:
    objects = (
        Object(shape="square", colour="red", x=16.0, y=16.0, size=20.0),
        Object(shape="cross", colour="blue", x=44.0, y=44.0, size=24.0),
    )
    picture = draw_scene(Scene(objects=objects, background="grey"))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == BACKGROUNDS["grey"]
    assert (picture[6:26, 6:26] == COLOURS["red"]).all()
    assert (picture[40:48, 32:56] == COLOURS["blue"]).all()
    assert tuple(picture[34, 34]) == BACKGROUNDS["grey"]
    changed = (picture != BACKGROUNDS["grey"]).any(axis=-1).sum()
    assert changed == 20 * 20 + 2 * 24 * 8 - 8 * 8


def test_larger_drawing_is_the_same_picture() -> None:
    scene = sample_scene(np.random.default_rng(1), "position")[0]
    large = draw_scene(scene, size=128).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    # Measured 0.062 of 255 on average.
    assert np.abs(large - draw_scene(scene)).mean() < 0.2
    with pytest.raises(UsageError, match="positive"):
        draw_scene(scene, size=0)
