"""export_bundle: what it records, what it refuses, and that failure leaves nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import BundleError, CheckpointError, UsageError, VerificationError
from minit2i_deploy.export import ExportOptions, SourceOptions, export_bundle, verify_bundle
from minit2i_deploy.export.quantize import GraphsRuntime
from minit2i_deploy.export.verification import onnxruntime_check
from minit2i_deploy.export.verification.bounds import BOUNDS, require_within_bounds
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes.torch.runtime import TorchRuntime
from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.table import Table, solver_table
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import base_forms, hub_folder
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

STEPS = [f"transformer@t={t}" for t in (0, 0.2, 0.5, 0.8, 0.95)]
CHECKS = ["text_encoder", "text_adapter", "transformer", *STEPS, "trajectory"]


def test_manifest_tells_where_it_comes_from() -> None:
    bundle = Bundle.open(tiny_bundle())
    bundle.verify()
    manifest, source = bundle.manifest, load_checkpoint(hub_folder())
    assert manifest.provenance.checkpoint_sha256 == source.report.sha256
    assert manifest.provenance.checkpoint_form == "huggingface"
    assert {"torch", "onnxruntime", "transformers"} <= manifest.provenance.tools.keys()
    assert bundle.config == source.config
    assert manifest.variant is None
    assert manifest.flavour.name == "jax-b16"
    assert manifest.noise.scale == 2.0


def test_checks_are_recorded_with_their_bounds() -> None:
    checks = Bundle.open(tiny_bundle()).manifest.checks
    assert [check.name for check in checks] == CHECKS
    assert all(0 <= check.measured <= check.bound for check in checks)
    # Exact agreement of two engines on every graph would mean that nothing was compared.
    assert all(check.measured > 0 for check in checks[:-1])
    # The graph's own number is the worst of its steps and of the calls beside them.
    assert checks[2].measured >= max(check.measured for check in checks[3:-1])


def _repeated(count: int) -> Table:
    repeats = Repeats(count=count, interval=(0.2, 1.0), noise_scale=2.0)
    return solver_table("dpmpp2m", steps=8, grid="shifted", shift=2.0, repeats=repeats)


def test_tables_and_preset() -> None:
    bundle = Bundle.open(tiny_bundle())
    presets = {
        "reference": solver_table("euler", steps=100, a_min=0.05),
        "balanced": solver_table("dpmpp2m", steps=40),
        "fast": solver_table("ab2", steps=20, a_min=0.05),
        "inpaint": _repeated(10),
        "inpaint-fast": _repeated(5),
    }
    assert set(bundle.manifest.presets) == set(presets)
    for name, table in presets.items():
        assert bundle.preset(name) == (table, 2.5)
    assert bundle.preset() == bundle.preset("balanced")
    assert bundle.table("euler-20") == solver_table("euler", steps=20, a_min=0.05)


def test_the_text_encoder_beside_the_checkpoint_is_taken(tmp_path: Path) -> None:
    shutil.copytree(hub_folder(), tmp_path / "release" / "transformer")
    shutil.copytree(text_folder(), tmp_path / "release", dirs_exist_ok=True)
    stages: list[tuple[str, float]] = []
    bundle = export_bundle(
        tmp_path / "release" / "transformer",
        tmp_path / "bundle",
        progress=lambda share, stage="": stages.append((stage, share)),
    )
    shares = [share for _, share in stages]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    # Nothing in a bundle depends on when or where it was made.
    assert bundle.digest == Bundle.open(tiny_bundle()).digest


def test_half_precision_keeps_float32_edges_and_a_flavour_sets_the_preset(tmp_path: Path) -> None:
    bundle = export_bundle(
        hub_folder(),
        tmp_path / "bundle",
        ExportOptions(text_encoder=text_folder(), precision="fp16", flavour="jax-l16"),
    )
    assert bundle.preset("reference") == (solver_table("euler", steps=100, a_min=0.01), 6.0)
    manifest = bundle.manifest
    assert {name: graph.precision for name, graph in manifest.graphs.items()} == {
        "text_encoder": "fp32",
        "text_adapter": "fp16",
        "transformer": "fp16",
    }
    assert [check.name for check in manifest.checks] == [
        *CHECKS, "activations", "text_adapter in torch", "transformer in torch",
        "trajectory in torch",
    ]  # fmt: skip
    with safe_open(bundle.path / "transformer" / "model.onnx.data", "numpy") as file:
        kinds = {k: file.get_slice(k).get_dtype() for k in file.keys()}
    assert set(kinds.values()) == {"F16"}
    inputs = manifest.graphs["transformer"].inputs
    places = {"image", "sequence"}
    assert {info.dtype for name, info in inputs.items() if name not in places} == {"float32"}
    assert {inputs[name].dtype for name in places} == {"int64"}


def test_bfloat16_says_that_onnxruntime_did_not_run_it(tmp_path: Path) -> None:
    bundle = export_bundle(
        hub_folder(),
        tmp_path / "bundle",
        ExportOptions(text_encoder=text_folder(), precision="bf16", opset=18),
    )
    checks = bundle.manifest.checks
    assert [check.name for check in checks] == CHECKS
    assert all("not run in onnxruntime" in check.where for check in checks[1:])
    graph = onnx.load(bundle.path / "transformer" / "model.onnx", load_external_data=False)
    assert not {"Attention", "RMSNormalization"} & {node.op_type for node in graph.graph.node}
    assert [entry.version for entry in graph.opset_import] == [18]


@pytest.mark.parametrize("opset", [18, 23])
def test_bfloat16_graphs_compute_what_torch_does(tmp_path: Path, opset: int) -> None:
    """In float32 arithmetic, which every engine has, on the rounded weights and tables."""
    bundle = export_bundle(
        hub_folder(),
        tmp_path / "b",
        ExportOptions(text_encoder=text_folder(), precision="bf16", opset=opset),
    )
    table = solver_table("euler", steps=6, a_min=0.05)
    with GraphsRuntime(bundle) as graphs, TorchRuntime(bundle) as torch_runtime:
        # In bfloat16 and back: weights, and tables of positions as well, are rounded once.
        for module in (torch_runtime._network.adapter, torch_runtime._network.step):
            module.to(torch.float32)
        actual, expected = (
            generate(bundle, runtime, "red", seed=3, table=table, guidance=2.5).x
            for runtime in (graphs, torch_runtime)
        )
    # Measured: 1.4e-6.
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < 1e-5


def test_a_bundle_is_checked_against_its_checkpoint() -> None:
    recorded = Bundle.open(tiny_bundle()).manifest.checks
    assert verify_bundle(tiny_bundle()) == recorded
    checks = verify_bundle(tiny_bundle(), hub_folder(), SourceOptions(text_encoder=text_folder()))
    assert [check.name for check in checks] == CHECKS


def test_another_checkpoint_is_refused() -> None:
    other, _ = base_forms()["payload"]
    with pytest.raises(BundleError, match=r"made from checkpoint [0-9a-f]{8}\.\. but"):
        verify_bundle(tiny_bundle(), other, SourceOptions(text_encoder=text_folder()))


def test_weights_that_are_not_the_checkpoints_are_over_the_bound(tmp_path: Path) -> None:
    # A bundle that was made and sealed with other weights: only running it can tell.
    shutil.copytree(tiny_bundle(), tmp_path / "bundle")
    path = tmp_path / "bundle" / "transformer" / "model.onnx.data"
    data = bytearray(path.read_bytes())
    header_bytes = int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8 : 8 + header_bytes])["final_layer.linear.bias"]["data_offsets"]
    start = 8 + header_bytes + begin
    data[start : start + 4] = np.float32(1.0).tobytes()
    path.write_bytes(data)
    write_manifest(tmp_path / "bundle", Bundle.open(tiny_bundle()).manifest)
    with pytest.raises(VerificationError, match="transformer: "):
        verify_bundle(tmp_path / "bundle", hub_folder(), SourceOptions(text_encoder=text_folder()))


def test_over_a_bound_there_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tight = dataclasses.replace(BOUNDS["fp32"], graph=1e-9)
    monkeypatch.setattr(onnxruntime_check, "BOUNDS", {"fp32": tight})
    with pytest.raises(VerificationError, match=r"text_encoder: .* at most 1e-09 is allowed"):
        export_bundle(
            hub_folder(), tmp_path / "out" / "bundle", ExportOptions(text_encoder=text_folder())
        )
    assert not (tmp_path / "out").exists()


def test_a_killed_export_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from minit2i_deploy.export import ExportOptions, export_bundle\n"
        "export_bundle(*sys.argv[1:3], ExportOptions(text_encoder=sys.argv[3]),\n"
        "              progress=lambda share, stage='': print(stage, flush=True))\n"
    )
    target = tmp_path / "out" / "bundle"
    command = [sys.executable, "-c", script, str(hub_folder()), str(target), str(text_folder())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "write transformer":
                assert any((tmp_path / "out").iterdir())
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGTERM
    assert not (tmp_path / "out").exists()


def refused(
    tmp_path: Path,
    error: type[Exception],
    match: str,
    checkpoint: Path | None = None,
    **arguments: Any,
) -> None:
    options = {"text_encoder": text_folder(), **arguments}
    with pytest.raises(error, match=match):
        export_bundle(checkpoint or hub_folder(), tmp_path / "new", ExportOptions(**options))
    assert not (tmp_path / "new").exists()


def test_wrong_arguments(tmp_path: Path) -> None:
    refused(tmp_path, UsageError, "unknown precision 'int8'", precision="int8")
    refused(tmp_path, UsageError, "opset is 17; choose one of 18, 23", opset=17)
    refused(tmp_path, UsageError, "flavour 'jax' is unknown", flavour="jax")
    refused(tmp_path, UsageError, "no config.json in it", text_encoder=tmp_path)
    refused(tmp_path, UsageError, "pass --text-encoder DIR", text_encoder=None)
    refused(tmp_path, CheckpointError, "does not exist", checkpoint=tmp_path / "none")


def test_a_full_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="exists and is not empty"):
        export_bundle(hub_folder(), tmp_path / "bundle", ExportOptions(text_encoder=text_folder()))
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "keep"


def edited_text_folder(tmp_path: Path, **values: object) -> Path:
    folder = tmp_path / "text"
    shutil.copytree(text_folder(), folder, dirs_exist_ok=True)
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def test_a_text_encoder_of_another_width(tmp_path: Path) -> None:
    folder = edited_text_folder(tmp_path, d_model=64)
    refused(tmp_path, UsageError, "64 wide but the network takes 32", text_encoder=folder)


def test_a_text_encoder_that_is_no_t5(tmp_path: Path) -> None:
    folder = edited_text_folder(tmp_path, model_type="clip_text_model")
    refused(
        tmp_path, UsageError, "expected a T5, got model_type 'clip_text_model'", text_encoder=folder
    )


def test_a_text_encoder_with_missing_weights(tmp_path: Path) -> None:
    folder = edited_text_folder(tmp_path, num_layers=3)
    match = "tensors are missing or of another shape, first encoder.block.2"
    refused(tmp_path, CheckpointError, match, text_encoder=folder)


def test_a_truncated_text_encoder(tmp_path: Path) -> None:
    folder = edited_text_folder(tmp_path)
    path = folder / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(tmp_path, CheckpointError, "text encoder cannot be read", text_encoder=folder)


def test_no_tokenizer(tmp_path: Path) -> None:
    folder = edited_text_folder(tmp_path)
    shutil.rmtree(folder / "tokenizer")
    refused(tmp_path, UsageError, "no tokenizer.json in its tokenizer/", text_encoder=folder)


def test_a_tokenizer_with_more_tokens_than_the_encoder(tmp_path: Path) -> None:
    folder = edited_text_folder(tmp_path)
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] += [[f"x{i}", -9.0] for i in range(200)]
    path.write_text(json.dumps(content))
    refused(tmp_path, UsageError, r"has 235 tokens but .* has 128", text_encoder=folder)


def test_a_measured_nan_is_over_any_bound() -> None:
    check = Bundle.open(tiny_bundle()).manifest.checks[0]
    with pytest.raises(VerificationError):
        require_within_bounds(
            [dataclasses.replace(check, measured=float("nan"))], "no bundle was written"
        )


def test_a_merged_adapter_is_recorded_and_required_again(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", targets=["final_layer.linear"])
    bundle = export_bundle(
        hub_folder(),
        tmp_path / "bundle",
        ExportOptions(text_encoder=text_folder(), lora=tmp_path / "lora"),
    )
    plain = Bundle.open(tiny_bundle()).manifest
    origin = bundle.manifest.provenance
    assert origin.checkpoint_sha256 == plain.provenance.checkpoint_sha256
    assert plain.provenance.lora_sha256 is None
    (merged,) = load_checkpoint(hub_folder(), lora=tmp_path / "lora").report.adapters
    assert origin.lora_sha256 == merged.sha256
    data = "transformer/model.onnx.data"
    assert bundle.manifest.files[data] != plain.files[data]
    with pytest.raises(BundleError, match=r"made with adapter [0-9a-f]{8}\.\. but this is no ad"):
        verify_bundle(bundle.path, hub_folder(), SourceOptions(text_encoder=text_folder()))
    with pytest.raises(BundleError, match="made with no adapter but this is adapter"):
        verify_bundle(
            tiny_bundle(),
            hub_folder(),
            SourceOptions(text_encoder=text_folder(), lora=tmp_path / "lora"),
        )


def test_a_flax_checkpoint_of_no_published_shape_takes_its_sizes(tmp_path: Path) -> None:
    path, sizes = base_forms()["flax-msgpack"]
    refused(tmp_path, UsageError, "pass image_size and prompt_length", checkpoint=path)
    bundle = export_bundle(
        path, tmp_path / "bundle", ExportOptions(text_encoder=text_folder(), **sizes)
    )
    assert bundle.config == Bundle.open(tiny_bundle()).config
    assert bundle.manifest.provenance.checkpoint_form == "flax-msgpack"
