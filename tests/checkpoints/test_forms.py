"""Every official form yields the same tensors under the canonical names."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minit2i_deploy.checkpoints import Checkpoint, canonical_shapes, linear_modules, load_checkpoint
from minit2i_deploy.config import VARIANTS
from minit2i_deploy.errors import CheckpointError, UsageError
from minit2i_deploy.export.text_encoder_folder import find_text_encoder
from tests.helpers.checkpoint_forms import (
    CONFIG,
    PUBLIC,
    SIZES,
    STUDENT_CONFIG,
    base_forms,
    flatten,
    flax_tree,
    hub_folder,
    student_forms,
    unpacked,
)

HUB_PREFIX = "model.net."
BASE = sorted(base_forms())
STUDENT = sorted(student_forms())


def hub_tensors() -> dict[str, np.ndarray]:
    """The golden EMA weights read without any of our readers."""
    file = hub_folder() / "diffusion_pytorch_model.safetensors"
    return {name.removeprefix(HUB_PREFIX): value for name, value in load_file(file).items()}


def key_map(name: str) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads((PUBLIC / f"{name}.json").read_text())
    return keys


def turned(array: np.ndarray, transform: str) -> np.ndarray:
    """The golden description's transforms, written another way than the readers do."""
    if transform == "T":
        return np.swapaxes(array, 0, 1)
    return np.einsum("hwio->oihw", array) if transform == "HWIO->OIHW" else array


def same(checkpoint: Checkpoint, expected: dict[str, np.ndarray]) -> bool:
    return checkpoint.tensors.keys() == expected.keys() and all(
        np.array_equal(value, expected[name]) for name, value in checkpoint.tensors.items()
    )


def test_canonical_names_are_the_official_ones_less_the_unused() -> None:
    official = {
        key["hf"].removeprefix(HUB_PREFIX): tuple(key["torch_shape"])
        for key in key_map("key_map")
        if key["in_main_branch"]
    }
    assert canonical_shapes(CONFIG) == official


def test_canonical_names_of_the_student() -> None:
    official = {
        key["suggested_torch"].removeprefix("net."): turned(
            np.empty(key["flax_shape"]), key["transform"]
        ).shape
        for key in key_map("key_map_mf")
    }
    unused = {name for name in official if name.startswith(("t_embedder.", "pooled_embedder."))}
    assert len(unused) == 5
    assert canonical_shapes(STUDENT_CONFIG) == {
        name: shape for name, shape in official.items() if name not in unused
    }


def test_parameter_counts_of_the_released_variants() -> None:
    for name, published in {"b-16": 258, "l-16": 912}.items():
        config = VARIANTS[name]
        used = sum(int(np.prod(shape)) for shape in canonical_shapes(config).values())
        # The released files and their published sizes include the two embedders we drop.
        unused = config.hidden_size * (256 + 1 + config.hidden_size + 1 + config.txt_input_size)
        assert round((used + unused) / 1e6) == published


def test_linear_modules_are_the_matrices() -> None:
    modules = linear_modules(CONFIG)
    assert modules["double_blocks.0.img_qkv"] == (192, 64)
    assert not {"img_embedder.proj1", "mask_token"} & modules.keys()
    # 9 in a double block's two streams and the preamble's 5, text projection, final layer.
    assert len(modules) == CONFIG.depth_double * 10 + CONFIG.txt_preamble_depth * 5 + 2


@pytest.mark.parametrize("form", BASE)
def test_base_form_equals_hub_tensors_bit_for_bit(form: str) -> None:
    path, sizes = base_forms()[form]
    checkpoint = load_checkpoint(path, **sizes)
    unused = [name for name in hub_tensors() if name not in canonical_shapes(CONFIG)]
    expected = {name: v for name, v in hub_tensors().items() if name not in unused}
    assert same(checkpoint, expected)
    assert checkpoint.config == CONFIG
    assert checkpoint.report.form == form
    assert checkpoint.report.num_parameters == sum(v.size for v in expected.values())
    assert list(checkpoint.tensors) == list(canonical_shapes(CONFIG))
    for value in checkpoint.tensors.values():
        assert value.dtype == np.float32 and value.flags.c_contiguous and value.flags.writeable


@pytest.mark.parametrize("form", ["torch-training", "flax-msgpack", "flax-orbax"])
def test_online_weights_on_request(form: str) -> None:
    path, sizes = base_forms()[form]
    checkpoint = load_checkpoint(path, ema=False, **sizes)
    online = flatten(flax_tree()["params"])
    keys = {key["flax"]: key for key in key_map("key_map") if key["in_main_branch"]}
    expected = {
        keys["/".join(path)]["hf"].removeprefix(HUB_PREFIX): turned(
            value, keys["/".join(path)]["transform"]
        )
        for path, value in online.items()
    }
    assert same(checkpoint, expected)
    assert not np.array_equal(checkpoint.tensors["mask_token"], hub_tensors()["mask_token"])
    assert checkpoint.report.weights == "online"
    assert checkpoint.report.step == 1000


