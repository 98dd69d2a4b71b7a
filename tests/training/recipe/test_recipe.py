"""Recipes: what is read, what is refused and in which words, and the learning rate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from minit2i_deploy.config import VARIANTS
from minit2i_deploy.errors import UsageError
from minit2i_deploy.training import resolved_recipe
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.load import load_recipe, recipe_from_dict
from minit2i_deploy.training.recipe.recipe import Recipe
from tests.helpers.training_runs import tiny_recipe, tiny_student_recipe

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
    assert (recipe.device, recipe.precision, recipe.compile) == ("cpu", "auto", True)


REFUSED = {
    "leraning_rate=1": "unknown key 'leraning_rate'; known: name, model",
    "warmup_step=1": "unknown key 'warmup_step'; did you mean warmup_steps?",
    "model.depth_doubel=1": "unknown key 'model.depth_doubel'; did you mean model.depth_double?",
    "steps": "override 'steps' must have the form key=value",
    "steps=[": r"override 'steps=\[': while parsing",
    "steps.x=1": "override steps.x: steps holds a plain value, not a mapping",
    "steps=0": "steps is 0, but it must be 1 or more",
    "steps=many": "steps is 'many', but it must be an integer",
    "steps=2.5": "steps is 2.5, but it must be an integer",
    "steps=true": "steps is True, but it must be an integer",
    "lr=fast": "lr is 'fast', but it must be a number",
    "lr=.nan": "lr is nan, but it must be a number",
    "lr=0": "lr is 0, but it must be above 0",
    "lr=-1e-3": "lr is -0.001, but it must be above 0",
    "ema_decay=1": r"ema_decay is 1, but it must be in \[0, 1\)",
    "label_drop=1.5": "label_drop is 1.5, but it must be in 0..1",
    "a_min=0": "a_min is 0, but it must be above 0",
    "grad_clip=-1": "grad_clip is -1, but it must be 0 or more",
    "optimizer=sgd": "optimizer is 'sgd', but it must be adamw or muon",
    "precision=fp16": "precision is 'fp16', but it must be auto or bf16 or fp32",
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
    "distill={teacher: t, teacher_rows: -1}": "distill.teacher_rows is -1, but it must be an int",
    "distill={teacher: t, teacher_rows: 1.5}": "distill.teacher_rows is 1.5, but it must be an in",
    "distill={teacher: t, teacher_rows: 5, plain_share: 0.3}": "distill.plain_share and distill.te"
    "acher_rows are set, .* remove one of the two",
    "distill={teacher: t, states: noise}": "distill.states is 'noise', but it must be one of data",
    "distill={teacher: t, tangent: 3}": "distill.tangent is 3, but it must be one of teacher, stu",
    "distill={teacher: t, states: prior, level_std: 2}": "distill.level_std and distill.states are",
    "distill={teacher: t, states: prior, tangent: student}": "distill.tangent and distill.states",
    "time_std=0": "time_std is 0, but it must be above 0",
    "distill={teacher: t, teacher_rows: 5, halvings: -1}": "distill.halvings is -1, but it must b",
    "distill={teacher: t, teacher_rows: 5, halvings: 99999999999}": "it must be at most 13",
    "distill={teacher: t, teacher_rows: 5, trajectory_uses: 0}": "distill.trajectory_uses is 0, bu",
    "distill={teacher: t, teacher_rows: 5, trajectory_pool: 1.5}": "trajectory_pool is 1.5, but it",
    "distill={teacher: t, trajectory_uses: 2}": "distill.trajectory_uses is 2, but it must be 1 wi",
    "distill={teacher: t, former_teacher: 3}": "distill.former_teacher is 3, but it must be a path",
    "distill={teacher: t, halvings: 1}": "distill.halvings is 1, but it must be 0 without distill.",
    "distill={teacher: t, teacher_rows: 5, states: prior}": "distill.states and distill.teacher_ro",
    "distill={teacher: t, teacher_rows: 5, tangent: student}": "distill.tangent and distill.teache",
    "distill={teacher: t, sample_t_min: 0.9}": "distill.sample_t_min .* no higher than sample_t",
    "ema_halflife_kimg=-1": "ema_halflife_kimg is -1, but it must be 0 or more",
    "ema_rampup=0": "ema_rampup is 0, but it must be above 0",
    "accumulate=0": "accumulate is 0, but it must be 1 or more",
    "keep_every=-1": "keep_every is -1, but it must be 0 or more",
    "adam_lr=-1e-4": "adam_lr is -0.0001, but it must be 0 or more",
    "muon_scale=large": "muon_scale is 'large', but it must be match_rms_adamw or original",
    "parallel=tensor": "parallel is 'tensor', but it must be ddp or fsdp",
    "paralel=ddp": "unknown key 'paralel'; did you mean parallel?",
    "track=tensorboard": "track is 'tensorboard', but it must be a list of",
    "track=[mlflow]": r"track is \['mlflow'\], but it must be a list of .*tensorboard",
    "sample_prompts=[1]": r"sample_prompts is \[1\], but it must be a list of strings",
    "start_from=3": "start_from is 3, but it must be a string",
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


@pytest.mark.parametrize("name", ["demo-student", "demo-student-finish"])
def test_the_shipped_students_recipes_fit_the_shipped_models(repository: Path, name: str) -> None:
    recipes = repository / "training" / "recipes"
    base, student = (load_recipe(recipes / f"{recipe}.yaml") for recipe in ("demo", name))
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


# Figures of the official configurations. Source: minit2i-jax, configs/*/{pretrain,finetune}.yml
# and, on its branch mean_flow_distill, configs/distill_config_b16.yml.
OFFICIAL = {
    "b32-pretrain": ("b-32", 250_000, 512, 5_000, 4e-4, 0.99995, "adamw"),
    "b16-pretrain": ("b-16", 250_000, 1024, 5_000, 4e-4, 0.99995, "adamw"),
    "l16-pretrain": ("l-16", 250_000, 1024, 5_000, 2e-4, 0.9999, "adamw"),
    "b32-finetune": ("b-32", 40_000, 512, 1_000, 4e-5, 0.99995, "adamw"),
    "b16-finetune": ("b-16", 40_000, 1024, 1_000, 4e-5, 0.99995, "adamw"),
    "l16-finetune": ("l-16", 40_000, 1024, 1_000, 2e-4, 0.9999, "adamw"),
    "b16-distill": ("b-16-mf", 50_000, 1024, 5_000, 1e-3, 0.999, "muon"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_shipped_recipes_have_the_official_figures(name: str) -> None:
    recipe = load_recipe(Path(name))
    variant, steps, batch, warmup, lr, decay, optimizer = OFFICIAL[name]
    assert recipe.name == name and recipe.model == VARIANTS[variant]
    assert (recipe.steps, recipe.batch, recipe.warmup_steps) == (steps, batch, warmup)
    assert (recipe.lr, recipe.ema_decay, recipe.optimizer) == (lr, decay, optimizer)
    assert (recipe.weight_decay, recipe.grad_clip, recipe.seed) == (0, 0, 42)
    assert (recipe.precision, recipe.decay_steps) == ("bf16", 0)
    assert bool(recipe.start_from) == name.endswith("finetune")
    if recipe.distill is None:
        assert (recipe.a_min, recipe.label_drop) == (0.01, 0.1)
        return
    assert (recipe.a_min, recipe.label_drop, recipe.ema_halflife_kimg) == (0.05, 0.0, 2000)
    assert (recipe.muon_scale, recipe.adam_lr, recipe.sample_steps) == ("original", 1e-4, 4)
    assert recipe.distill == DistillRecipe(teacher=recipe.distill.teacher)


def test_the_second_stage_mixes_its_sources_as_the_official_one() -> None:
    for name in ("b32-finetune", "b16-finetune", "l16-finetune"):
        sources = load_recipe(Path(name)).data.sources
        assert [source.weight for source in sources] == [0.06, 0.016, 0.04]


def test_unknown_names_of_recipes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"b16-pretrian: no such file .* mean b16-pretrain\?"):
        load_recipe(Path("b16-pretrian"))
    with pytest.raises(UsageError, match="known: b16-distill, b16-finetune"):
        load_recipe(Path("zzz"))


def test_a_folder_of_a_shipped_recipes_name_is_no_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b16-distill").mkdir()
    assert load_recipe(Path("b16-distill")).name == "b16-distill"


def test_a_resolved_recipe_is_a_recipe_again(tmp_path: Path) -> None:
    text = resolved_recipe(Path("b16-distill"), ["lr=1e-4", "track=[]"])
    again = tmp_path / "again.yaml"
    again.write_text(text, encoding="utf-8")
    assert load_recipe(again) == load_recipe(Path("b16-distill"), ["lr=1e-4", "track=[]"])
    # Every key is there, so that nothing depends on a default of a later version.
    names = {field.name for field in dataclasses.fields(Recipe)} - {"lora"}
    assert set(yaml.safe_load(text)) == names


def test_a_teachers_trajectory_is_no_longer_than_a_table(path: Path) -> None:
    changes = ["model.student={}", "distill={teacher: t, teacher_rows: 5}", "sample_steps=2001"]
    with pytest.raises(UsageError, match=r"is 2001, .* at most 10000 / distill\.teach"):
        load_recipe(path, changes)
    assert load_recipe(path, [*changes[:2], "sample_steps=2000"]).sample_steps == 2000


def test_steps_that_are_halved_are_even(path: Path) -> None:
    changes = ["model.student={}", "distill={teacher: t, teacher_rows: 5, halvings: 2}"]
    with pytest.raises(UsageError, match=r"sample_steps is 6, .* a multiple of 2 \*\* distill"):
        load_recipe(path, [*changes, "sample_steps=6"])
    assert load_recipe(path, [*changes, "sample_steps=8"]).sample_steps == 8


def test_times_are_for_recipes_that_draw_them(path: Path) -> None:
    student = ["model.student={}", "distill={teacher: t}"]
    with pytest.raises(UsageError, match=r"time_mean is -0\.4, .* unset where no times are"):
        load_recipe(path, [*student, "time_mean=-0.4"])
    assert load_recipe(path, ["time_mean=-0.4"]).time_mean == -0.4
