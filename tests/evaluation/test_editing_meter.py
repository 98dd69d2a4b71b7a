"""The editing meter: its scenes can be solved, and it tells right edits from wrong ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.editing import (
    TASKS,
    EditingCase,
    EditingReport,
    EditingSettings,
    cases,
    editing_cases,
    measure_editing,
    meter,
)
from minit2i_deploy.evaluation.quality.candidates import list_candidates
from minit2i_deploy.evaluation.shapes import Scene, draw_scene, is_held_out, judge
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

# The test tokenizer has few words, so captions are longer than the model's 12 tokens.
pytestmark = pytest.mark.filterwarnings("default")
MASKED = tuple(name for name in TASKS if name != cases.IMAGE_TO_IMAGE)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[Scene]:
    """Every scene that is drawn while cases are made: what a perfect edit shows."""
    scenes: list[Scene] = []
    draw = cases.random_scene

    def random_scene(*arguments: Any) -> Scene:
        scenes.append(draw(*arguments))
        return scenes[-1]

    monkeypatch.setattr(cases, "random_scene", random_scene)
    return scenes


@pytest.mark.parametrize("task", ["add", "recolour", "image-to-image"])
@pytest.mark.parametrize("size", [64, 96])
def test_a_perfect_edit_has_the_known_pixels(task: str, size: int, targets: list[Scene]) -> None:
    for case, target in zip(editing_cases(task, 30, 3, size), targets, strict=True):
        image = draw_scene(target, size)
        np.testing.assert_array_equal(image[~case.is_open], case.image[~case.is_open])
        assert judge(image, case.spec).correct and not judge(case.image, case.spec).correct
        assert is_held_out(case.caption)


def test_removing_needs_background_only() -> None:
    for case in editing_cases("remove", 30, 3):
        image = case.image.copy()
        image[case.is_open] = case.image[0, 0]
        assert judge(image, case.spec).correct and not judge(case.image, case.spec).correct


def test_cases_depend_on_the_seed_alone() -> None:
    first, again, other = (editing_cases("add", 6, seed) for seed in (1, 1, 2))
    assert [one.caption for one in first] == [one.caption for one in again]
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
    assert [one.caption for one in first] != [one.caption for one in other]
    assert {one.spec.kind for one in first} == set(TASKS["add"][0])
    with pytest.raises(UsageError, match="expected one of add, remove, recolour, image-to-image"):
        editing_cases("paint", 1, 0)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "b")
    return Bundle.open(tmp_path / "b")


def _measured(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[EditingCase], np.ndarray],
    **settings: Any,
) -> EditingReport:
    """The report of a model whose every image is ``edit`` of its case."""
    drawn: list[EditingCase] = []

    def remember(*arguments: Any) -> list[EditingCase]:
        drawn[:] = editing_cases(*arguments)
        return list(drawn)

    def edited(*arguments: Any, **options: Any) -> Any:
        result = generate(*arguments, **options)
        images = [Image.fromarray(edit(drawn[seed])) for seed in options["seed"]]
        return dataclasses.replace(result, images=images)

    monkeypatch.setattr(meter, "editing_cases", remember)
    monkeypatch.setattr(meter, "generate", edited)
    candidates = list_candidates([solver_table("euler", steps=2)], [1.0, 3.0])
    with open_runtime(bundle, "fake") as runtime:
        return measure_editing(
            bundle, runtime, candidates, EditingSettings(count=5, batch=2, **settings)
        )


def test_the_meter_tells_right_from_wrong(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, targets: list[Scene]
) -> None:
    size = bundle.config.image_shape[-1]

    def shifted(case: EditingCase) -> np.ndarray:
        return np.roll(case.image, size // 4, axis=1)

    unedited = _measured(bundle, monkeypatch, lambda case: case.image, strengths=(0.5,))
    moved = _measured(bundle, monkeypatch, shifted, tasks=("add",))
    for one in unedited.outcomes:
        assert (sum(one.followed), sum(one.unchanged)) == (0, 5), one.label
    labels = ["add", "remove", "recolour", "image-to-image 0.5"]
    assert [one.label for one in unedited.outcomes] == [each for each in labels for _ in "12"]
    assert [one.num_evaluations for one in unedited.outcomes] == [2, 4] * 3 + [1, 2]
    assert sum(moved.outcomes[0].in_place) + sum(moved.outcomes[0].unchanged) == 0


def test_a_report_pairs_each_table_with_the_first(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _measured(bundle, monkeypatch, lambda case: case.image, tasks=("add", "remove"))
    right, wrong = (True,) * 5, (False, True, False, True, False)
    outcomes = [
        dataclasses.replace(one, followed=right if index % 2 else wrong)
        for index, one in enumerate(report.outcomes)
    ]
    values = dataclasses.replace(report, outcomes=tuple(outcomes)).to_dict()["outcomes"]
    assert [one["paired"] and one["paired"]["won"] for one in values] == [None, 3, None, 3]
    assert values[0]["followed"]["accuracy"] == 0.4


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"count": 0}, "count: expected at least 1, got 0"),
        ({"count": 1, "seed": -1}, "seed: expected 0 or more"),
        ({"count": 1, "tasks": ("paint",)}, "tasks: expected some of add, remove, recolour"),
        ({"count": 1, "strengths": (1.5,)}, "strengths: expected numbers from 0 to 1, got 1.5"),
        ({"count": 1, "tasks": ()}, "expected at least one task or strength"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        EditingSettings(**settings)


def test_the_command_writes_what_it_prints(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("eval", "editing", "b", "--runtime", "fake", "--count", 2, "--tables")
    arguments += ("euler:2,euler:4:repeats=2:jump=1", "--strengths", "0,0.5", "--guidance", 1)
    done = run(capsys, *arguments, "--json", "-o", "report.json", "--plot", "curves.png")
    assert done.code == 0
    with Image.open("curves.png") as image:
        assert image.size == (1232, 462)
    values = json.loads(done.out)
    assert values == json.loads(Path("report.json").read_text())
    named = [(one["task"], one["strength"], one["name"]) for one in values["outcomes"]]
    tables = ("euler-2", "euler-4-r2j1")
    expected = [(task, None, name) for task in MASKED for name in tables]
    expected += [("image-to-image", at, name) for at in (0.0, 0.5) for name in tables]
    assert named == expected
    assert all(one["unchanged"]["accuracy"] == 1 for one in values["outcomes"][:6])
    text = run(capsys, "eval", "editing", "b", "--runtime", "fake", "--count", 1).out
    assert [line.split()[0] for line in text.splitlines()[1:4]] == list(MASKED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count: expected at least 1, got 0"),
        (["--tasks", "paint"], "expected some of add, remove, recolour, or none, got 'paint'"),
        (["--tasks", "none"], "expected at least one task or strength"),
        (["--strengths", "2"], "strengths: expected numbers from 0 to 1, got 2.0"),
        (["--tables", "euler:4", "--steps", "4"], "--tables and --steps are mutually exclusive"),
        (["--tables", "euler:4:repeats=x"], "repeats: expected an integer, got 'x'"),
        (["--tables", "sde:4:repeats=2"], "repeats need a solver without noise"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: list[str], message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "eval", "editing", "b", "--runtime", "fake", *arguments)
    assert (done.code, message in done.error) == (2, True), done.err