@pytest.mark.parametrize("form", STUDENT)
def test_student_takes_online_weights_and_names_the_teacher(form: str) -> None:
    path, sizes = student_forms()[form]
    checkpoint = load_checkpoint(path, **sizes)
    keys = {key["flax"]: key for key in key_map("key_map_mf")}
    expected = {
        keys["/".join(path)]["suggested_torch"].removeprefix("net."): turned(
            value, keys["/".join(path)]["transform"]
        )
        for path, value in flatten(flax_tree(student=True)["params"]).items()
        if path[0] == "net"
    }
    expected = {k: v for k, v in expected.items() if k in canonical_shapes(STUDENT_CONFIG)}
    assert same(checkpoint, expected)
    assert checkpoint.config == STUDENT_CONFIG
    assert checkpoint.report.weights == "online"
    dropped = {item.what: item.num_tensors for item in checkpoint.report.dropped}
    assert dropped["t_embedder"] == 4 and dropped["pooled_embedder"] == 1
    assert dropped.get("pt_net") == (95 if form == "flax-msgpack" else None)


def test_student_ema_by_name() -> None:
    path, sizes = student_forms()["flax-msgpack"]
    averaged = load_checkpoint(path, ema="2000", **sizes)
    stored = flax_tree(student=True)["ema_params_dict"]["2000"]["net"]
    expected = stored["context_tokens"]["_flax_param"]["param_tensor"]
    assert np.array_equal(averaged.tensors["context_tokens"], expected)
    assert averaged.report.weights == "EMA 2000"
    online = load_checkpoint(path, ema=False, **sizes)
    assert not np.array_equal(online.tensors["context_tokens"], expected)


def test_report_says_what_was_dropped() -> None:
    path, sizes = base_forms()["flax-orbax"]
    report = load_checkpoint(path, **sizes).report
    assert report.weights == "EMA 0.99995" and report.step == 1000
    dropped = {item.what: item.num_tensors for item in report.dropped}
    assert dropped == {
        "online": 95,
        "opt_state": 192,
        "pooled_embedder": 1,
        "step": 1,
        "t_embedder": 4,
    }
    assert json.loads(json.dumps(report.to_dict()))["dtypes"] == {"float32": 90}


def test_sha256_is_that_of_sha256sum() -> None:
    report = load_checkpoint(hub_folder()).report
    file = hub_folder() / "diffusion_pytorch_model.safetensors"
    assert report.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    folder, sizes = student_forms()["flax-orbax"]
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    lines = [f"{hashlib.sha256((folder / f).read_bytes()).hexdigest()}  {f}\n" for f in files]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert load_checkpoint(folder, **sizes).report.sha256 == expected


def test_unknown_ema_names_what_there_is() -> None:
    for form in ("torch-training", "flax-msgpack"):
        path, sizes = base_forms()[form]
        assert load_checkpoint(path, ema="0.99995", **sizes).report.weights == "EMA 0.99995"
        with pytest.raises(UsageError, match=r"no EMA '0.9'.*0\.99995"):
            load_checkpoint(path, ema="0.9", **sizes)


@pytest.mark.parametrize("form", ["huggingface", "payload"])
def test_one_set_of_weights_has_no_online_ones(form: str) -> None:
    with pytest.raises(UsageError, match="one set of weights"):
        load_checkpoint(base_forms()[form][0], ema=False)


def test_flax_without_sizes_is_one_clear_error() -> None:
    path, _ = base_forms()["flax-msgpack"]
    with pytest.raises(UsageError, match="pass image_size and prompt_length"):
        load_checkpoint(path)
    with pytest.raises(UsageError, match="not a multiple of patch_size"):
        load_checkpoint(path, image_size=30, prompt_length=12)
    with pytest.raises(UsageError, match="expected a positive integer, got -32"):
        load_checkpoint(path, image_size=-32, prompt_length=12)


def test_sizes_must_agree_with_a_configuration() -> None:
    assert load_checkpoint(hub_folder(), **SIZES).config == CONFIG
    with pytest.raises(UsageError, match=r"prompt_length=64, but .* says 12"):
        load_checkpoint(hub_folder(), prompt_length=64)


def test_images_of_another_size_are_of_the_same_weights() -> None:
    wide = load_checkpoint(hub_folder(), image_size=(48, 24))
    assert wide.config == CONFIG.with_image_size(48, 24)
    assert wide.config.image_shape == (3, 24, 48) and wide.config.patch_grid == (3, 6)
    assert wide.report.trained_size == (32, 32)
    assert load_checkpoint(hub_folder(), image_size=32).report.trained_size is None
    for size, text in (
        ((48, 20), "48x20, but both sides must be multiples of the patch of 8 pixels"),
        (8 * 257 * 256, "more than 65,536 patches"),
        ((0, 32), "expected a positive integer, got 0"),
    ):
        with pytest.raises(UsageError, match=text):
            load_checkpoint(hub_folder(), image_size=size)


