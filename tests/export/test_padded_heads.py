"""A bundle with padded heads: verified against the network without pads, and known everywhere."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.bundle.weight_replacement import network_tensors, write_with_weights
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.lora import merge_lora
from minit2i_deploy.errors import BundleError, RuntimeFailure, UsageError
from minit2i_deploy.export import ExportOptions, SourceOptions, export_bundle, verify_bundle
from minit2i_deploy.export.quantize import QuantizeOptions, quantize_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import solver_table
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import CONFIG, hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

TABLE = solver_table("euler", steps=3, a_min=0.05)


@functools.cache
def padded_bundle() -> Path:
    """The golden network, its heads of 16 padded to 32. Do not write into it."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-padded-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    text = text_folder()
    return export_bundle(
        hub_folder(), folder / "bundle", ExportOptions(text_encoder=text, head_multiple=32)
    ).path


def final_state(bundle: Bundle, runtime: str) -> np.ndarray:
    with open_runtime(bundle, runtime) as opened:
        return generate(bundle, opened, "a red circle", seed=3, table=TABLE, guidance=2.5).x


def test_it_is_recorded_and_verified_against_the_network_without_pads() -> None:
    bundle = Bundle.open(padded_bundle())
    bundle.verify()
    assert bundle.manifest.padded_head_dim == 32 and bundle.config == CONFIG
    assert json.loads((bundle.path / "manifest.json").read_text())["padded_head_dim"] == 32
    plain = Bundle.open(tiny_bundle()).manifest
    assert plain.padded_head_dim is None
    assert b"padded_head_dim" not in plain.to_bytes()
    # Measured 1.7e-6 at most, as without pads; export's bound is 1e-5.
    actual = {check.name: check.measured for check in bundle.manifest.checks}
    assert actual.keys() == {check.name for check in plain.checks}
    assert 0 < actual["transformer"] <= 5e-6 and 0 < actual["text_adapter"] <= 5e-6
    again = verify_bundle(bundle.path, hub_folder(), SourceOptions(text_encoder=text_folder()))
    assert [check.name for check in again] == list(actual)


def test_the_graphs_have_the_wide_heads() -> None:
    graph = onnx.load(padded_bundle() / "transformer" / "model.onnx", load_external_data=False)
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.graph.initializer}
    width = CONFIG.num_heads * 32
    assert shapes["double_blocks.0.img_qkv.weight"] == [CONFIG.hidden_size, 3 * width]
    assert shapes["double_blocks.0.img_attn_proj.weight"] == [width, CONFIG.hidden_size]
    assert shapes["double_blocks.0.q_norm.weight"] == [32]


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_pictures_are_those_without_pads(runtime: str) -> None:
    expected = final_state(Bundle.open(tiny_bundle()), "onnxruntime")
    actual = final_state(Bundle.open(padded_bundle()), runtime)
    # Measured 8e-7 of values up to 2.
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_weights_come_back_bit_for_bit() -> None:
    expected = load_checkpoint(hub_folder()).tensors
    actual = network_tensors(Bundle.open(padded_bundle()))
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_other_weights_are_padded_as_an_export_pads_them(tmp_path: Path) -> None:
    bundle = Bundle.open(padded_bundle())
    tensors = network_tensors(bundle)
    # Byte for byte what the export wrote: it wrote the checkpoint's own.
    same = write_with_weights(bundle, tmp_path / "same", tensors, bundle.manifest.provenance)
    for name in bundle.manifest.files:
        assert (same.path / name).read_bytes() == (bundle.path / name).read_bytes(), name
    # A small one: with a large one the network is wild and rounding shows.
    write_adapter(tmp_path / "lora", lora_alpha=0.05)
    merged = merge_lora(load_checkpoint(hub_folder()), tmp_path / "lora").tensors
    refitted, plain = (
        write_with_weights(base, tmp_path / name, merged, base.manifest.provenance)
        for name, base in (("padded", bundle), ("plain", Bundle.open(tiny_bundle())))
    )
    assert refitted.manifest.padded_head_dim == 32
    expected = final_state(plain, "onnxruntime")
    assert np.abs(expected - final_state(Bundle.open(tiny_bundle()), "onnxruntime")).max() > 1e-3
    actual = final_state(refitted, "onnxruntime")
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(padded_bundle())
    name = "double_blocks.0.img_qkv.weight"
    tensors = network_tensors(bundle)
    tensors[name] = tensors[name][1:]
    with pytest.raises(
        UsageError, match=rf"first {name}: expected shape \[192, 64\], got \[191, 64\]"
    ):
        write_with_weights(bundle, tmp_path, tensors, bundle.manifest.provenance)


def test_a_quantized_bundle_keeps_its_padding(tmp_path: Path) -> None:
    source = Bundle.open(padded_bundle())
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na star\nblue\nred\n", encoding="utf-8")
    bundle = quantize_bundle(
        source.path, tmp_path / "q", QuantizeOptions(scheme="int8-weights", prompts=prompts)
    )
    assert bundle.manifest.padded_head_dim == 32
    expected, actual = final_state(source, "onnxruntime"), final_state(bundle, "onnxruntime")
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert 0 < error < 0.1


@pytest.mark.parametrize("value", [16, 12, 33, "32", None, 32.5])
def test_a_width_that_pads_nothing_is_refused(value: object) -> None:
    from minit2i_deploy.bundle.manifest import add_checksum

    fields = json.loads((padded_bundle() / "manifest.json").read_text())
    del fields["manifest_sha256"]
    data = add_checksum(fields | {"padded_head_dim": value})
    with pytest.raises(BundleError, match=r"padded"):
        Manifest.from_bytes(data, "manifest.json")


def test_weights_that_are_no_padded_heads_are_named(tmp_path: Path) -> None:
    """A manifest that promises other pads than the graphs have."""
    bundle = Bundle.open(padded_bundle())
    manifest = dataclasses.replace(bundle.manifest, padded_head_dim=40)
    other = dataclasses.replace(bundle, manifest=manifest)
    padding = manifest.head_padding
    assert padding is not None and padding.padded == 40
    with pytest.raises(BundleError, match=r"expected heads of 40"):
        network_tensors(other)
    with pytest.raises(RuntimeFailure, match="weights cannot be read"):
        open_runtime(other, "torch")


def test_the_command_line_pads_and_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(capsys, "inspect", padded_bundle())
    (line,) = (line for line in printed.out.splitlines() if line.startswith("heads"))
    assert line.split(None, 1)[1] == "16 wide, padded with zeros to 32 in the graphs"
    arguments = ["export", hub_folder(), tmp_path / "b", "--head-multiple"]
    refused = run(capsys, *arguments, "12")
    assert (refused.code, refused.error.count("\n")) == (2, 0)
    assert "head multiple is 12; choose one of 1, 8, 16, 32, 64" in refused.error
    assert not (tmp_path / "b").exists()
