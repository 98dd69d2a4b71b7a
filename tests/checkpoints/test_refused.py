"""Corrupt, hostile and foreign checkpoints are refused with one line that says what to do."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import CheckpointError, Minit2iError
from tests.helpers.checkpoint_forms import (
    PUBLIC,
    SIZES,
    base_forms,
    flax_tree,
    hub_folder,
    pack,
    student_forms,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILE_FORMS = ["flax-msgpack", "huggingface", "payload", "torch-training"]


class Touch:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


def refused(path: Path, **kwargs: Any) -> str:
    with pytest.raises(Minit2iError) as caught:
        load_checkpoint(path, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def hub_copy(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(hub_folder() / "config.json", folder)
    tensors = load_file(hub_folder() / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def hub_with_config(folder: Path, **values: Any) -> Path:
    config = json.loads((hub_folder() / "config.json").read_text())
    shutil.copytree(hub_folder(), folder)
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def test_missing_unexpected_and_misshaped_tensors_are_all_named(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors["model.net.mask_token"], tensors["model.net.double_blocks.1.q_norm.weight"]
        tensors["model.net.extra"] = np.zeros(1, np.float32)
        tensors["model.net.final_layer.linear.bias"] = np.zeros(7, np.float32)

    text = refused(hub_copy(tmp_path / "x", change))
    assert "2 missing: double_blocks.1.q_norm.weight, mask_token;" in text
    assert "1 unexpected: model.net.extra;" in text
    assert "1 misshaped: final_layer.linear.bias [7] (expected [192]);" in text


def test_long_lists_are_cut_with_a_count(tmp_path: Path) -> None:
    text = refused(hub_with_config(tmp_path / "x", depth_double=4))
    assert "20 missing: double_blocks.3." in text and "and 16 more" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.net.double_blocks.2.txt_mlp.w2.weight"][3, 5] = value

    text = refused(hub_copy(tmp_path / "x", change))
    assert "double_blocks.2.txt_mlp.w2.weight: 1 of 11264 values" in text


def test_weights_of_integers(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.net.mask_token"] = tensors["model.net.mask_token"].astype(np.int8)

    assert "expected one of float32, float16, bfloat16" in refused(hub_copy(tmp_path / "x", change))


@pytest.mark.parametrize("form", FILE_FORMS)
@pytest.mark.parametrize("share", [0.999, 0.5, 0.02])
def test_truncated_files(form: str, share: float, tmp_path: Path) -> None:
    path, sizes = base_forms()[form]
    file = path / WEIGHTS if path.is_dir() else path
    shutil.copy(hub_folder() / "config.json", tmp_path)
    cut = tmp_path / file.name
    data = file.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    text = refused(cut, **sizes)
    assert file.name in text and ("copy" in text or "expected" in text)


@pytest.mark.parametrize("form", ["base", "student"])
def test_orbax_folder_with_a_file_missing(form: str, tmp_path: Path) -> None:
    source = base_forms()["flax-orbax"][0] if form == "base" else student_forms()["flax-orbax"][0]
    complete = tmp_path / "checkpoint_1"
    shutil.copytree(source, complete)
    biggest = max(complete.glob("ocdbt.process_0/d/*"), key=lambda p: p.stat().st_size)
    for victim in ("manifest.ocdbt", str(biggest.relative_to(complete))):
        broken = tmp_path / "broken"
        shutil.copytree(complete, broken)
        (broken / victim).unlink()
        assert "copy the" in refused(broken, **SIZES)
        shutil.rmtree(broken)


@pytest.mark.parametrize("tree", ['{"a": {}}', "[]", '{"a": {"key_metadata": [1]}}', "{"])
def test_orbax_description_that_is_broken(tree: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint_1"
    shutil.copytree(PUBLIC / "mf_jax_orbax" / "checkpoint", folder)
    (folder / "_METADATA").write_text(f'{{"use_ocdbt": true, "tree_metadata": {tree}}}')
    assert "_METADATA" in refused(folder, **SIZES)


def test_orbax_data_that_were_altered(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint_1"
    shutil.copytree(PUBLIC / "mf_jax_orbax" / "checkpoint", folder)
    (data,) = (folder / "d").iterdir()
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content)
    assert "copy the folder again" in refused(folder, **SIZES)


@pytest.mark.parametrize("wrapped", ["state_dict", "model"])
def test_pickles_that_run_code_do_not(wrapped: str, tmp_path: Path) -> None:
    touched, path = tmp_path / "touched", tmp_path / "weights.pt"
    torch.save({"config": {}, "ema": {}, wrapped: Touch(touched)}, path)
    assert "could run code" in refused(path)
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Touch(touched)))
    assert "runs code" in refused(bare)
    torch.save({wrapped: Touch(touched)}, bare, _use_new_zipfile_serialization=False)
    assert "runs code" in refused(bare)
    assert not touched.exists()


def test_older_network_of_the_pytorch_port(tmp_path: Path) -> None:
    state = torch.load(base_forms()["torch-training"][0], weights_only=True)
    state["config"]["compat_checkpoint_arch"] = True
    torch.save(state, tmp_path / "x.pt")
    assert "compat_checkpoint_arch is True" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"prediction": "v"}, "predicts 'v'"),
        ({"txt_hidden_size": 32}, "txt_hidden_size is 32"),
        ({"num_experts": 4}, r"unknown keys ['num_experts']"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"head_dim": 8}, "not num_heads 4 x head_dim 8"),
        ({"_class_name": "FluxTransformer2DModel"}, "describes FluxTransformer2DModel"),
        ({"compat_checkpoint_arch": True}, "compat_checkpoint_arch is True"),
    ],
)
def test_configurations_of_other_networks(
    values: dict[str, Any], text: str, tmp_path: Path
) -> None:
    error = refused(hub_with_config(tmp_path / "x", **values))
    assert text in error and "config.json" in error


def test_configuration_with_a_key_missing_or_no_json(tmp_path: Path) -> None:
    folder = hub_with_config(tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    del config["patch_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "the configuration has no ['patch_size']" in refused(folder)
    for content in ("{", "[1]", ""):
        (folder / "config.json").write_text(content)
        assert "config.json" in refused(folder)


def test_paths_without_a_checkpoint(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing")
    assert "no checkpoint in it" in refused(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert "a bundle" in refused(tmp_path)
    text_encoder = PUBLIC / "t5" / "text_encoder"
    assert "T5EncoderModel" in refused(text_encoder)
    for name, content in {"empty": b"", "text": b"hello", "zeros": bytes(100)}.items():
        (tmp_path / name).write_bytes(content)
        assert "not a checkpoint; expected a Flax Orbax folder" in refused(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"")
    assert "not a checkpoint; expected a Flax Orbax folder" in refused(tmp_path / "x.npz")
    shutil.copy(hub_folder() / WEIGHTS, tmp_path)
    assert "no config.json beside it" in refused(tmp_path / WEIGHTS)


def test_a_folder_with_two_checkpoints(tmp_path: Path) -> None:
    root = tmp_path / "release"
    for name in ("minit2i-b-16", "minit2i-l-16"):
        shutil.copytree(hub_folder(), root / name / "transformer")
    text = refused(root)
    assert "holds 2 checkpoints (minit2i-b-16/transformer, minit2i-l-16/transformer)" in text
    assert "give the path of one" in text
    flax = tmp_path / "runs"
    flax.mkdir()
    for step in (1, 2):
        (flax / f"checkpoint_{step}").write_bytes(pack({"params": {}}))
    assert "holds 2 checkpoints (checkpoint_1, checkpoint_2)" in refused(flax)


def test_torch_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save([1, 2], path)
    assert "holds list" in refused(path)
    torch.save({"state_dict": {}, "epoch": 3}, path)
    assert "['epoch', 'state_dict']" in refused(path) or "['state_dict', 'epoch']" in refused(path)
    config = json.loads((hub_folder() / "config.json").read_text())
    torch.save({"config": config, "state_dict": {"net.mask_token": 1.0}}, path)
    assert "'net.mask_token' is float" in refused(path)
    torch.save({"config": config, "state_dict": [1]}, path)
    assert "expected a dictionary of tensors under state_dict, got list" in refused(path)


def test_hostile_msgpack(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    valid = pack({"params": flax_tree()["ema_params_dict"]["0.99995"]})
    deep: Any = 1
    for _ in range(200):
        deep = {"params": deep}
    arrays = {
        "negative shape": ([-1, 4], "float32", bytes(16)),
        "too few bytes": ([4, 4], "float32", bytes(16)),
        "no type": ([4], None, bytes(16)),
        "python object": ([2], "object", bytes(16)),
        "two fields": ([4], "float32"),
    }
    contents = {
        name: msgpack.packb({"params": msgpack.ExtType(1, msgpack.packb(body))})
        for name, body in arrays.items()
    }
    contents |= {
        "bytes after the end": valid + b"\x00",
        "deep": msgpack.packb(deep),
        "unknown extension": msgpack.packb({"params": {"a": msgpack.ExtType(9, b"")}}),
        "not msgpack": b"\x81\xa6params\xc1",
        "number as key": b"\x81\xa6params\x81\x01\x02",
        "huge length": b"\x81\xa6params\xc9\xff\xff\xff\xff\x01",
        "long name": msgpack.packb({"params": {"a" * 5000: 1}}),
        "same key twice": b"\x82" + valid[1:] + valid[1:],
    }
    for name, content in contents.items():
        path.write_bytes(content)
        assert "checkpoint_1" in refused(path, **SIZES), name


def test_flax_tree_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    path.write_bytes(pack({"params": {"net": {"Dense_0": {"kernel": np.zeros((2, 2))}}}}))
    assert "not an MM-JiT network" in refused(path, **SIZES)
    path.write_bytes(pack({"params": {}, "batch_stats": {"mean": np.zeros(2)}}))
    assert "batch_stats" in refused(path, **SIZES)


def test_every_refusal_is_in_the_error_tree() -> None:
    assert issubclass(CheckpointError, Minit2iError)