def test_layouts_of_folders_and_single_files(tmp_path: Path) -> None:
    repository = tmp_path / "MiniT2I"
    shutil.copytree(unpacked() / "hf", repository / "minit2i-b-16")
    (repository / "README.md").write_text("a model card")
    layouts = [
        repository,
        repository / "minit2i-b-16",
        repository / "minit2i-b-16" / "transformer",
        hub_folder() / "diffusion_pytorch_model.safetensors",
        unpacked() / "payload_pt",
        unpacked() / "train_pt",
    ]
    mask_token = hub_tensors()["mask_token"]
    for layout in layouts:
        assert np.array_equal(load_checkpoint(layout).tensors["mask_token"], mask_token)
    for parent in (unpacked() / "jax_msgpack", PUBLIC / "jax_orbax"):
        assert np.array_equal(load_checkpoint(parent, **SIZES).tensors["mask_token"], mask_token)


def test_form_is_recognized_by_content_not_by_name(tmp_path: Path) -> None:
    for form, (path, sizes) in base_forms().items():
        if path.is_file():
            renamed = tmp_path / f"{form}.bin"
            shutil.copy(path, renamed)
            assert load_checkpoint(renamed, **sizes).report.form == form


def test_a_diffusers_folder_with_all_its_parts(tmp_path: Path) -> None:
    """As Bili-Sakura/MiniT2I-diffusers lays out each variant, with the T5 inside."""
    variant = tmp_path / "MiniT2I-diffusers" / "minit2i-b-16"
    shutil.copytree(hub_folder(), variant / "transformer")
    shutil.copytree(PUBLIC / "t5" / "text_encoder", variant / "text_encoder")
    for name in ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "model_index.json"):
        (variant / name).parent.mkdir(exist_ok=True)
        (variant / name).write_text("{}")
    for path in (variant, variant.parent):
        checkpoint = load_checkpoint(path)
        assert same(checkpoint, load_checkpoint(hub_folder()).tensors), path
        found = find_text_encoder(Path(checkpoint.report.path), None)
        assert found == variant / "text_encoder"


def test_sharded_folder(tmp_path: Path) -> None:
    shutil.copy(hub_folder() / "config.json", tmp_path)
    tensors = load_file(hub_folder() / "diffusion_pytorch_model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[:40], names[40:])):
        file = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    with pytest.raises(CheckpointError, match="2 weight files"):
        load_checkpoint(tmp_path)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert same(load_checkpoint(tmp_path), load_checkpoint(hub_folder()).tensors)
    index.write_text(json.dumps({"weight_map": {"a": "../config.json"}}))
    with pytest.raises(CheckpointError, match="no file of that name beside it"):
        load_checkpoint(tmp_path)


def test_shards_of_a_variant(tmp_path: Path) -> None:
    """Named as diffusers names them: NAME.safetensors.index.fp16.json."""
    tensors = load_file(next(hub_folder().glob("*.safetensors")))
    names, stem = sorted(tensors), "diffusion_pytorch_model"
    files = {f"{stem}.fp16-0000{k}-of-00002.safetensors": names[k - 1 :: 2] for k in (1, 2)}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    index = tmp_path / f"{stem}.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    shutil.copy(hub_folder() / "config.json", tmp_path)
    expected = load_checkpoint(hub_folder()).tensors
    actual = load_checkpoint(tmp_path).tensors
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_compiled_and_distributed_modules(prefix: str, tmp_path: Path) -> None:
    tensors = load_file(next(hub_folder().glob("*.safetensors")))
    save_file({prefix + name: tensors[name] for name in tensors}, tmp_path / "a.safetensors")
    shutil.copy(hub_folder() / "config.json", tmp_path)
    expected = load_checkpoint(hub_folder()).tensors
    actual = load_checkpoint(tmp_path).tensors
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)


def test_a_name_with_and_without_a_wrapper_is_refused(tmp_path: Path) -> None:
    tensors = load_file(next(hub_folder().glob("*.safetensors")))
    first = sorted(tensors)[0]
    both = {**tensors, f"_orig_mod.{first}": tensors[first]}
    save_file(both, tmp_path / "a.safetensors")
    shutil.copy(hub_folder() / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="1 duplicate"):
        load_checkpoint(tmp_path)


def test_training_checkpoint_of_this_package(tmp_path: Path) -> None:
    source = load_checkpoint(hub_folder())
    online = {name: value + 1 for name, value in source.tensors.items()}
    save_file(source.tensors, tmp_path / "ema.safetensors")
    save_file(online, tmp_path / "model.safetensors")
    description = {
        "format": "minit2i-training",
        "version": 1,
        "step": 7,
        "config": source.config.to_dict(),
        "recipe": {"ema_decay": 0.999},
    }
    (tmp_path / "checkpoint.json").write_text(json.dumps(description))
    averaged = load_checkpoint(tmp_path)
    assert same(averaged, source.tensors) and averaged.config == source.config
    assert (averaged.report.weights, averaged.report.step) == ("EMA 0.999", 7)
    assert same(load_checkpoint(tmp_path, ema=False), online)
    (tmp_path / "checkpoint.json").write_text(json.dumps(description | {"version": 2}))
    with pytest.raises(CheckpointError, match="version 2"):
        load_checkpoint(tmp_path)
