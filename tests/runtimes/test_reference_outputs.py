"""A network that overflows inside is refused, although what comes out is finite."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.names import REFERENCE_OUTPUTS
from minit2i_deploy.bundle.weight_replacement import network_tensors, write_with_weights
from minit2i_deploy.errors import BundleError, RuntimeFailure
from minit2i_deploy.evaluation import reference_outputs
from minit2i_deploy.evaluation.reference_outputs import (
    adapter_inputs,
    patches,
    read_reference_outputs,
    require_reference_output,
    sample,
    step_inputs,
    write_reference_outputs,
)
from minit2i_deploy.export import export_bundle
from minit2i_deploy.export.options import ExportOptions
from minit2i_deploy.export.quantize import DrawSettings, QuantizeOptions, quantize_bundle
from minit2i_deploy.export.quantize.schemes import SCHEMES
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import CONFIG, draft, write_bundle
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

GRAPHS = ["text_encoder", "text_adapter", "transformer"]
TABLE = solver_table("euler", steps=2)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("reference")
    prompts = folder / "prompts.txt"
    prompts.write_text("red\nblue\n1 2\na cat\n", encoding="utf-8")
    settings = DrawSettings(samples=2, strata=2, activations=32)
    loose = dataclasses.replace(SCHEMES["int8"], bounds=(1.0, 1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCHEMES, "int8", loose)
        return quantize_bundle(
            tiny_bundle(),
            folder / "int8",
            QuantizeOptions(scheme="int8", prompts=prompts, draw=settings),
        )


def overflowing(bundle: Bundle, folder: Path) -> Bundle:
    """Norms of the image's stream multiply with so much that their output is infinite."""
    shutil.copytree(bundle.path, folder)
    file = folder / "transformer" / "model.onnx.data"
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if ".img_norm" in name:
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            data[begin:end] = np.full((end - begin) // 4, 3e38, np.float32).tobytes()
    file.write_bytes(data)
    return Bundle.open(folder)


def without_reference(bundle: Bundle) -> Bundle:
    files = {k: v for k, v in bundle.manifest.files.items() if k != REFERENCE_OUTPUTS}
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_network_that_overflows_is_refused(int8: Bundle, name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    broken = overflowing(int8, tmp_path / "broken")
    with open_runtime(broken, name) as runtime:
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=f"transformer is broken on {name}") as caught:
                generate(broken, runtime, "red", table=TABLE)
    assert "\n" not in str(caught.value)
    # Without the reference nothing shows it: the state is finite.
    blind = without_reference(broken)
    with open_runtime(blind, name) as runtime:
        assert np.isfinite(generate(blind, runtime, "red", table=TABLE).x).all()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_quantized_networks_are_far_from_the_bound(int8: Bundle, name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    with open_runtime(int8, name) as runtime:
        write_reference_outputs(int8, runtime, tmp_path)
    actual = json.loads((tmp_path / REFERENCE_OUTPUTS).read_text())
    expected = read_reference_outputs(int8)
    assert list(actual) == list(expected) == GRAPHS
    for graph in GRAPHS:
        error = np.linalg.norm(np.subtract(actual[graph], expected[graph]))
        # Measured: 0.01, 0.02 and 0.02.
        assert error / np.linalg.norm(expected[graph]) < 0.1, graph


def test_half_precision_exports_have_them_and_others_do_not(tmp_path: Path) -> None:
    options = ExportOptions(precision="fp16", text_encoder=text_folder())
    bundle = export_bundle(hub_folder(), tmp_path / "fp16", options)
    assert list(read_reference_outputs(bundle)) == GRAPHS
    with open_runtime(bundle, "onnxruntime") as runtime:
        generate(bundle, runtime, "red", table=TABLE)
    assert read_reference_outputs(Bundle.open(tiny_bundle())) == {}
    # Other weights have other outputs.
    (tmp_path / "other").mkdir()
    tensors = network_tensors(bundle)
    other = write_with_weights(bundle, tmp_path / "other", tensors, bundle.manifest.provenance)
    assert read_reference_outputs(other) == {}


def test_an_fp32_bundle_runs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny_bundle())
    monkeypatch.setattr(reference_outputs, "adapter_inputs", None)
    with OnnxRuntime(bundle) as runtime:
        generate(bundle, runtime, "red", table=TABLE)


def test_samples_are_deviations_from_the_mean() -> None:
    same = np.full((1, 70, 50), 123.0, np.float32)
    assert sample(same).shape == (256,) and not sample(same).any()
    rng = np.random.default_rng(1)
    values = rng.standard_normal((1, 3, 4), np.float32)
    assert np.allclose(sample(values), (values - values.mean(1)).reshape(-1), atol=1e-6)


def test_patches_are_positions(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    side, size = CONFIG.patch_grid[0], CONFIG.patch_size
    x = np.random.default_rng(1).standard_normal((2, 3, side * size, side * size), np.float32)
    split = patches(bundle, x)
    assert split.shape == (1, side * side, 3 * size * size)
    assert np.array_equal(split[0, 1], x[0, :, :size, size : 2 * size].reshape(-1))


def test_inputs_are_the_same_on_every_machine(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    context, mask, conditions = adapter_inputs(bundle)
    assert (context.shape, mask.sum(), conditions) == ((1, 12, 32), 6, None)
    assert context[0, 0, :2].tolist() == pytest.approx([5.83135e-5, -0.0609694], rel=1e-5)
    adapted = np.ones((1, 4, 8), np.float32)
    x, tokens, row = step_inputs(bundle, adapted, batch=3, branches=2)
    assert (x.shape, tokens.shape) == ((3, 3, 32, 32), (2, 3, 4, 8))
    assert row.weights.tolist() == [0.5, 0.5]


OUTPUT = np.random.default_rng(2).standard_normal((1, 9, 5), np.float32)


@pytest.mark.parametrize(
    ("output", "refused"),
    [
        (OUTPUT, False),
        (OUTPUT * np.float32(1.45), False),
        (OUTPUT + np.float32(100), False),
        (OUTPUT * np.float32(1.55), True),
        (OUTPUT * np.float32(0.2), True),
        (OUTPUT * np.float32("inf"), True),
        (-OUTPUT, True),
        (OUTPUT[:, :5], True),
    ],
)
def test_the_bound(output: np.ndarray, refused: bool, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    require_reference_output(Bundle.open(folder), "transformer", "toy", output)
    text = json.dumps({"transformer": sample(OUTPUT).tolist()})
    (folder / REFERENCE_OUTPUTS).write_text(text, encoding="utf-8")
    write_manifest(folder, draft())
    bundle = Bundle.open(folder)
    require_reference_output(bundle, "text_adapter", "toy", output)
    if not refused:
        require_reference_output(bundle, "transformer", "toy", output)
        return
    with pytest.raises(RuntimeFailure, match="transformer is broken on toy"):
        require_reference_output(bundle, "transformer", "toy", output)


@pytest.mark.parametrize("text", ["", "[]", '{"transformer": 1}', '{"transformer": ["a"]}'])
def test_a_corrupt_file_is_named(text: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    (folder / REFERENCE_OUTPUTS).write_text(text, encoding="utf-8")
    write_manifest(folder, draft())
    with pytest.raises(BundleError, match=r"reference_outputs\.json: cannot be read"):
        read_reference_outputs(Bundle.open(folder))
