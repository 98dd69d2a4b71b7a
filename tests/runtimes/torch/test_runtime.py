"""The torch runtime reads its weights from a bundle alone, and refuses what it cannot run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.protocol import RowsTrajectory
from minit2i_deploy.runtimes.torch.network import read_weights
from minit2i_deploy.runtimes.torch.runtime import TorchRuntime
from minit2i_deploy.runtimes.torch.trajectory import TorchTrajectory, step_call
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.step_inputs import StepInputs
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.checkpoint_forms import PUBLIC, arrays, hub_folder
from tests.helpers.tiny_bundle import overflowing, tiny_bundle

# Measured 1.7e-6 for the network and 9.6e-7 for the text encoder, on values up to 3.9.
MAX_ABS_ERROR = 1e-5


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


def copy_of(bundle: Bundle, folder: Path) -> Bundle:
    shutil.copytree(bundle.path, folder)
    return Bundle.open(folder)


def test_weights_are_the_checkpoints_bit_for_bit(bundle: Bundle) -> None:
    expected = load_checkpoint(hub_folder()).tensors
    actual = read_weights(bundle, "text_adapter") | read_weights(bundle, "transformer")
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        assert np.array_equal(actual[name], value), name


def test_official_outputs_from_a_bundle(bundle: Bundle) -> None:
    golden = arrays("forward")
    x = np.ascontiguousarray(golden["img"].transpose(0, 3, 1, 2))
    # With a = 0 and b = 1 the next state is the network's estimate.
    values = np.array([0, 1, 0, 0, 0, 0], np.float32)
    row = Row(values=values, weights=np.ones(1, np.float32))
    with TorchRuntime(bundle) as runtime:
        for mask, name in ((golden["mask"], "out_ema"), (0 * golden["mask"], "out_ema_nullmask")):
            tokens = runtime.adapt(golden["context"], mask.astype(np.int64))[None]
            state = runtime.start(x, tokens)
            state.step(row)
            expected = golden[name].transpose(0, 3, 1, 2)
            for actual in state.state():
                assert np.abs(actual - expected).max() <= MAX_ABS_ERROR


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
    assert not hasattr(runtime, "_network")


def other_precision(bundle: Bundle) -> Bundle:
    graphs = dict(bundle.manifest.graphs)
    graphs["transformer"] = dataclasses.replace(graphs["transformer"], precision="int8")
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))


def test_a_quantised_bundle_is_refused(bundle: Bundle) -> None:
    with pytest.raises(RuntimeFailure, match="is int8, which runtime torch does not run; it runs"):
        TorchRuntime(other_precision(bundle))


@pytest.mark.parametrize("graph", ["text_adapter", "transformer"])
def test_a_cut_data_file_is_refused(bundle: Bundle, tmp_path: Path, graph: str) -> None:
    copy = copy_of(bundle, tmp_path / "bundle")
    path = copy.data_path(graph)
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
    overflowing(copy.data_path("text_encoder"))
    ids = np.array([[20, 1]], np.int64)
    with TorchRuntime(copy) as runtime:
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=r"bundle: .* NaN or infinity on torch; its"):
                runtime.encode(ids, np.ones_like(ids))


def start_tensors(bundle: Bundle, branches: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    config = bundle.config
    generator = torch.Generator().manual_seed(5)
    image = (1, config.in_channels, config.image_size, config.image_size)
    tokens = (branches, 1, config.num_text_tokens, config.hidden_size)
    return torch.randn(image, generator=generator), torch.randn(tokens, generator=generator)


def inputs_of(x: torch.Tensor, tokens: torch.Tensor) -> StepInputs:
    return StepInputs(image_shape=tuple(x.shape), tokens=tokens.numpy(), known=None, per_image=True)


def test_all_rows_at_once_are_as_many_steps(bundle: Bundle) -> None:
    table = solver_table("sde", steps=3)
    weights = [np.array(values, np.float32) for values in ([2, -1], [1], [3, -2])]
    rows = [
        dataclasses.replace(row, weights=values)
        for row, values in zip(table.steps(), weights, strict=True)
    ]
    x, tokens = start_tensors(bundle)
    fresh = np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)
    noise = {rows[1]: fresh}
    reported: list[int] = []
    with TorchRuntime(bundle) as runtime:
        states = [runtime.start(x.numpy(), tokens.numpy()) for _ in range(2)]
        assert isinstance(states[0], RowsTrajectory)
        states[0].run_rows(rows, noise.get, reported.append)
        for row in rows:
            states[1].step(row, noise.get(row))
    for actual, expected in zip(states[0].state(), states[1].state(), strict=True):
        assert np.array_equal(actual, expected)
    assert reported == [1, 2, 3]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_than_the_bundles(bundle: Bundle, precision: str) -> None:
    x, tokens = start_tensors(bundle)
    values = np.array([0, 1, 0, 0, 0, 0], np.float32)
    row = Row(values=values, weights=np.array([2, -1], np.float32))
    actual = []
    for option in (None, precision):
        with TorchRuntime(bundle, precision=option) as runtime:
            state = runtime.start(x.numpy(), tokens.numpy())
            state.step(row)
            actual.append(state.state()[0])
    error = np.abs(actual[1] - actual[0]).max() / np.abs(actual[0]).max()
    # Measured 1.1e-2 and 1.9e-3.
    assert 0 < error <= {"bf16": 4e-2, "fp16": 5e-3}[precision]


def test_an_unknown_precision_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="precision 'int8' is unknown; choose one of fp32, bf16"):
        TorchRuntime(bundle, precision="int8")


def test_rows_do_not_compile_the_step_anew(bundle: Bundle) -> None:
    with TorchRuntime(bundle) as runtime:
        eager = runtime._network.step
        graphs = []

        def count(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
            graphs.append(graph)
            return graph.forward

        compiled = step_call(eager, torch.device("cpu"), backend=count)  # type: ignore[arg-type]
        x, tokens = start_tensors(bundle)
        table = solver_table("dpmpp2m", steps=4)
        states = [TorchTrajectory(call, x, inputs_of(x, tokens)) for call in (eager, compiled)]
        for row in table.steps(2.0):
            for state in states:
                state.step(row)
        assert len(graphs) == 1
        for state in states:
            state.step(table.steps()[0])
        assert len(graphs) == 2
        for actual, expected in zip(states[1].state(), states[0].state(), strict=True):
            assert np.array_equal(actual, expected)


def test_a_compiled_step_takes_more_sizes_than_torch_allows(bundle: Bundle) -> None:
    with TorchRuntime(bundle) as runtime:
        compiled = step_call(runtime._network.step, torch.device("cpu"), backend="eager")
        for batch in range(1, 12):
            x, tokens = start_tensors(bundle, branches=1)
            x, tokens = x.repeat(batch, 1, 1, 1), tokens.repeat(1, batch, 1, 1)
            state = TorchTrajectory(compiled, x, inputs_of(x, tokens))
            state.step(solver_table("euler", steps=4).steps(1.0)[0])
            assert len(state.state()[0]) == batch


def test_torchs_advice_on_tf32_is_neither_shown_nor_an_error(bundle: Bundle) -> None:
    """On a GPU its compiler gives it for each float32 graph."""
    advice = (
        "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled"
    )

    def advising(graph: torch.fx.GraphModule, _: object) -> Any:
        warnings.warn(f"{advice}. Consider setting it.", UserWarning, stacklevel=1)
        return graph.forward

    with TorchRuntime(bundle) as runtime:
        compiled = step_call(runtime._network.step, torch.device("cpu"), backend=advising)
        x, tokens = start_tensors(bundle)
        state = TorchTrajectory(compiled, x, inputs_of(x, tokens))
        with warnings.catch_warnings(record=True) as shown:
            state.step(solver_table("euler", steps=4).steps(2.0)[0])
    assert [line for line in shown if "TensorFloat32" in str(line.message)] == []
    assert np.isfinite(state.state()[0]).all()


# torch's own compiler loads modules that still use its older one.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.slow
def test_the_compiled_step_is_the_eager_one(bundle: Bundle) -> None:
    table = solver_table("euler", steps=3)
    actual = []
    for compiled in (False, True):
        with TorchRuntime(bundle, compile=compiled) as runtime:
            actual.append(generate(bundle, runtime, "red", table=table, guidance=2.0).x)
    assert np.abs(actual[1] - actual[0]).max() <= MAX_ABS_ERROR
