"""A bundle with other weights is, byte for byte, what an export of those weights writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import ml_dtypes
import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import StepSwitch
from minit2i_deploy.bundle.weight_replacement import (
    GRAPHS,
    _narrowed,
    changed_names,
    names_in_graph,
    network_tensors,
    stored_tensors,
    write_with_weights,
)
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import BundleError, UsageError
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.tiny_bundle import text_folder, tiny_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


def replaced(bundle: Bundle, folder: Path, tensors: dict[str, np.ndarray]) -> Bundle:
    folder.mkdir()
    return write_with_weights(bundle, folder, tensors, bundle.manifest.provenance)


def test_the_bundles_weights_are_the_checkpoints(bundle: Bundle) -> None:
    expected, actual = load_checkpoint(hub_folder()).tensors, network_tensors(bundle)
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        assert np.array_equal(actual[name], value), name
        assert actual[name].flags.writeable and actual[name].flags.c_contiguous


def test_other_weights_and_back_again(bundle: Bundle, tmp_path: Path) -> None:
    tensors = network_tensors(bundle)
    other = {name: value * np.float32(1.5) for name, value in tensors.items()}
    there = replaced(bundle, tmp_path / "there", other)
    there.verify()
    assert there.manifest.checks == ()
    for name, value in network_tensors(there).items():
        assert np.array_equal(value, other[name]), name
    for graph in GRAPHS:
        assert (there.path / f"{graph}/model.onnx").read_bytes() == (
            bundle.path / f"{graph}/model.onnx"
        ).read_bytes()
        assert set(changed_names(bundle, there, graph)) == names_in_graph(
            bundle.graph_path(graph), stored_tensors(bundle.data_path(graph))
        )
    back = replaced(there, tmp_path / "back", tensors)
    for name in bundle.manifest.files:
        assert (back.path / name).read_bytes() == (bundle.path / name).read_bytes(), name
    assert not any(list(changed_names(bundle, back, graph)) for graph in GRAPHS)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_what_an_export_writes(bundle: Bundle, tmp_path: Path, precision: str) -> None:
    from minit2i_deploy.export import ExportOptions, export_bundle

    # A small one, or the merged network is too wild for the bounds of an export.
    write_adapter(tmp_path / "lora", lora_alpha=0.05)
    base = bundle
    if precision != "fp32":
        base = export_bundle(
            hub_folder(),
            tmp_path / "base",
            ExportOptions(text_encoder=text_folder(), precision=precision),
        )
    expected = export_bundle(
        hub_folder(),
        tmp_path / "expected",
        ExportOptions(
            text_encoder=text_folder(),
            lora=tmp_path / "lora",
            precision=precision,
            opset=base.manifest.graphs["transformer"].opset,
        ),
    )
    merged = load_checkpoint(hub_folder(), lora=tmp_path / "lora")
    actual = replaced(base, tmp_path / "found", merged.tensors)
    for name in expected.manifest.files:
        assert (actual.path / name).read_bytes() == (expected.path / name).read_bytes(), name


def test_names_in_a_graph_are_those_that_onnx_reads(bundle: Bundle) -> None:
    import onnx

    for graph in GRAPHS:
        path = bundle.graph_path(graph)
        names = stored_tensors(bundle.data_path(graph))
        model = onnx.load(str(path), load_external_data=False)
        expected = {item.name for item in model.graph.initializer} & set(names)
        assert names_in_graph(path, names) == expected
        assert names_in_graph(path, ["x" * 300, next(iter(expected))[:-1]]) == set()
    # The last block's text stream ends in nothing.
    assert len(expected) < len(names)


def test_bf16_is_rounded_as_others_round() -> None:
    rng = np.random.default_rng(2)
    values = (rng.standard_normal(4096) * 10.0 ** rng.integers(-20, 20, 4096)).astype(np.float32)
    values[:3] = 1 + 2**-8, 1 + 3 * 2**-8, 0
    expected = values.astype(ml_dtypes.bfloat16).tobytes()
    assert _narrowed(values, "BF16") == expected
    assert _narrowed(values[:3], "F16") == values[:3].astype(np.float16).tobytes()


def test_weights_that_do_not_fit_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    tensors = network_tensors(bundle)
    name = "double_blocks.0.img_mlp.w1.weight"
    name = name if name in tensors else next(n for n in tensors if n.endswith("w1.weight"))
    changes = {
        "got none": {k: v for k, v in tensors.items() if k != name},
        r"got \[1, 2\]": {**tensors, name: np.zeros((1, 2), np.float32)},
        "expected shape none": {**tensors, "a.weight": np.zeros(3, np.float32)},
    }
    for message, wrong in changes.items():
        with pytest.raises(UsageError, match=f"1 weights do not fit, first .*{message}"):
            replaced(bundle, tmp_path / f"{len(wrong)}", wrong)


def test_a_quantized_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    graphs = dict(bundle.manifest.graphs)
    graphs["transformer"] = dataclasses.replace(graphs["transformer"], precision="int8")
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs)
    other = dataclasses.replace(bundle, manifest=manifest)
    with pytest.raises(UsageError, match=r"is quantized \(transformer is int8\), so its weights"):
        replaced(other, tmp_path / "out", network_tensors(bundle))


def test_a_bundle_of_two_step_graphs_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    switch = cast(StepSwitch, object())
    manifest = dataclasses.replace(bundle.manifest, switch=switch)
    other = dataclasses.replace(bundle, manifest=manifest)
    with pytest.raises(UsageError, match="has two step graphs"):
        replaced(other, tmp_path / "out", network_tensors(bundle))


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, (3).to_bytes(8, "little") + b"[1]"])
def test_a_foreign_data_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx.data"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx\.data: not a weights file"):
        stored_tensors(path)
