"""Embeddings in shards are those of the live encoder, and of no other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from minit2i_deploy.errors import DataWarning, TrainingError, UsageError
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.data import Batches, DataBatch
from minit2i_deploy.training.data.shards.embed import embed_shards, open_encoder
from minit2i_deploy.training.data.shards.index import open_index
from minit2i_deploy.training.data.shards.writer import write_shard
from minit2i_deploy.training.recipe.data import parse_data
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.shard_files import good, write_set, write_tar
from tests.helpers.training_runs import tiny_recipe

PLAIN = tiny_recipe()


def recipe_of(*sources: object, **changes: object) -> Recipe:
    return tiny_recipe(data=parse_data({"sources": sources, "workers": 0}), **changes)


def embed(urls: list[Path], out: Path, *, dtype: str = "fp32", length: int = 20) -> list[str]:
    """Embed with the recipe's encoder; the paths of the new shards."""
    text, info = open_encoder(
        PLAIN.text_encoder_folder,
        PLAIN.tokenizer_folder,
        prompt_length=length,
        caption="txt",
        dtype=dtype,
    )
    embed_shards([str(url) for url in urls], out, text, info, bad_limit=0)
    return [str(out / url.name) for url in urls]


def live_text() -> CaptionEncoder:
    model = PLAIN.model
    return CaptionEncoder(
        PLAIN.text_encoder_folder,
        PLAIN.tokenizer_folder,
        model.prompt_length,
        model.txt_input_size,
    )


def first(recipe: Recipe) -> DataBatch:
    return next(Batches(recipe).read(1))


def test_values_are_the_live_encoders_to_the_last_bit(tmp_path: Path) -> None:
    paths = write_set(tmp_path / "plain", [4, 3])
    embedded = first(recipe_of({"shards": embed(paths, tmp_path / "out")}, batch=7))
    plain = first(recipe_of({"shards": [str(path) for path in paths]}, batch=7))
    assert embedded.captions == plain.captions and torch.equal(embedded.images, plain.images)
    context, mask = embedded.context_and_mask(20)
    live_context, live_mask = live_text()(plain.captions)
    assert torch.equal(context, live_context) and torch.equal(mask, live_mask)
    assert embedded.values is not None and len(embedded.values) == int(live_mask.sum())


def test_half_the_bits_are_rounded_once(tmp_path: Path) -> None:
    paths = write_set(tmp_path / "plain", [4])
    recipe = recipe_of({"shards": embed(paths, tmp_path / "out", dtype="bf16")})
    batch = first(recipe)
    assert batch.values is not None and batch.values.dtype == torch.bfloat16
    context, _ = batch.context_and_mask(20)
    live, _ = live_text()(batch.captions)
    assert context.dtype == torch.float32 and torch.equal(context, live.bfloat16().float())


def test_a_run_on_embeddings_is_the_run_on_captions(tmp_path: Path) -> None:
    paths = write_set(tmp_path / "plain", [4, 3])
    losses: list[list[float]] = []
    for shards in (embed(paths, tmp_path / "out"), [str(path) for path in paths]):
        trainer = Trainer(recipe_of({"shards": shards}), tmp_path / f"run-{len(losses)}")
        losses.append([trainer.train_step(data) for data in trainer.source.read(3)])
    assert losses[0] == losses[1] and np.isfinite(losses[0]).all()


def test_long_captions_are_cut_as_the_encoder_sees_them(tmp_path: Path) -> None:
    members = good(1) | {"txt": b"a red circle and " * 20}
    path = write_tar(tmp_path / "a.tar", {"0": members})
    batch = first(recipe_of({"shards": embed([path], tmp_path / "out")}, batch=1))
    live, mask = live_text()(batch.captions)
    assert torch.equal(batch.context_and_mask(20)[0], live) and int(mask.sum()) == 20


