"""minit2i quantize from end to end: the bundle, its record, its bytes, and refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.names import REFERENCE_OUTPUTS
from minit2i_deploy.errors import (
    RuntimeFailure,
    UsageError,
    VerificationError,
)
from minit2i_deploy.export.quantize import (
    DrawSettings,
    GraphsRuntime,
    QuantizeOptions,
    quantize_bundle,
    read_graph,
)
from minit2i_deploy.export.quantize import bundle_quantization as quantize_module
from minit2i_deploy.export.quantize.bundle_quantization import calibration_path
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.schemes import SCHEMES
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.row import Row
from tests.helpers.cli_runs import run
from tests.helpers.quantize_runs import estimates, l2_error, ranges, source, states, step_graph

SMALL = DrawSettings(samples=2, strata=2, activations=32)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red circle\na star\nblue\ntwo dots\nred\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Bundle:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    loose = dataclasses.replace(SCHEMES["int8"], bounds=(1.0, 1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCHEMES, "int8", loose)
        return quantize_bundle(
            source().path, out, QuantizeOptions(scheme="int8", prompts=prompts, draw=SMALL)
        )


def test_known_bytes_stay_and_strength_0_gives_the_image_back(int8: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image, mask = Image.fromarray(pixels), np.zeros((32, 32), np.float32)
    mask[:, 16:] = 1
    table = int8.table("euler-20")
    with open_runtime(int8, "onnxruntime") as runtime:
        edited = generate(int8, runtime, "red", table=table, known=image, mask=mask).images[0]
        same = generate(int8, runtime, "red", table=table, init_image=image, strength=0.0).images[0]
    np.testing.assert_array_equal(np.asarray(edited)[:, :16], pixels[:, :16])
    assert (np.asarray(edited)[:, 16:] != pixels[:, 16:]).any()
    np.testing.assert_array_equal(np.asarray(same), pixels)


def test_two_runs_with_one_seed_are_equal_to_the_byte(
    int8: Bundle, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEMES, "int8", dataclasses.replace(SCHEMES["int8"], bounds=(1.0, 1.0)))
    again = quantize_bundle(
        source().path,
        tmp_path / "again",
        QuantizeOptions(scheme="int8", prompts=prompts, draw=SMALL),
    )
    assert files(again.path) == files(int8.path)


def test_the_bundle_is_complete_and_has_its_record(int8: Bundle) -> None:
    int8.verify()
    record = int8.manifest.quantization
    assert record is not None
    assert (record.scheme, record.base_precision) == ("int8", "fp32")
    assert record.source_digest == source().digest
    assert record.graphs["transformer"].excluded == ("final_layer.linear",)
    assert record.graphs["transformer"].scheme == (
        "pair-safe int8 weights, int8 inputs except of *.img_mlp.w2"
    )
    assert set(record.graphs) == {"transformer", "text_adapter", "text_encoder"}
    precisions = {name: graph.precision for name, graph in int8.manifest.graphs.items()}
    assert precisions == {"transformer": "int8", "text_adapter": "fp32", "text_encoder": "fp32"}
    assert not calibration_path(int8.path).exists()
    names = [check.name for check in int8.manifest.checks]
    assert names[:3] == ["text_encoder", "text_adapter", "transformer"]
    assert names[3:] == [f"transformer@t={t:g}" for t in (0, 0.2, 0.5, 0.8, 0.95)] + ["trajectory"]
    assert all(0 < check.measured <= check.bound for check in int8.manifest.checks)


def test_all_other_files_are_the_source_s(int8: Bundle) -> None:
    others = {name for name in source().manifest.files if "model.onnx" not in name}
    for name in others:
        assert (int8.path / name).read_bytes() == (source().path / name).read_bytes()
    assert int8.manifest.files.keys() - source().manifest.files.keys() == {REFERENCE_OUTPUTS}
    assert source().manifest.files.keys() <= int8.manifest.files.keys()
    sizes = [
        bundle.manifest.files["transformer/model.onnx.data"].bytes for bundle in (int8, source())
    ]
    # Measured 0.42: much of so small a network is not in matrices.
    assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_takes_the_step(int8: Bundle, name: str) -> None:
    inputs = states()[0].estimate_inputs()
    expected = estimates(step_graph())[0]
    with open_runtime(int8, name, threads=1) as runtime:
        trajectory = runtime.start(inputs["x"], inputs["tokens"][:, None])
        trajectory.step(Row(values=inputs["row"][0], weights=inputs["weights"][:, 0]))
        # Measured: 0.06 for both.
        assert 1e-4 < l2_error(trajectory.state()[0], expected) < 0.2


@pytest.fixture(scope="module")
def int8_cpu(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Bundle:
    folder = tmp_path_factory.mktemp("int8-cpu")
    ranges().save(folder / "ranges.npz")
    options = QuantizeOptions(scheme="int8-cpu", calibration=folder / "ranges.npz", prompts=prompts)
    with pytest.MonkeyPatch.context() as patch:
        loose = dataclasses.replace(SCHEMES["int8-cpu"], bounds=(1.0, 1.0))
        patch.setitem(SCHEMES, "int8-cpu", loose)
        return quantize_bundle(source().path, folder / "bundle", options)


def test_an_image_does_not_depend_on_its_batch(int8_cpu: Bundle) -> None:
    texts, seeds = ["a red circle", "a star", "blue"], [1, 2, 3]
    table = int8_cpu.table("euler-20")
    with open_runtime(int8_cpu, "onnxruntime", threads=1) as runtime:
        together = generate(int8_cpu, runtime, texts, seed=seeds, table=table, guidance=2.5).x
        for number, (text, seed) in enumerate(zip(texts, seeds, strict=True)):
            alone = generate(int8_cpu, runtime, text, seed=seed, table=table, guidance=2.5).x
            # Measured equal; with one range per call 0.7 apart on the shipped model.
            assert np.abs(together[number] - alone[0]).max() < 1e-4


@pytest.mark.parametrize("scheme", ["int8-weights", "int4-weights"])
def test_use_computes_what_was_measured(scheme: str, tmp_path: Path, prompts: Path) -> None:
    """By default onnxruntime would round the inputs of weight-only layers to 8 bits."""
    options = QuantizeOptions(scheme=scheme, prompts=prompts)
    bundle = quantize_bundle(source().path, tmp_path / "bundle", options)
    inputs = states()[0].estimate_inputs()
    with GraphsRuntime(bundle) as measured, open_runtime(bundle, "onnxruntime") as used:
        expected = measured.session("transformer")(inputs)[0]
        trajectory = used.start(inputs["x"], inputs["tokens"][:, None])
        trajectory.step(Row(values=inputs["row"][0], weights=inputs["weights"][:, 0]))
    # Measured: equal, and 2e-2 with rounded inputs.
    assert l2_error(trajectory.state()[0], expected) < 1e-5


def test_the_torch_runtime_refuses_it(int8: Bundle) -> None:
    with pytest.raises(RuntimeFailure, match="runtime torch does not run quantized weights"):
        open_runtime(int8, "torch")


def test_a_checkpoint_cannot_verify_it(int8: Bundle) -> None:
    from minit2i_deploy.export import verify_bundle
    from tests.helpers.checkpoint_forms import hub_folder

    assert verify_bundle(int8.path) == int8.manifest.checks
    with pytest.raises(UsageError, match="measured against its source bundle"):
        verify_bundle(int8.path, hub_folder())


def test_ranges_survive_an_interruption(
    tmp_path: Path, prompts: Path, int8: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setitem(SCHEMES, "int8", dataclasses.replace(SCHEMES["int8"], bounds=(1.0, 1.0)))

    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quantize_module, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            quantize_bundle(
                source().path, out, QuantizeOptions(scheme="int8", prompts=prompts, draw=SMALL)
            )
    assert not out.exists() and calibration_path(out).exists()

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("drawn again")

    with monkeypatch.context() as patch:
        patch.setattr(quantize_module, "calibrate", never)
        resumed = quantize_bundle(
            source().path, out, QuantizeOptions(scheme="int8", prompts=prompts, draw=SMALL)
        )
        assert resumed.digest == int8.digest
        calibration_path(out).write_bytes(ranges().to_bytes())
        with pytest.raises(AssertionError, match="drawn again"):
            quantize_bundle(
                source().path,
                out,
                QuantizeOptions(scheme="int8", prompts=prompts, draw=SMALL, overwrite=True),
            )
    assert Bundle.open(out).digest == int8.digest


@pytest.mark.parametrize("way", ["calibration", "save_calibration"])
def test_ranges_that_the_caller_named_stay(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also under the name that ranges have while a bundle is being made."""
    loose = dataclasses.replace(SCHEMES["int8"], bounds=(1.0, 1.0))
    monkeypatch.setitem(SCHEMES, "int8", loose)
    out = tmp_path / "out"
    ranges().save(calibration_path(out))
    named: dict[str, Any] = {way: calibration_path(out)}
    result = quantize_bundle(
        source().path, out, QuantizeOptions(scheme="int8", prompts=prompts, draw=SMALL, **named)
    )
    assert result.manifest.quantization is not None
    stored = Calibration.load(calibration_path(out))
    assert stored.digest == result.manifest.quantization.calibration_sha256
    assert (stored.digest == ranges().digest) == (way == "calibration")


