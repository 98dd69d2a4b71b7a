"""The lora part of a recipe: what is refused, and which layers a pattern picks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from minit2i_deploy.checkpoints import linear_modules
from minit2i_deploy.errors import UsageError
from minit2i_deploy.training.lora.targets import BLOCKS, lora_targets
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.load import load_recipe, recipe_from_dict
from minit2i_deploy.training.recipe.lora import LoraRecipe
from tests.helpers.training_runs import TINY_MODEL, TINY_STUDENT, tiny_recipe

STREAM = ["attn_proj", "mlp.w1", "mlp.w2", "mlp.w3", "qkv"]


@pytest.mark.parametrize(
    ("patterns", "picked"),
    [
        (["txt_embedder"], ["txt_embedder"]),
        (["final_layer"], ["final_layer.linear"]),
        (["img_qkv"], ["double_blocks.0.img_qkv", "double_blocks.1.img_qkv"]),
        (["double_blocks.*.img_mlp.w2"], [f"double_blocks.{i}.img_mlp.w2" for i in (0, 1)]),
        (["double_blocks.1.txt_*"], ["double_blocks.1.txt_qkv"]),
        (["txt_preamble_blocks.0"], [f"txt_preamble_blocks.0.{name}" for name in STREAM]),
        (
            ["txt_mlp", "double_blocks.0.txt_mlp.w1"],
            [f"double_blocks.0.txt_mlp.w{i}" for i in (1, 2, 3)],
        ),
    ],
)
def test_a_pattern_picks_whole_components(patterns: list[str], picked: list[str]) -> None:
    assert sorted(lora_targets(TINY_MODEL, patterns)) == sorted(picked)


def test_the_default_is_every_linear_layer_of_the_blocks() -> None:
    actual = lora_targets(TINY_MODEL, BLOCKS)
    # Two text blocks and two double blocks of five layers a stream, less four that nothing reads.
    assert len(actual) == 2 * 5 + 2 * 10 - 4
    assert list(actual) == [name for name in linear_modules(TINY_MODEL) if name in actual]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("img_qvk", "did you mean img_qkv?"),
        ("double_block", "did you mean double_blocks?"),
        ("double_blocks.7.img_qkv", "did you mean double_blocks.1.img_qkv?"),
        ("qkv_img.weight.x.y.z", "known are double_blocks, final_layer, txt_embedder"),
        ("img", "which is not a linear layer"),
        ("img_norm1", "which is not a linear layer"),
        ("double_blocks.1.txt_mlp", "that reach no output of the network; remove it"),
    ],
)
def test_a_target_that_is_none_is_refused_with_the_nearest(pattern: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        tiny_recipe(lora=LoraRecipe(base="b", rank=4, targets=(pattern,)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": ""}, "lora.base is '', but it must be a path"),
        ({"rank": 0}, "lora.rank is 0, but it must be 1 or more"),
        ({"rank": 4.0}, "lora.rank is 4.0"),
        ({"rank": True}, "lora.rank is True"),
        (
            {"rank": 33},
            r"lora.rank is 33, but txt_preamble_blocks.0.qkv is \[96, 32\]; use at most 32",
        ),
        ({"alpha": 0}, "lora.alpha is 0, but it must be above 0"),
        ({"alpha": float("nan")}, "lora.alpha is nan"),
        ({"dropout": 1.0}, r"lora.dropout is 1.0, but it must be in \[0, 1\)"),
        ({"new_words": "cyan"}, "lora.new_words is 'cyan', but it must be a list of words"),
        ({"new_words": ["cyan", " "]}, r"lora.new_words is \['cyan', ' '\], but it must be"),
        ({"targets": []}, "lora.targets is .., but it must be a list of names"),
        ({"targets": "img_qkv"}, "must be a list of names"),
        ({"targets": [3]}, "must be a list of names"),
        ({"ranks": 4}, "unknown key 'lora.ranks'; did you mean lora.rank"),
    ],
)
def test_values_outside_their_range(values: dict[str, Any], message: str) -> None:
    whole = tiny_recipe().to_dict() | {"lora": {"base": "b", "rank": 4} | values}
    with pytest.raises(UsageError, match=message):
        recipe_from_dict(whole)


def test_parts_that_do_not_go_together() -> None:
    lora = LoraRecipe(base="b", rank=4, dropout=0.1)
    with pytest.raises(UsageError, match=r"lora\.dropout and recompute are set"):
        tiny_recipe(lora=lora, recompute=True)
    with pytest.raises(UsageError, match=r"start_from is set, but adapters are trained on lora"):
        tiny_recipe(lora=lora, start_from="x")
    with pytest.raises(UsageError, match=r"distill is set, but adapters are trained on lora"):
        tiny_recipe(lora=lora, model=TINY_STUDENT, distill=DistillRecipe(teacher="t"))
    with pytest.raises(UsageError, match="lora is 4, but it must be a mapping"):
        recipe_from_dict(tiny_recipe().to_dict() | {"lora": 4})
    with pytest.raises(UsageError, match=r"lora\.base is missing"):
        recipe_from_dict(tiny_recipe().to_dict() | {"lora": {}})


def test_a_recipe_comes_back_from_its_own_values(tmp_path: Path) -> None:
    lora = LoraRecipe(base="package:demo/assets/model", rank=4, alpha=2.5, targets=("img_qkv",))
    recipe = tiny_recipe(lora=lora)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert load_recipe(path, ["lora.alpha=1e1"]).lora == LoraRecipe(
        base=lora.base, rank=4, alpha=10.0, targets=("img_qkv",)
    )
    assert "lora" not in tiny_recipe().to_dict()


def test_the_base_is_taken_from_the_recipe_s_folder(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    values = tiny_recipe().to_dict() | {"lora": {"base": "model", "rank": 4}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    lora = load_recipe(path).lora
    assert lora is not None and lora.base_folder == tmp_path / "model"


def test_the_shipped_recipe_is_whole(repository: Path) -> None:
    recipe = load_recipe(repository / "training" / "recipes" / "demo-lora.yaml")
    assert recipe.lora is not None and recipe.lora.base_folder.is_dir()
    assert {"novel_colour", "novel_attribution"} < set(recipe.kind_weights)
