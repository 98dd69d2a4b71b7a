"""Half precision, chunked arrays and rare layouts, which the golden files do not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import torch
from safetensors.torch import save_file

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.canonical_names import canonical_shapes
from minit2i_deploy.checkpoints.containers.msgpack_file import MsgpackFile
from minit2i_deploy.checkpoints.forms.flax_config import infer_config
from minit2i_deploy.config import VARIANTS
from minit2i_deploy.errors import CheckpointError, UsageError
from tests.helpers.checkpoint_forms import (
    CONFIG,
    SIZES,
    base_forms,
    flatten,
    flax_tree,
    hub_folder,
    pack,
)

EMA = "0.99995"


def ema_tree() -> dict[str, Any]:
    """The golden EMA tree, ``net`` and below."""
    tree: dict[str, Any] = flax_tree()["ema_params_dict"][EMA]
    return tree


def mapped(tree: dict[str, Any], change: Any) -> dict[str, Any]:
    return {k: mapped(v, change) if isinstance(v, dict) else change(v) for k, v in tree.items()}


def chunked(array: np.ndarray, num_chunks: int) -> dict[str, Any]:
    """As flax.serialization._chunk writes an array that is too big for msgpack."""
    pieces = np.array_split(array.ravel(), num_chunks)
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(array.shape)},
        "chunks": {str(i): piece for i, piece in enumerate(pieces)},
    }


def write_orbax(folder: Path, leaves: dict[tuple[str, ...], np.ndarray], chunks: int = 1) -> None:
    """Orbax's layout, written by tensorstore; arrays are cut into chunks along their first axis."""
    folder.mkdir()
    tree = {}
    for key, value in leaves.items():
        spec = {
            "driver": "zarr",
            "kvstore": {
                "driver": "ocdbt",
                "base": {"driver": "file", "path": f"{folder}/"},
                "path": ".".join(key) + "/",
            },
            "metadata": {"chunks": [max(1, n // chunks) for n in value.shape]},
            "store_data_equal_to_fill_value": True,
        }
        store = tensorstore.open(
            spec, create=True, dtype=tensorstore.dtype(value.dtype), shape=value.shape
        ).result()
        store.write(value).result()
        tree[str(key)] = {
            "key_metadata": [{"key": part, "key_type": 2} for part in key],
            "value_metadata": {"value_type": "np.ndarray"},
        }
    metadata = {
        "tree_metadata": tree,
        "use_ocdbt": True,
        "store_array_data_equal_to_fill_value": True,
    }
    (folder / "_METADATA").write_text(json.dumps(metadata))


def widened(value: np.ndarray, dtype: Any) -> np.ndarray:
    return np.asarray(value).astype(dtype).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("container", ["msgpack", "orbax", "safetensors", "payload"])
def test_half_precision_is_widened_exactly(container: str, dtype: Any, tmp_path: Path) -> None:
    source = load_checkpoint(hub_folder())
    path, name = tmp_path / "checkpoint", np.dtype(dtype).name
    half = mapped(ema_tree(), lambda v: v.astype(dtype))
    hub = {
        f"model.net.{k}": torch.from_numpy(v).to(getattr(torch, name))
        for k, v in source.tensors.items()
    }
    if container == "msgpack":
        path.write_bytes(pack({"params": half}))
    elif container == "orbax":
        write_orbax(path, {("params", *key): v for key, v in flatten(half).items()})
    elif container == "safetensors":
        path.mkdir()
        (path / "config.json").write_bytes((hub_folder() / "config.json").read_bytes())
        save_file(hub, path / "diffusion_pytorch_model.safetensors")
    else:
        config = json.loads((hub_folder() / "config.json").read_text())
        state = {k.removeprefix("model."): v for k, v in hub.items()}
        torch.save({"config": config, "state_dict": state}, path)
    checkpoint = load_checkpoint(path, **SIZES)
    assert checkpoint.report.dtypes == {name: 90}
    for key, value in checkpoint.tensors.items():
        assert value.dtype == np.float32
        assert np.array_equal(value, widened(source.tensors[key], dtype))


def test_chunked_msgpack_arrays(tmp_path: Path) -> None:
    tree = {"params": mapped(ema_tree(), lambda v: chunked(v, 3) if v.ndim == 2 else v)}
    path = tmp_path / "checkpoint_5"
    path.write_bytes(pack(tree))
    expected = load_checkpoint(hub_folder()).tensors
    for name, value in load_checkpoint(path, **SIZES).tensors.items():
        assert np.array_equal(value, expected[name])


def test_chunked_orbax_arrays(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_5"
    write_orbax(path, {("params", *key): v for key, v in flatten(ema_tree()).items()}, chunks=4)
    expected = load_checkpoint(hub_folder()).tensors
    for name, value in load_checkpoint(path, **SIZES).tensors.items():
        assert np.array_equal(value, expected[name])


def test_chunks_that_do_not_fill_their_array(tmp_path: Path) -> None:
    tree = mapped(ema_tree(), lambda v: v)
    short = chunked(tree["net"]["txt_embedder"]["_flax_linear"]["kernel"], 3)
    del short["chunks"]["2"]
    tree["net"]["txt_embedder"]["_flax_linear"]["kernel"] = short
    path = tmp_path / "checkpoint_5"
    path.write_bytes(pack({"params": tree}))
    with pytest.raises(CheckpointError, match="chunks hold 1366 values"):
        load_checkpoint(path, **SIZES)


@pytest.mark.parametrize("below_net", [True, False])
def test_parameters_only_trees(below_net: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    tree = ema_tree() if below_net else ema_tree()["net"]
    path.write_bytes(pack({"params": tree}))
    for ema in (True, False):
        checkpoint = load_checkpoint(path, ema, **SIZES)
        assert checkpoint.report.weights == "the only ones in the file (params)"
        assert checkpoint.config == CONFIG


def test_older_ema_key_and_several_emas(tmp_path: Path) -> None:
    state = flax_tree()
    online, averaged = state["params"], ema_tree()
    path = tmp_path / "checkpoint_1"
    path.write_bytes(pack({"step": np.int32(1), "params": online, "ema_params": averaged}))
    expected = load_checkpoint(hub_folder()).tensors["mask_token"]
    old = load_checkpoint(path, **SIZES)
    assert old.report.weights == "EMA" and old.report.step == 1
    assert np.array_equal(old.tensors["mask_token"], expected)
    emas = {"0.9999": online, EMA: averaged}
    path.write_bytes(pack({"step": 2, "params": online, "ema_params_dict": emas}))
    newest = load_checkpoint(path, **SIZES)
    assert newest.report.weights == f"EMA {EMA}" and newest.report.step == 2
    assert {item.what for item in newest.report.dropped} >= {"online", "EMA 0.9999"}
    other = load_checkpoint(path, "0.9999", **SIZES)
    assert not np.array_equal(other.tensors["mask_token"], expected)


def test_training_state_without_ema_needs_a_word(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    path.write_bytes(pack({"params": ema_tree(), "opt_state": {"0": {"count": np.int32(3)}}}))
    with pytest.raises(CheckpointError, match="pass ema=False"):
        load_checkpoint(path, **SIZES)
    assert load_checkpoint(path, ema=False, **SIZES).config == CONFIG


def test_teacher_beside_a_base_model_is_not_dropped(tmp_path: Path) -> None:
    net = ema_tree()["net"]
    path = tmp_path / "checkpoint_1"
    path.write_bytes(pack({"params": {"net": net, "pt_net": net}}))
    with pytest.raises(CheckpointError, match="90 unexpected: params/pt_net/"):
        load_checkpoint(path, **SIZES)


@pytest.mark.parametrize("name", ["b-32", "b-16", "l-16", "b-16-mf"])
def test_published_variants_are_known_by_their_shapes(name: str) -> None:
    shapes = canonical_shapes(VARIANTS[name])
    assert infer_config(shapes, None, None, "here") == VARIANTS[name]
    other = infer_config(shapes, 256, 128, "here")
    assert (other.image_size, other.prompt_length) == (512, 128)


def test_unpublished_width_of_the_mlp_is_inferred() -> None:
    config = VARIANTS["b-16"]
    shapes = canonical_shapes(config) | {"double_blocks.0.img_mlp.w1.weight": (1000, 768)}
    assert infer_config(shapes, 512, 256, "here").mlp_hidden_size == 1000
    shapes["double_blocks.0.img_mlp.w1.weight"] = (1001, 768)
    with pytest.raises(CheckpointError, match="SwiGLU width of 1001"):
        infer_config(shapes, 512, 256, "here")
    with pytest.raises(UsageError, match="match none of b-32, b-16"):
        infer_config(canonical_shapes(CONFIG), None, 12, "here")


def test_msgpack_reads_only_the_tree_of_the_names() -> None:
    container = MsgpackFile(base_forms()["flax-msgpack"][0])
    names = [name for name in container.names if name.startswith("ema_params_dict/")]
    assert 3 * len(names) < len(container.names)
    read = dict(container.read(names))
    assert read.keys() == set(names)
    assert all(read[name].shape == container.leaf(name).shape for name in names)
