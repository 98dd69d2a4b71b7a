"""The torch runtime reads its weights from a bundle alone, and refuses what it cannot run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_forms import PUBLIC, arrays, hub_folder
from tiny_bundle import overflowing, tiny_bundle

from minit2i_deploy.bundle import Bundle
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes.torch import TorchRuntime, read_weights

# Measured 1.7e-6 for the network and 9.6e-7 for the text encoder, on values up to 3.9.
MAX_ABS_ERROR = 1e-5


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


def copy_of(bundle: Bundle, folder: Path) -> Bundle:
    shutil.copytree(bundle.path, folder)
    return Bundle.open(folder)


def test_weights_are_the_checkpoints_bit_for_bit(bundle: Bundle) -> None:
    wanted = load_checkpoint(hub_folder()).tensors
    found = read_weights(bundle, "text_adapter") | read_weights(bundle, "transformer")
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        assert np.array_equal(found[name], value), name


def test_official_outputs_from_a_bundle(bundle: Bundle) -> None:
    golden = arrays("forward")
    x = np.ascontiguousarray(golden["img"].transpose(0, 3, 1, 2))
    # With a = 0 and b = 1 the next state is the network's estimate.
    row = np.array([0, 1, 0, 0, 0, 0], np.float32)
    with TorchRuntime(bundle) as runtime:
        for mask, name in ((golden["mask"], "out_ema"), (0 * golden["mask"], "out_ema_nullmask")):
            tokens = runtime.adapt(golden["context"], mask.astype(np.int64))[None]
            state = runtime.start(x, tokens)
            state.step(row, np.ones(1, np.float32))
            wanted = golden[name].transpose(0, 3, 1, 2)
            for found in state.state():
                assert np.abs(found - wanted).max() <= MAX_ABS_ERROR


def test_official_embeddings_from_a_bundle(bundle: Bundle) -> None:
    with np.load(PUBLIC / "t5" / "t5_io.npz") as golden, TorchRuntime(bundle) as runtime:
        hidden = runtime.encode(golden["input_ids"], golden["attention_mask"])
        error = np.abs(hidden - golden["last_hidden_state"])[golden["attention_mask"] > 0]
        assert error.max() <= MAX_ABS_ERROR


def test_a_closed_runtime_refuses(bundle: Bundle) -> None:
    with TorchRuntime(bundle) as runtime:
        pass
    runtime.close()
    with pytest.raises(RuntimeFailure, match="runtime torch is closed; open it again"):
        generate(bundle, runtime, "red")
    assert not hasattr(runtime, "_step")


def other_precision(bundle: Bundle) -> Bundle:
    graphs = dict(bundle.manifest.graphs)
    graphs["transformer"] = dataclasses.replace(graphs["transformer"], precision="int8")
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))


def test_a_quantised_bundle_is_refused(bundle: Bundle) -> None:
    with pytest.raises(RuntimeFailure, match="precision int8 is not for runtime torch; it runs"):
        TorchRuntime(other_precision(bundle))


@pytest.mark.parametrize("graph", ["text_adapter", "transformer"])
def test_a_cut_data_file_is_refused(bundle: Bundle, tmp_path: Path, graph: str) -> None:
    copy = copy_of(bundle, tmp_path / "bundle")
    path = Path(f"{copy.graph_path(graph)}.data")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RuntimeFailure, match=rf"{graph}/model\.onnx\.data: weights cannot be read"):
        TorchRuntime(copy)


def without_key(path: Path) -> None:
    values = json.loads(path.read_text())
    del values["d_ff"]
    path.write_text(json.dumps(values))


def of_relu_form(path: Path) -> None:
    path.write_text(path.read_text().replace("gated-gelu", "relu"))


def of_other_width(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "d_ff": 65}))


@pytest.mark.parametrize("change", [Path.unlink, without_key, of_relu_form, of_other_width])
def test_a_foreign_text_encoder_is_refused(
    bundle: Bundle, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    copy = copy_of(bundle, tmp_path / "bundle")
    change(copy.path / "text_encoder" / "config.json")
    ids = np.ones((1, 2), np.int64)
    with TorchRuntime(copy) as runtime:
        with pytest.raises(RuntimeFailure, match=r"config\.json: not a T5 encoder") as caught:
            runtime.encode(ids, ids)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_overflows_is_refused_at_its_first_use(
    bundle: Bundle, tmp_path: Path
) -> None:
    copy = copy_of(bundle, tmp_path / "bundle")
    overflowing(Path(f"{copy.graph_path('text_encoder')}.data"))
    ids = np.array([[20, 1]], np.int64)
    with TorchRuntime(copy) as runtime:
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=r"bundle: .* NaN or infinity on torch; its"):
                runtime.encode(ids, np.ones_like(ids))
