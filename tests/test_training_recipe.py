"""Recipes: what is read, what is refused and in which words, and the learning rate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from training_runs import tiny_recipe, tiny_student_recipe

from minit2i_deploy.config import VARIANTS
from minit2i_deploy.errors import UsageError
from minit2i_deploy.training.recipe import load_recipe, recipe_from_dict

TEXT = """
name: small
model: {image_size: 16, patch_size: 8, hidden_size: 32, num_heads: 2, head_dim: 16, depth_double: 2}
text_encoder: t5
tokenizer: package:demo/assets/tokenizer
steps: 10
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def test_a_file_and_overrides(path: Path) -> None:
    recipe = load_recipe(path, ["steps=20", "model.depth_double=3", "lr=1e-3", "compile=true"])
    assert (recipe.steps, recipe.model.depth_double, recipe.lr) == (20, 3, 1e-3)
    assert recipe.compile is True and recipe.name == "small"
    assert (recipe.optimizer, recipe.ema_decay, recipe.a_min) == ("adamw", 0.999, 0.01)


def test_folders_are_found_beside_the_file_or_in_the_package(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.text_encoder_folder == path.parent / "t5"
    assert (recipe.tokenizer_folder / "tokenizer.json").is_file()


def test_plain_values_and_back() -> None:
    recipe = tiny_recipe(kind_weights={"counting": 2.0})
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_the_shipped_recipe_is_the_shipped_model(repository: Path) -> None:
    recipe = load_recipe(repository / "training" / "recipes" / "demo.yaml")
    assert (recipe.steps, recipe.batch, recipe.optimizer, recipe.seed) == (11500, 64, "muon", 0)
    assert (recipe.text_encoder_folder / "config.json").is_file()
    assert (recipe.device, recipe.precision, recipe.compile) == ("cpu", "bf16", True)


REFUSED = {
    "leraning_rate=1": "unknown key 'leraning_rate'; known: name, model",
    "warmup_step=1": "unknown key 'warmup_step'; did you mean warmup_steps?",
    "model.depth_doubel=1": "unknown key 'model.depth_doubel'; did you mean model.depth_double?",
    "steps": "override 'steps' must have the form key=value",
    "steps=[": r"override 'steps=\[': while parsing",
    "steps.x=1": "override steps.x: steps holds one value and no keys",
    "steps=0": "steps is 0, but it must be 1 or more",
    "steps=many": "steps is 'many', but it must be a whole number",
    "steps=2.5": "steps is 2.5, but it must be a whole number",
    "steps=true": "steps is True, but it must be a whole number",
    "lr=fast": "lr is 'fast', but it must be a number",
    "lr=.nan": "lr is nan, but it must be a number",
    "lr=0": "lr is 0, but it must be above 0",
    "lr=-1e-3": "lr is -0.001, but it must be above 0",
    "ema_decay=1": r"ema_decay is 1, but it must be in \[0, 1\)",
    "label_drop=1.5": "label_drop is 1.5, but it must be in 0..1",
    "a_min=0": "a_min is 0, but it must be above 0",
    "grad_clip=-1": "grad_clip is -1, but it must be 0 or more",
    "optimizer=sgd": "optimizer is 'sgd', but it must be adamw or muon",
    "precision=fp16": "precision is 'fp16', but it must be bf16 or fp32",
    "device=tpu": "device is 'tpu', but it must be auto or cpu or cuda",
    "compile=1": "compile is 1, but it must be true or false",
    "seed=-1": "seed is -1, but it must be in 0..2147483647",
    "data=folder": "data is 'folder', but it must be shapes",
    "kind_weights={counts: 1}": "kind_weights is .* for kinds among single_object",
    "kind_weights={counting: -1}": "kind_weights is .* not negative",
    "kind_weights={counting: 0}": "kind_weights is .* not all 0",
    "kind_weights=2": "kind_weights is 2, but it must be numbers",
    "model=3": "model is 3, but it must be a mapping",
    "model.head_dim=8": "model: hidden_size 32 is not num_heads 2 x head_dim 8; fix the recipe",
    "model.student={}": "model.student is set and distill is not; a few-step student needs both",
    "distill={teacher: t}": "distill is set and model.student is not; a few-step",
    "distill=3": "distill is 3, but it must be a mapping of its own keys",
    "distill={}": "recipe: distill.teacher is missing; add it",
    "distill.taecher=t": "unknown key 'distill.taecher'; did you mean distill.teacher?",
    "distill={teacher: ''}": "distill.teacher is '', but it must be a path",
    "distill={teacher: t, omega: 3}": r"distill.omega is 3, but it must be \[lowest, highest\]",
    "distill={teacher: t, omega: [3, 2]}": r"distill.omega is \[3, 2\], but it must be \[lowest",
    "distill={teacher: t, omega: [0, 2]}": r"distill.omega is \(0.0, 2.0\), but it must be 1 or",
    "distill={teacher: t, omega: [1, .inf]}": r"distill.omega is \[1, inf\], but it must be \[low",
    "distill={teacher: t, t_max: [0.5, 2]}": "distill.t_max is .* must be in 0..1",
    "distill={teacher: t, t_min: [0, 0.9]}": "distill.t_min is .* must be no higher than t_max",
    "distill={teacher: t, plain_share: 2}": "distill.plain_share is 2, but it must be in 0..1",
    "distill={teacher: t, sample_t_min: 0.9}": "distill.sample_t_min .* no higher than sample_t",
    "ema_halflife_kimg=-1": "ema_halflife_kimg is -1, but it must be 0 or more",
    "ema_rampup=0": "ema_rampup is 0, but it must be above 0",
}


@pytest.mark.parametrize(("override", "words"), REFUSED.items(), ids=REFUSED.keys())
def test_wrong_values_are_refused(path: Path, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_recipe(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a list", "is a mapping of keys"),
        ("a: [", "cannot be read as a recipe: while parsing"),
        (TEXT.replace("steps: 10", "").replace("name: small", ""), "recipe: name is missing"),
        (TEXT.replace("image_size: 16, ", ""), "recipe: model.image_size is missing; add it"),
    ],
)
def test_broken_files_are_refused(path: Path, text: str, words: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as a recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_published_variants_can_stand_in_a_recipe() -> None:
    base, student = tiny_recipe().to_dict(), tiny_student_recipe(Path("t")).to_dict()
    for name, config in VARIANTS.items():
        values = base if config.student is None else student
        assert recipe_from_dict(values | {"model": config.to_dict()}).model == config, name


def test_a_students_recipe_comes_back_and_finds_its_teacher(path: Path) -> None:
    recipe = tiny_student_recipe(Path("t"))
    assert recipe_from_dict(recipe.to_dict()) == recipe and "distill" not in tiny_recipe().to_dict()
    path.write_text(TEXT + "distill: {teacher: runs/base, omega: [1, 5]}", encoding="utf-8")
    distill = load_recipe(path, ["model.student={}", "distill.plain_share=1e-1"]).distill
    assert distill is not None and (distill.omega, distill.plain_share) == ((1.0, 5.0), 0.1)
    assert distill.teacher_folder == path.parent / "runs" / "base"


def test_the_shipped_students_recipe_fits_the_shipped_models(repository: Path) -> None:
    recipes = repository / "training" / "recipes"
    base, student = (load_recipe(recipes / f"{name}.yaml") for name in ("demo", "demo-student"))
    assert dataclasses.replace(student.model, student=None) == base.model
    assert student.distill is not None and (student.distill.teacher_folder / "..").is_dir()
    assert (student.sample_steps, student.label_drop, student.a_min) == (4, 0.0, 0.05)


def test_the_rate_warms_up_from_1e_6_and_stays() -> None:
    recipe = tiny_recipe(lr=4e-4, warmup_steps=4, steps=100)
    rates = [recipe.lr_at(step) for step in range(100)]
    for step in range(4):
        assert rates[step] == pytest.approx(1e-6 + (4e-4 - 1e-6) * (step + 1) / 4, rel=1e-12)
    assert rates[3:] == [4e-4] * 97


def test_the_rate_falls_linearly_at_the_end() -> None:
    recipe = tiny_recipe(lr=1.0, warmup_steps=0, steps=100, decay_steps=20)
    rates = [recipe.lr_at(step) for step in range(100)]
    assert rates[:81] == [1.0] * 81
    assert rates[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)], rel=1e-12)
