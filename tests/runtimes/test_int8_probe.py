"""Products of 8-bit numbers that saturate are found, and bundles that they spoil are named."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.fields import GraphQuantization, Quantization
from minit2i_deploy.cli import doctor
from minit2i_deploy.errors import PrecisionWarning
from minit2i_deploy.runtimes import int8_probe, onnx_writer, runtime_class
from minit2i_deploy.runtimes.int8_probe import DYNAMIC, STATIC, saturating_forms
from minit2i_deploy.runtimes.onnxruntime import int8_probe as onnxruntime_probe
from minit2i_deploy.runtimes.onnxruntime import runtime as onnxruntime_runtime
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

BOTH = frozenset({DYNAMIC, STATIC})


def pair_sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b as vpmaddubsw adds: pairs of products in 16 bits, the rest in 32."""
    products = a[:, :, None].astype(np.int32) * b[None].astype(np.int32)
    pairs = products[:, 0::2] + products[:, 1::2]
    sums: np.ndarray = np.clip(pairs, -(2**15), 2**15 - 1).sum(1)
    return sums


def without_vnni(model: bytes, a: np.ndarray) -> np.ndarray:
    """A stand-in session on a processor without VNNI; signed inputs are moved to unsigned ones."""
    weights = np.full((a.shape[1], 16), 127, np.int8)
    if a.dtype == np.uint8:
        return pair_sums(a, weights)
    moved = pair_sums(a.astype(np.int16) + 128, weights) - 128 * weights.astype(np.int32).sum(0)
    return moved.astype(np.float32)


def test_saturating_kernels_are_found() -> None:
    assert without_vnni(b"", np.full((1, 64), 255, np.uint8))[0, 0] == 1048544
    assert saturating_forms(without_vnni) == BOTH

    def dynamic_only(model: bytes, a: np.ndarray) -> np.ndarray:
        right = a.astype(np.float64) @ np.full((a.shape[1], 16), 127.0)
        return without_vnni(model, a) if a.dtype == np.uint8 else right

    assert saturating_forms(dynamic_only) == {DYNAMIC}


def test_the_models_are_valid() -> None:
    onnx = pytest.importorskip("onnx")
    for model in (int8_probe.dynamic_model(), int8_probe.static_model()):
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    one = onnx.load_from_string(onnx_writer.model([], [], [], [onnx_writer.constant("c", np.arange(3, dtype=np.float32))]))  # fmt: skip  # noqa: E501
    assert onnx.numpy_helper.to_array(one.graph.initializer[0]).tolist() == [0, 1, 2]


def test_processors_with_vnni_are_right() -> None:
    pytest.importorskip("onnxruntime")
    features = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "vnni" not in features:
        pytest.skip("this processor has no VNNI")
    assert not onnxruntime_probe.int8_products_saturate()


EMULATED = """
from minit2i_deploy.runtimes.{module} import {name}
print(sorted({name}({arguments})))
"""


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
@pytest.mark.parametrize(
    ("library", "code", "expected"),
    [
        (
            "onnxruntime",
            EMULATED.format(
                module="onnxruntime.int8_probe", name="saturating_forms", arguments="'cpu'"
            ),
            sorted(BOTH),
        ),
        # Measured with 2026.4: products of a dynamic range are exact, those of a fixed one are not.
        (
            "openvino",
            EMULATED.format(module="openvino", name="_saturating_forms", arguments=""),
            [STATIC],
        ),
    ],
)
def test_an_emulated_processor_without_vnni(library: str, code: str, expected: list[str]) -> None:
    pytest.importorskip(library)
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", code]
    # Libraries that look for cores find those of the machine; one is enough.
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.stdout.splitlines()[-1:] == [str(expected)], done.stderr


def int8_bundle(folder: Path, weight: int, scheme: str) -> Bundle:
    """A bundle whose step graph has one INT8 weight, described as quantize would."""
    bundle = Bundle.open(write_bundle(folder))
    header = json.dumps({"w": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    data = len(header).to_bytes(8, "little") + header + np.array([1, -weight], np.int8).tobytes()
    (folder / "transformer" / "model.onnx.data").write_bytes(data)
    graphs = dict(bundle.manifest.graphs)
    graphs["transformer"] = dataclasses.replace(graphs["transformer"], precision="int8")
    quantization = Quantization(
        scheme="int8", base_precision="fp32", source_digest="ab" * 32, calibration_sha256=None,
        smoothing={},
        graphs={"transformer": GraphQuantization(scheme=scheme, layers=1, excluded=())},
    )  # fmt: skip
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs, quantization=quantization)
    return dataclasses.replace(bundle, manifest=manifest)


@pytest.mark.parametrize(
    ("weight", "scheme", "forms", "warns"),
    [
        (127, "int8 weights, int8 inputs", BOTH, True),
        (65, "int8 weights, uint8 dynamic inputs", {DYNAMIC}, True),
        # Seven bits never saturate; other forms are not concerned.
        (64, "int8 weights, int8 inputs", BOTH, False),
        (127, "int8 weights, uint8 dynamic inputs", {STATIC}, False),
        (127, "int8 weights, int8 inputs", set(), False),
        (127, "pair-safe int8 weights, int8 inputs", BOTH, False),
    ],
)
def test_a_bundle_that_would_saturate_is_named_when_it_is_opened(
    weight: int,
    scheme: str,
    forms: frozenset[str],
    warns: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = int8_bundle(tmp_path / "bundle", weight, scheme)
    monkeypatch.setattr(onnxruntime_runtime, "saturating_forms", lambda provider: forms)
    opened = _warnings_of(lambda: OnnxRuntime(bundle)._session("transformer"))
    assert len(opened) == warns
    if warns:
        text = str(opened[0].message)
        assert text.startswith(f"{bundle.path}: 8-bit products saturate in onnxruntime (cpu)")
        assert "quantize that by a scheme other than int8-text" in text and "\n" not in text


def test_other_graphs_are_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))

    def fail(provider: str) -> frozenset[str]:
        raise AssertionError

    monkeypatch.setattr(onnxruntime_runtime, "saturating_forms", fail)
    assert _warnings_of(lambda: OnnxRuntime(bundle)._session("transformer")) == []


def _warnings_of(work: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The stand-in graphs of this bundle are no ONNX files.
        with pytest.raises(Exception, match="onnxruntime cannot open it"):
            work()
    return [item for item in caught if item.category is PrecisionWarning]


def test_doctor_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    kind = runtime_class("onnxruntime")
    (cpu,) = [test for test in kind.self_tests() if test.label == "onnxruntime:cpu"]
    saturating = dataclasses.replace(cpu, int8_saturates=lambda: True)
    monkeypatch.setattr(kind, "self_tests", lambda: [saturating])
    done = run(capsys, "doctor")
    (line,) = [line for line in done.out.splitlines() if line.startswith("onnxruntime:cpu")]
    assert doctor.INT8_SATURATES in line
    values = json.loads(run(capsys, "doctor", "--json").out)
    assert values["engines"][0]["int8_saturates"] is True
