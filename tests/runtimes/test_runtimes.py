"""Opening runtimes by name, what all of them refuse, and the fake one's trajectory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure, UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.protocol import Runtime, Trajectory
from minit2i_deploy.runtimes import RUNTIMES, open_runtime, runtime_class
from minit2i_deploy.runtimes.base import BaseRuntime, check_conditions
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.row import Row, advance
from minit2i_deploy.text.embed import embed
from tests.helpers.bundles import CONFIG, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("runtimes") / "bundle"))


def test_unknown_runtimes_are_refused_with_the_choices(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="'tpu' is unknown; choose one of onnxruntime, openvino"):
        open_runtime(bundle, "tpu")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_unknown_options_are_refused_with_the_choices(bundle: Bundle, name: str) -> None:
    choices = {
        "onnxruntime": "provider, precision, threads, arena, lean, cache",
        "openvino": "precision, threads, lean, cache",
        "torch": "device, precision, compile",
        "tensorrt": "device, graphs, debug, keep_prompts",
        "tensorrt-rtx": "device, graphs, debug, keep_prompts",
        "fake": "none",
    }
    with pytest.raises(UsageError, match=f"runtime {name} has no option colour; it has ") as caught:
        open_runtime(bundle, name, colour=3)
    assert choices[name] in str(caught.value)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_every_runtime_fits_the_protocol(name: str) -> None:
    runtime = runtime_class(name)
    assert issubclass(runtime, BaseRuntime)
    for method in ("encode", "adapt", "start", "close", "__enter__", "__exit__"):
        assert getattr(runtime, method) is not getattr(Runtime, method)
    assert runtime.name == name


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_the_help_of_open_runtime_names_every_option(name: str) -> None:
    text = " ".join((open_runtime.__doc__ or "").split())
    paragraph = ", ".join(str(option) for option in runtime_class(name).options().values())
    assert f'"{name}"' in text
    assert paragraph in text


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("onnxruntime", "onnxruntime", "cpu"),
        ("openvino", "openvino", "openvino"),
        ("torch", "torch", "export"),
    ],
)
def test_a_missing_engine_names_its_pip_line(
    bundle: Bundle, name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    line = rf"{library} is not installed; run .* constraints.txt '.\[{extra}\]'"
    with pytest.raises(MissingDependencyError, match=line):
        open_runtime(bundle, name)


def test_opening_imports_one_engine() -> None:
    code = (
        "import sys\n"
        "from minit2i_deploy.runtimes import RUNTIMES, runtime_class\n"
        "assert 'numpy' not in sys.modules\n"
        "[runtime_class(name).options() for name in RUNTIMES]\n"
        "import minit2i_deploy.generate, minit2i_deploy.text.embed\n"
        "print({'torch', 'onnxruntime', 'openvino', 'PIL', 'tokenizers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "tpu"}, "provider 'tpu' is unknown; choose one of auto, cpu, openvino"),
        ({"threads": -1}, "threads must be 0 .* got -1"),
    ],
)
def test_bad_onnxruntime_options_are_refused(
    bundle: Bundle, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_runtime(bundle, "onnxruntime", **options)


@pytest.mark.parametrize("device", ["cuda:77", "nonsense", "cpu:x"])
def test_a_missing_torch_device_is_refused(bundle: Bundle, device: str) -> None:
    with pytest.raises(UsageError, match=f"device '{device}' cannot be used: ") as caught:
        open_runtime(bundle, "torch", device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", ["encode", "adapt", "transformer"])
def test_onnxruntime_names_the_graph_it_cannot_open(bundle: Bundle, stage: str) -> None:
    # The stand-in graphs of this bundle are no ONNX files.
    with open_runtime(bundle, "onnxruntime") as runtime:
        with pytest.raises(RuntimeFailure, match=r"model\.onnx: onnxruntime cannot open") as caught:
            call(runtime, stage)
    assert "\n" not in str(caught.value)


def test_torch_names_the_weights_it_cannot_read(bundle: Bundle) -> None:
    with pytest.raises(RuntimeFailure, match=r"model\.onnx\.data: weights cannot be read"):
        open_runtime(bundle, "torch")


def call(runtime: Runtime, stage: str) -> None:
    ids = np.ones((1, 3), np.int64)
    context = np.zeros((1, CONFIG.prompt_length, CONFIG.txt_input_size), np.float32)
    tokens = np.zeros((1, 1, CONFIG.num_text_tokens, CONFIG.hidden_size), np.float32)
    if stage == "encode":
        runtime.encode(ids, ids)
    elif stage == "adapt":
        runtime.adapt(context, np.ones((1, CONFIG.prompt_length), np.int64))
    else:
        runtime.start(np.zeros((1, 3, 32, 32), np.float32), tokens)


@pytest.mark.parametrize("name", ["fake", "onnxruntime"])
@pytest.mark.parametrize("stage", ["encode", "adapt", "transformer"])
def test_a_closed_runtime_refuses(bundle: Bundle, name: str, stage: str) -> None:
    with open_runtime(bundle, name) as runtime:
        pass
    runtime.close()
    with pytest.raises(RuntimeFailure, match=f"runtime {name} is closed; open it again"):
        call(runtime, stage)
    with pytest.raises(RuntimeFailure, match="is closed"), runtime:
        pass


def test_generate_and_embed_pass_the_refusal_on(bundle: Bundle) -> None:
    runtime = FakeRuntime(bundle)
    runtime.close()
    with pytest.raises(RuntimeFailure, match="is closed"):
        generate(bundle, runtime, "red")
    with pytest.raises(RuntimeFailure, match="is closed"):
        embed(bundle, runtime, "red")


def test_conditions_are_for_students_only(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="a base model takes no conditions"):
        check_conditions(bundle.config, np.zeros((1, 4), np.float32))


def test_the_fake_trajectory_is_its_description(bundle: Bundle) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    shape = (2, 2, CONFIG.num_text_tokens, CONFIG.hidden_size)
    tokens = rng.standard_normal(shape).astype(np.float32)
    runtime = FakeRuntime(bundle)
    state = runtime.start(x, tokens)
    assert isinstance(runtime, Runtime)
    assert isinstance(state, Trajectory)
    values = np.array([0.5, 0.25, -0.5, -1.0, 0.0, 0.0], np.float32)
    row = Row(values=values, weights=np.array([3.0, -2.0], np.float32))
    before, history = state.state()
    state.step(row)
    x0 = np.tanh(x[None] + tokens.mean(axis=(2, 3))[:, :, None, None, None])
    expected = advance(before, history, x0, row.weights, row.values)
    for actual, right in zip(state.state(), expected, strict=True):
        assert np.array_equal(actual, right)
    assert not history.any()
    state.state()[0][:] = 7
    assert np.array_equal(state.state()[0], expected[0])


def test_the_callers_arrays_are_left_alone(bundle: Bundle) -> None:
    x = np.ones((1, 3, 32, 32), np.float32)
    tokens = np.zeros((1, 1, CONFIG.num_text_tokens, CONFIG.hidden_size), np.float32)
    state = FakeRuntime(bundle).start(x, tokens)
    values = np.array([0, 1, 0, 0, 0, 0], np.float32)
    state.step(Row(values=values, weights=np.ones(1, np.float32)))
    assert (x == 1).all()
    x[:] = 5
    assert np.allclose(state.state()[0], np.tanh(1.0))
