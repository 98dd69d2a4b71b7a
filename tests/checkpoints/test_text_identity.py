"""Which text encoder a network was trained with: recorded, compared, never by shapes alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import transformers

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.text_identity import (
    TextIdentity,
    check_text_identity,
    recorded_identity,
)
from minit2i_deploy.cli.refit import _check_text_encoder
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.errors import CheckpointError, DataWarning, PrecisionWarning
from minit2i_deploy.export.options import ExportOptions
from minit2i_deploy.export.write import export_bundle
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.recipe.lora import LoraRecipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import tiny_recipe, tiny_student_recipe

RECIPE = tiny_recipe(steps=1, optimizer="adamw")
ENCODER, TOKENIZER = RECIPE.text_encoder_folder, RECIPE.tokenizer_folder
ASSETS = ENCODER.parent


def identity(encoder: Path = ENCODER, tokenizer: Path = TOKENIZER) -> TextIdentity:
    return CaptionEncoder(encoder, tokenizer, 20, 128).identity


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder of the shipped one's shape and other weights."""
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    config = transformers.T5Config.from_pretrained(ENCODER)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one step."""
    return Trainer(RECIPE, tmp_path_factory.mktemp("run")).run()


def test_the_files_form_does_not_matter(tmp_path: Path) -> None:
    encoder = transformers.T5EncoderModel.from_pretrained(ENCODER)
    encoder.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    encoder.save_pretrained(tmp_path / "bin", safe_serialization=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("shards", "bin"):
        assert identity(tmp_path / folder, tmp_path / "tokenizer") == identity()


def test_a_rounded_copy_is_told_from_another_encoder(tmp_path: Path, other: Path) -> None:
    half = transformers.T5EncoderModel.from_pretrained(ENCODER).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    with pytest.warns(PrecisionWarning, match="text encoder are a rounded copy of those model was"):
        check_text_identity(identity(), identity(tmp_path), "model", tmp_path)
    with pytest.raises(CheckpointError, match="is not the text encoder that model was trained"):
        check_text_identity(identity(), identity(other), "model", other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_text_identity(identity(), identity(), "model", ENCODER)
        check_text_identity(None, identity(other), "model", other)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    values = json.loads(path.read_bytes())
    vocabulary = values["model"]["vocab"]
    names = [name for name, _ in vocabulary]
    red, blue = names.index("▁red"), names.index("▁blue")
    vocabulary[red], vocabulary[blue] = vocabulary[blue], vocabulary[red]
    path.write_text(json.dumps(values), encoding="utf-8")
    changed = identity(tokenizer=tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="its tokenizer splits text into other tokens"):
        check_text_identity(identity(), changed, "model", ENCODER)


def test_a_run_records_it_and_export_compares(run: Path, other: Path, tmp_path: Path) -> None:
    assert recorded_identity(run) == identity() == load_checkpoint(run).report.text_identity
    with pytest.raises(CheckpointError, match=r"other0: is not .*run0/step-000001 was trained"):
        export_bundle(run, tmp_path / "bundle", ExportOptions(text_encoder=other))
    assert not (tmp_path / "bundle").exists()


def test_a_run_is_not_resumed_with_another(run: Path, other: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.parent, folder)
    recipe = dataclasses.replace(RECIPE, text_encoder=str(other), steps=2)
    with pytest.raises(CheckpointError, match="is not the text encoder that"):
        Trainer(recipe, folder)


@pytest.mark.parametrize("kind", ["lora", "distill"])
def test_a_base_and_a_teacher_have_the_recipes(
    kind: str, run: Path, other: Path, tmp_path: Path
) -> None:
    if kind == "lora":
        recipe = tiny_recipe(lora=LoraRecipe(base=str(run), rank=2), optimizer="adamw")
    else:
        recipe = tiny_student_recipe(run)
    Trainer(recipe, tmp_path / "same")
    with pytest.raises(CheckpointError, match="is not the text encoder that"):
        Trainer(dataclasses.replace(recipe, text_encoder=str(other)), tmp_path / "other")


def test_weights_to_start_from_may_have_another(run: Path, other: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, start_from=str(run), text_encoder=str(other))
    with pytest.warns(DataWarning, match="is not the text encoder .*; training starts from it"):
        Trainer(recipe, tmp_path)


@pytest.mark.parametrize("name", ["model", "student"])
def test_the_shipped_models_record_the_shipped_encoder(name: str) -> None:
    recorded = recorded_identity(ASSETS / name)
    assert recorded is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_text_identity(recorded, identity(), name, ENCODER)


def test_a_corrupt_record_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "step-000001")
    path = tmp_path / "step-000001" / "checkpoint.json"
    values = json.loads(path.read_bytes())
    for broken in ({}, [], values["text_identity"] | {"probe_ids": ["x"]}):
        path.write_text(json.dumps(values | {"text_identity": broken}), encoding="utf-8")
        with pytest.raises(CheckpointError, match="text_identity is corrupt"):
            load_checkpoint(tmp_path / "step-000001")


def test_a_bundle_keeps_its_text_encoder_for_new_weights_of_its_own(
    run: Path, other: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(ready_bundle("demo", tmp_path / "cache"))
    _check_text_encoder(bundle, load_checkpoint(run))
    recipe = dataclasses.replace(RECIPE, text_encoder=str(other))
    foreign = load_checkpoint(Trainer(recipe, tmp_path / "foreign").run())
    with pytest.raises(CheckpointError, match=r"are not those that .*foreign.* was trained with"):
        _check_text_encoder(bundle, foreign)
