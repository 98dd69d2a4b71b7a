"""From a folder of one's own images to an adapter: checked, packed, trained, merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.demo.shipped import ASSETS
from minit2i_deploy.training.recipe.load import load_recipe
from tests.helpers.cli_runs import run
from tests.helpers.shard_files import picture

Capsys = pytest.CaptureFixture[str]
TOKENIZER = ("--tokenizer", ASSETS / "tokenizer", "--prompt-length", "20")
# The shipped demo model in place of B/16, and steps that a test can wait for.
SMALL = (
    "model={image_size: 64, patch_size: 8, hidden_size: 192, num_heads: 4, head_dim: 48, "
    "depth_double: 4, pca_channels: 96, txt_input_size: 128, prompt_length: 20}",
    f"lora.base={ASSETS / 'model'}",
    f"text_encoder={ASSETS / 'text_encoder'}",
    f"tokenizer={ASSETS / 'tokenizer'}",
    "steps=2",
    "batch=2",
    "sample_every=0",
    "sample_steps=1",
)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(picture(number))
        (folder / f"{number}.txt").write_text(f"a red circle number {number}", "utf-8")
    return folder


def test_a_folder_becomes_an_adapter(tmp_path: Path, capsys: Capsys) -> None:
    folder = write_images(tmp_path / "images", 3)
    done = run(capsys, "data", "check", folder, *TOKENIZER)
    assert done.code == 0 and done.out.startswith(f"3 samples in {folder}, ")
    assert run(capsys, "data", "pack", folder, tmp_path / "shards").code == 0
    data = f'data=["{tmp_path}/shards/*.tar"]'
    done = run(capsys, "train", "own-images", "--output", tmp_path / "run", data, *SMALL)
    assert done.code == 0
    adapter = Path(done.out.strip())
    base = load_checkpoint(ASSETS / "model")
    merged = load_checkpoint(ASSETS / "model", lora=adapter)
    assert [item.rank for item in merged.report.adapters] == [32]
    changed = [n for n in base.tensors if not np.array_equal(base.tensors[n], merged.tensors[n])]
    assert changed and all(name.endswith(".weight") for name in changed)


def test_the_recipe_has_the_official_settings() -> None:
    recipe = load_recipe(Path("own-images"))
    assert recipe.lora is not None and (recipe.lora.rank, recipe.lora.alpha) == (32, 32)
    assert (recipe.lr, recipe.steps, recipe.batch) == (5e-4, 400, 16)


def test_a_folder_is_checked_before_it_is_packed(tmp_path: Path, capsys: Capsys) -> None:
    folder = write_images(tmp_path / "images", 3)
    (folder / "0.jpg").write_bytes(b"not an image")
    (folder / "1.txt").unlink()
    (folder / "spare.txt").write_text("no image", "utf-8")
    done = run(capsys, "data", "check", folder, *TOKENIZER, "--json")
    assert done.code == 1
    assert done.error.startswith("2 of 3 samples are bad, but --bad-limit is 0")
    report = json.loads(done.out)
    assert report["bad"] == {"image cannot be read": 1, "no caption": 1}
    assert report["examples"]["no caption"] == [f"{folder}: sample 1.jpg: no caption (no .txt)"]
    assert report["unused_captions"] == ["spare.txt"]
    assert report["files"] == {"jpg": 3, "txt": 2}
    assert report["caption_tokens"]["count"] == 1
    done = run(capsys, "data", "check", folder, "--bad-limit", 2)
    assert done.code == 0 and "1 captions belong to no image, such as spare.txt" in done.out


def test_a_folder_with_metadata_is_checked(tmp_path: Path, capsys: Capsys) -> None:
    folder = write_images(tmp_path / "images", 2)
    lines = [{"file_name": f"{name}.jpg", "text": "a circle"} for name in ("0", "1", "gone")]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, "utf-8")
    done = run(capsys, "data", "check", folder, "--min-side", 1000, "--json")
    report = json.loads(done.out)
    assert report["bad"] == {"image too small": 2} and report["unused_captions"] == ["gone.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x.tar",), "check it alone, got 2 names"),
        (("--caption", "json:x"), "is a folder, and --caption is for shards"),
        (("--index",), "is a folder, and --index is for shards"),
    ],
)
def test_what_belongs_to_shards_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: Capsys
) -> None:
    folder = write_images(tmp_path / "images", 1)
    done = run(capsys, "data", "check", folder, *words)
    assert done.code == 2 and message in done.error


def test_a_folder_of_shards_is_named_by_its_shards(tmp_path: Path, capsys: Capsys) -> None:
    folder = write_images(tmp_path / "images", 1)
    run(capsys, "data", "pack", folder, tmp_path / "shards")
    done = run(capsys, "data", "check", tmp_path / "shards")
    assert done.code == 2 and f"name the shards: '{tmp_path}/shards/*.tar'" in done.error