@pytest.mark.parametrize("scheme", ["int8", "int8-weights"])
def test_ranges_that_an_earlier_run_saved_stay(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """And those of an interrupted run, where a run needs none of its own."""
    loose = dataclasses.replace(SCHEMES[scheme], bounds=(1.0, 1.0))
    monkeypatch.setitem(SCHEMES, scheme, loose)
    saved, out = tmp_path / "out.calibration.npz", tmp_path / "out"
    ranges().save(saved)
    ranges().save(calibration_path(out))
    options = QuantizeOptions(scheme=scheme, prompts=prompts)
    if options.needs_calibration:
        options = dataclasses.replace(options, draw=SMALL)
    quantize_bundle(source().path, out, options)
    assert saved.read_bytes() == ranges().to_bytes()
    assert calibration_path(out).exists() == (scheme == "int8-weights")


def test_one_layer_s_inputs_are_included_by_its_name(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize_module, "measure", lambda *args, **options: ())
    ranges().save(tmp_path / "ranges.npz")
    options = QuantizeOptions(
        scheme="int8",
        prompts=prompts,
        calibration=tmp_path / "ranges.npz",
        include=["double_blocks.1.img_mlp.w2"],
        smoothing=False,
    )
    bundle = quantize_bundle(source().path, tmp_path / "out", options)
    weights = read_graph(bundle.graph_path("transformer")).weights
    assert "double_blocks.1.img_mlp.w2.input.scale" in weights
    assert "double_blocks.0.img_mlp.w2.input.scale" not in weights


def test_over_a_bound_there_is_no_bundle(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = dataclasses.replace(SCHEMES["int4-weights"], bounds=(1e-6, 1e-6))
    monkeypatch.setitem(SCHEMES, "int4-weights", tight)
    with pytest.raises(VerificationError, match=r"transformer: .* no bundle was written"):
        quantize_bundle(
            source().path, tmp_path / "out", QuantizeOptions(scheme="int4-weights", prompts=prompts)
        )
    # What was recorded stays for the next run.
    assert [path.name for path in tmp_path.iterdir()] == [".out.calibration-partial.npz"]


def test_the_command_excludes_keeps_and_reports(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    arguments = [source().path, out, "--scheme", "int8-weights", "--prompts", prompts, "--json"]
    done = run(capsys, "quantize", *arguments, "--exclude", "*.w2", "--keep", "text_encoder")
    assert done.code == 0
    values = json.loads(done.out)
    record = values["quantization"]
    assert set(record["graphs"]) == {"text_adapter", "transformer"}
    assert "double_blocks.0.img_mlp.w2" in record["graphs"]["transformer"]["excluded"]
    assert record["calibration_sha256"] is None and record["smoothing"] == {}
    assert values["digest"] == Bundle.open(out).digest
    refused = run(capsys, "quantize", out, again, "--scheme", "int8")
    assert refused.code == 2 and "is quantized already (int8-weights)" in refused.error
    assert not again.exists()


def test_the_command_compares_calibrations_and_lists_schemes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.npz"
    ranges().save(path)
    same = run(capsys, "quantize", "--calibration", path, "--diff", path)
    assert same.code == 0 and "the same file" in same.out
    assert "double_blocks.0.img_qkv" in same.out
    values = run(capsys, "quantize", "--calibration", path, "--diff", path, "--json")
    assert len(json.loads(values.out)["inputs"]) == len(ranges().sites)
    listed = run(capsys, "quantize", "--list")
    assert listed.code == 0 and all(name in listed.out for name in SCHEMES)


def test_a_half_precision_source_is_measured_in_float32(tmp_path: Path, prompts: Path) -> None:
    """As fp32, because its weights are; the manifest's precision decides what it is."""
    folder = tmp_path / "fp16"
    shutil.copytree(source().path, folder)
    graphs = {
        name: dataclasses.replace(graph, precision="fp16")
        for name, graph in source().manifest.graphs.items()
    }
    write_manifest(folder, dataclasses.replace(source().manifest, graphs=graphs))
    result = quantize_bundle(
        folder, tmp_path / "out", QuantizeOptions(scheme="int8-weights", prompts=prompts)
    )
    assert result.manifest.quantization is not None
    assert result.manifest.quantization.base_precision == "fp16"
    assert result.manifest.graphs["transformer"].precision == "fp16"


def test_a_missing_package_names_its_extra_and_torch_is_not_required() -> None:
    lines = "import sys\nsys.modules['torch'] = None\n"
    fine = _python(lines + "import minit2i_deploy.export.quantize")
    assert fine.returncode == 0, fine.stderr
    missing = _python(
        "import sys\nsys.modules['onnx'] = None\nimport minit2i_deploy.export.quantize"
    )
    assert "pip install -c constraints.txt '.[quantize]'" in missing.stderr


def _python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