@pytest.mark.parametrize("key", ["encoder", "tokenizer", "length", "caption"])
def test_another_encoder_is_refused(tmp_path: Path, key: str) -> None:
    paths = write_set(tmp_path / "plain", [3])
    shards = embed(paths, tmp_path / "out", length=19 if key == "length" else 20)
    source: dict[str, object] = {"shards": shards}
    changes = {}
    if key == "caption":
        source["caption"] = "json:text"
    if key in ("encoder", "tokenizer"):
        field = {"encoder": "text_encoder", "tokenizer": "tokenizer"}[key]
        other = tmp_path / "other"
        shutil.copytree(getattr(PLAIN, f"{field}_folder"), other)
        name = "config.json" if key == "encoder" else "tokenizer.json"
        (other / name).write_bytes((other / name).read_bytes() + b"\n")
        changes[field] = str(other)
    with pytest.raises(
        TrainingError, match=r"was embedded with .*run minit2i data embed"
    ) as caught:
        Batches(recipe_of(source, **changes))
    expected = {"encoder": "encoder_sha256", "length": "prompt_length 19"}
    assert expected.get(key, key) in str(caught.value)


def test_embeddings_are_not_mixed(tmp_path: Path) -> None:
    paths = write_set(tmp_path / "plain", [3, 3])
    shards = embed(paths, tmp_path / "out")
    half = embed(paths, tmp_path / "half", dtype="bf16")
    with pytest.raises(TrainingError, match="mixes sources with embeddings and without"):
        Batches(recipe_of({"shards": shards}, "shapes"))
    with pytest.raises(TrainingError, match="differ in kind from those of"):
        Batches(recipe_of({"shards": [shards[0], half[1]]}))
    with pytest.raises(TrainingError, match="differ in kind from those of"):
        Batches(recipe_of({"shards": [shards[0], str(paths[1])]}))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, r"no embedding \(no .context.safetensors\)"),
        ({"context.safetensors": b"short"}, "embedding cannot be read"),
        ({"context.safetensors": save({"x": torch.zeros(2, 128)})}, "embedding cannot be read"),
        (
            {"context.safetensors": save({"context": torch.zeros(128)})},
            r"embedding cannot be read \(shape \[128\]\)",
        ),
    ],
)
def test_a_sample_without_its_embedding_is_bad(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    (path,) = write_set(tmp_path / "plain", [5])
    (shard,) = embed([path], tmp_path / "out")
    index = open_index(shard)
    samples = {raw.key: raw.members for raw in map(index.read, range(5))}
    samples["00002"] = good(2) | members
    write_shard(Path(shard), list(samples.items()), json.dumps(dict(index.text or {})))
    with pytest.warns(DataWarning, match=f"sample 00002: {message}"):
        first(recipe_of(shard, batch=5))


def test_an_interrupted_embedding_goes_on(tmp_path: Path) -> None:
    paths, out = write_set(tmp_path / "plain", [2, 2]), tmp_path / "out"
    text, info = open_encoder(
        PLAIN.text_encoder_folder,
        PLAIN.tokenizer_folder,
        prompt_length=20,
        caption="txt",
        dtype="fp32",
    )
    urls = [str(path) for path in paths]
    embed_shards(urls[:1], out, text, info, bad_limit=0)
    before = (out / "00.tar").stat().st_mtime_ns
    shares: list[float] = []
    done = embed_shards(
        urls, out, text, info, bad_limit=0, progress=lambda share, label="": shares.append(share)
    )
    assert (done.num_shards, done.num_existing, done.num_samples) == (2, 1, 2)
    assert (out / "00.tar").stat().st_mtime_ns == before
    assert shares == sorted(shares) and shares[-1] == 1
    other = dataclasses.replace(info, dtype="bf16")
    with pytest.raises(TrainingError, match="exists with dtype 'fp32', expected 'bf16'"):
        embed_shards(urls, out, text, other, bad_limit=0)


def test_what_embed_refuses(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path / "a", [2])
    (twin,) = write_set(tmp_path / "b", [2])
    with pytest.raises(UsageError, match=r"two shards are named 00.tar"):
        embed([path, twin], tmp_path / "out")
    with pytest.raises(UsageError, match="is the folder of the shards themselves"):
        embed([path], path.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        embed([path], tmp_path / "file" / "out")
    bad = write_tar(tmp_path / "bad.tar", {"0": good(0), "1": {"jpg": b"", "txt": b"\xff"}})
    with pytest.raises(
        TrainingError, match=r"sample 1: caption is not UTF-8 .*1 bad samples exceed --bad-limit 0"
    ):
        embed([bad], tmp_path / "out")
    assert not (tmp_path / "out" / "bad.tar").exists()
    with pytest.raises(TrainingError, match=r"has no config.json of a T5 encoder"):
        open_encoder(tmp_path, tmp_path, prompt_length=20, caption="txt", dtype="fp32")
