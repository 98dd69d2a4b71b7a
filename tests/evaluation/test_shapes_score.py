"""The shapes judge: true pictures pass, each kind of wrong one fails, and rates add up."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import (
    COLOURS,
    KINDS,
    SHAPES,
    Object,
    Requirement,
    Scene,
    ShapesScore,
    Spec,
    Verdict,
    draw_scene,
    held_out_captions,
    judge,
    sample_scene,
    wilson_interval,
)


def _samples(kinds: tuple[str, ...], num_per_kind: int) -> list[tuple[Scene, Spec]]:
    rng = np.random.default_rng(41)
    return [sample_scene(rng, kind)[:2] for kind in kinds for _ in range(num_per_kind)]


def _with(scene: Scene, **changes: Any) -> Scene:
    first = dataclasses.replace(scene.objects[0], **changes)
    return dataclasses.replace(scene, objects=(first, *scene.objects[1:]))


def _next(names: tuple[str, ...], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]


def test_every_drawing_is_correct_for_its_caption() -> None:
    for scene, spec in _samples(KINDS, 100):
        verdict = judge(draw_scene(scene), spec)
        assert verdict.correct, (verdict.reason, scene)


def test_noisy_drawings_stay_correct() -> None:
    rng = np.random.default_rng(42)
    samples = _samples(KINDS, 50)
    right = 0
    for scene, spec in samples:
        noisy = np.rint(draw_scene(scene) + rng.normal(0, 8, (64, 64, 3)))
        right += judge(np.clip(noisy, 0, 255).astype(np.uint8), spec).correct
    # Measured 300 of 300.
    assert right >= 0.99 * len(samples)


def test_wrong_shape_fails() -> None:
    for scene, spec in _samples(KINDS, 20):
        others = [item.shape for item in scene.objects[1:]]
        shape = next(s for s in SHAPES if s not in (scene.objects[0].shape, *others))
        verdict = judge(draw_scene(_with(scene, shape=shape)), spec)
        assert not verdict.correct and shape in verdict.reason and "expected" in verdict.reason


def test_wrong_colour_fails_where_it_was_promised() -> None:
    for scene, spec in _samples(("colours", "colour_attribution"), 40):
        colour = _next(tuple(COLOURS), scene.objects[0].colour)
        assert not judge(draw_scene(_with(scene, colour=colour)), spec).correct


def test_colour_is_free_where_it_was_not_promised() -> None:
    for scene, spec in _samples(("single_object", "two_objects", "counting", "position"), 20):
        colour = _next(tuple(COLOURS), scene.objects[0].colour)
        assert judge(draw_scene(_with(scene, colour=colour)), spec).correct


def test_swapped_colours_fail() -> None:
    for scene, spec in _samples(("colour_attribution",), 40):
        one, two = scene.objects
        swapped = dataclasses.replace(
            scene,
            objects=(
                dataclasses.replace(one, colour=two.colour),
                dataclasses.replace(two, colour=one.colour),
            ),
        )
        assert not judge(draw_scene(swapped), spec).correct


def test_missing_objects_fail() -> None:
    for scene, spec in _samples(KINDS, 20):
        fewer = dataclasses.replace(scene, objects=scene.objects[1:])
        assert not judge(draw_scene(fewer), spec).correct


def test_extra_objects_fail() -> None:
    stray = Object(shape="square", colour="purple", x=4.0, y=4.0, size=6.0)
    num_images = 0
    for scene, spec in _samples(KINDS, 20):
        if all(max(item.x, item.y) - item.size / 2 > 8 for item in scene.objects):
            num_images += 1
            crowded = dataclasses.replace(scene, objects=(*scene.objects, stray))
            assert not judge(draw_scene(crowded), spec).correct
    assert num_images >= 60


def test_mirrored_relation_fails() -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for scene, spec in _samples(("position",), 60):
        assert spec.relation is not None
        axis = "x" if spec.relation in ("left", "right") else "y"
        mirrored = dataclasses.replace(
            scene,
            objects=tuple(
                dataclasses.replace(item, **{axis: 64 - getattr(item, axis)})
                for item in scene.objects
            ),
        )
        verdict = judge(draw_scene(mirrored), spec)
        assert not verdict.correct and "it is not" in verdict.reason
        other = dataclasses.replace(spec, relation=opposite[spec.relation])
        assert judge(draw_scene(mirrored), other).correct
        assert not judge(
            draw_scene(scene), dataclasses.replace(spec, required=spec.required[::-1])
        ).correct


def test_diagonal_is_no_relation() -> None:
    spec = Spec(
        kind="position",
        required=(Requirement(shape="circle"), Requirement(shape="square")),
        relation="left",
    )

    def picture(y: float) -> np.ndarray:
        circle = Object(shape="circle", colour="red", x=16.0, y=16.0, size=18.0)
        square = Object(shape="square", colour="blue", x=40.0, y=y, size=18.0)
        return draw_scene(Scene(objects=(circle, square), background="white"))

    assert judge(picture(30.0), spec).correct
    assert not judge(picture(46.0), spec).correct


def test_background_must_match_only_when_named() -> None:
    scene = Scene(
        objects=(Object(shape="cross", colour="green", x=30.0, y=30.0, size=24.0),),
        background="black",
    )
    spec = Spec(kind="single_object", required=(Requirement(shape="cross"),))
    assert judge(draw_scene(scene), spec).correct
    assert judge(draw_scene(scene), dataclasses.replace(spec, background="black")).correct
    verdict = judge(draw_scene(scene), dataclasses.replace(spec, background="white"))
    assert not verdict.correct and "got black" in verdict.reason


def test_pictures_of_noise_and_of_nothing_fail_fast() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blank = np.full((64, 64, 3), 255, dtype=np.uint8)
    dots = blank.copy()
    # 64 squares: more orders than could ever be tried.
    dots.reshape(8, 8, 8, 8, 3)[:, 2:6, :, 2:6] = COLOURS["red"]
    for spec, _ in held_out_captions(5, 1):
        assert not judge(noise, spec).correct
        assert not judge(blank, spec).correct
        assert not judge(dots, spec).correct


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (1, 10), (7, 9), (540, 600), (600, 600)])
def test_wilson_solves_its_defining_equation(correct: int, total: int) -> None:
    # The ends are where the observed rate lies 1.96 standard deviations from the true one.
    def excess(p: float) -> float:
        return total * (correct / total - p) ** 2 - 1.959963984540054**2 * p * (1 - p)

    def bisect(outer: float, inner: float) -> float:
        for _ in range(200):
            middle = (outer + inner) / 2
            outer, inner = (middle, inner) if excess(middle) > 0 else (outer, middle)
        return inner

    rate = correct / total
    low, high = wilson_interval(correct, total)
    assert math.isclose(low, bisect(0.0, rate) if correct else 0.0, abs_tol=1e-12)
    assert math.isclose(high, bisect(1.0, rate) if correct < total else 1.0, abs_tol=1e-12)


def test_wilson_against_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3, to four decimals.
    for correct, total, expected in [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605))]:
        assert np.round(wilson_interval(correct, total), 4).tolist() == list(expected)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(correct: int, total: int) -> None:
    with pytest.raises(UsageError, match="expected a positive total"):
        wilson_interval(correct, total)


def _score() -> ShapesScore:
    prompts = held_out_captions(4, 1)
    verdicts = [Verdict(correct=i % 4 > 0, reason="") for i in range(len(prompts))]
    return ShapesScore.of((spec, v) for (spec, _), v in zip(prompts, verdicts, strict=True))


def test_score_adds_up() -> None:
    score = _score()
    assert (score.overall.num_correct, score.overall.num_total) == (18, 24)
    assert list(score.kinds) == list(KINDS)
    assert all(rate.accuracy == 0.75 and rate.num_total == 4 for rate in score.kinds.values())
    with pytest.raises(UsageError, match="at least one"):
        ShapesScore.of([])


def test_score_json_and_table() -> None:
    read = json.loads(json.dumps(_score().to_dict()))
    assert set(read) == {"overall", "kinds"} and set(read["kinds"]) == set(KINDS)
    assert read["overall"]["accuracy"] == 0.75
    assert read["overall"]["interval_95"] == list(wilson_interval(18, 24))
    lines = _score().to_table().splitlines()
    assert len(lines) == 2 + len(KINDS)
    assert lines[-1].split() == ["overall", "18/24", "0.750", "0.551", "to", "0.880"]
