"""What doctor says: extras, processor, engines that prove themselves, and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.cli.doctor import _extra_rows
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure
from minit2i_deploy.flops import variant_bytes
from minit2i_deploy.machine import (
    Extra,
    cpu_features,
    group_extras,
    installed_extras,
    memory_bytes,
)
from minit2i_deploy.runtimes import RUNTIMES, runtime_class
from minit2i_deploy.runtimes.base import SelfTest
from minit2i_deploy.runtimes.cuda import devices
from minit2i_deploy.runtimes.toy_graph import TOY_STEPS, toy_arrays, toy_error
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

LINES = [
    "numpy>=1.26",
    'onnxruntime>=1.24; extra == "cpu"',
    "no-such-package>=1; extra == 'other'",
    'minit2i-deploy[cpu,other]; extra == "export"',
    'torch<3,>=2.9; python_version > "3" and extra == "export"',
    'pytest; extra == "dev"',
]


def test_extras_are_read_from_requirements() -> None:
    actual = {extra.name: extra for extra in group_extras(LINES)}
    assert list(actual) == ["", "cpu", "other", "export"]
    assert actual[""].packages == {"numpy": np.__version__}
    assert actual[""].pip_line is None
    assert actual["other"].packages == {"no-such-package": None}
    assert actual["other"].pip_line == "pip install -c constraints.txt '.[other]'"
    assert sorted(actual["export"].packages) == ["no-such-package", "onnxruntime", "torch"]


def test_the_real_extras_are_all_named() -> None:
    names = {extra.name for extra in installed_extras()}
    assert {"", "cpu", "cuda", "export", "openvino", "train"} <= names
    assert "dev" not in names


def test_processor_features() -> None:
    x86 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f amx_bf16\nflags: none\n"
    assert list(cpu_features(x86)) == ["amx_bf16", "avx512f", "avx2"]
    assert list(cpu_features("Features\t: fp asimd bf16\n")) == ["bf16", "asimd"]
    assert cpu_features("") == {}


def test_memory_and_weights() -> None:
    assert (memory_bytes() or 0) > 2**28
    actual = variant_bytes()
    # 235.7 M and 15.0 M parameters of four bytes; published with norms and biases.
    assert actual["b-16"]["fp32"] / 1e6 == pytest.approx(943 + 60, rel=5e-3)
    assert actual["b-16"]["with encoder"] / 1e6 == pytest.approx(943 + 60 + 1365, rel=5e-3)
    assert actual["l-16"]["16 bit"] / 1e6 == pytest.approx(1708 + 78, rel=5e-3)


def test_the_toy_tells_right_from_wrong() -> None:
    start, turn = toy_arrays()
    state = start
    for _ in range(TOY_STEPS):
        state = state @ turn
    # Measured 2e-7.
    assert toy_error("numpy", state) < 2e-6
    with pytest.raises(RuntimeFailure, match="numpy is off by"):
        toy_error("numpy", state @ turn)


def test_engines_of_this_machine_prove_themselves() -> None:
    tests = [test for name in RUNTIMES for test in runtime_class(name).self_tests()]
    engines = {test.label: test.run for test in tests}
    assert next(iter(engines)) == "onnxruntime:cpu"
    for name, extra in (("onnxruntime:cpu", "onnxruntime"), ("torch (cpu)", "torch")):
        pytest.importorskip(extra)
        assert engines[name]() < 2e-6
    for name in ("openvino::fp32", "onnxruntime:cuda", "onnxruntime:openvino"):
        try:
            assert engines[name]() < 0.05
        except (MissingDependencyError, RuntimeFailure) as error:
            assert "\n" not in str(error)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> float:
        raise MissingDependencyError("openvino is not installed; run: pip install x")

    def broken() -> float:
        raise RuntimeFailure("no device")

    outcomes = {"fake": lambda: 1e-7, "openvino::bf16": missing, "torch (cuda)": broken}
    set_tests(monkeypatch, [SelfTest(label=k, options={}, run=v) for k, v in outcomes.items()])


def set_tests(
    monkeypatch: pytest.MonkeyPatch, tests: list[SelfTest], runtime: str = "fake"
) -> None:
    """Let one runtime have these self tests and no other runtime any."""
    for name in RUNTIMES:
        local = tests if name == runtime else []
        monkeypatch.setattr(runtime_class(name), "self_tests", lambda local=local: local)


def test_the_command_tells_what_works(engines: None, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "doctor")
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "fake works error 1.0e-07" in lines
    pip_line = "openvino::bf16 not installed openvino is not installed; run: pip install x"
    assert pip_line in lines
    assert "torch (cuda) does not work no device" in lines
    assert any(line.startswith("b-16 1.0 GB ") for line in lines)
    assert "fake none" in lines
    assert any("threads: int = 0" in line for line in lines if line.startswith("openvino "))
    values = json.loads(run(capsys, "doctor", "--json").out)
    assert values["runtime_options"]["tensorrt"][0] == "device: int = 0"
    assert [item["state"] for item in values["engines"]] == [
        "works", "not installed", "does not work",
    ]  # fmt: skip


def test_engines_are_tried_on_a_bundle(
    engines: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "b")
    values = json.loads(run(capsys, "doctor", bundle, "--json").out)
    assert values["engines"][0]["row_s"] > 0
    assert "ms per row" in run(capsys, "doctor", bundle).out


def test_an_engine_that_does_not_run_the_bundle_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    right = SelfTest(label="onnxruntime:cpu", options={"provider": "cpu"}, run=lambda: 0.0)
    set_tests(monkeypatch, [right], "onnxruntime")
    # The stand-in graphs of this bundle are no ONNX files.
    done = run(capsys, "doctor", write_bundle(tmp_path / "b"), "--json")
    (item,) = json.loads(done.out)["engines"]
    assert item["state"] == "does not run this bundle"
    assert "onnxruntime cannot open it" in item["why"]


def test_a_missing_bundle_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "doctor", tmp_path / "none").code == 1


def test_packages_older_than_their_bound_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "1.25.2", "onnxruntime": "1.24.0rc1", "torch": "2.10.0+cpu"}
    monkeypatch.setattr("minit2i_deploy.machine._version", versions.get)
    actual = {extra.name: extra for extra in group_extras(LINES)}
    assert (actual[""].too_old, actual[""].pip_line) == ({"numpy": "1.26"}, "pip install .")
    assert (actual["cpu"].too_old, actual["cpu"].pip_line) == ({}, None)
    assert actual["export"].too_old == {}
    rows = _extra_rows({"always": {**_values(actual[""])}})
    assert rows == [("always", "pip install .", "numpy 1.25.2 (too old, 1.26 or later is needed)")]


def _values(extra: Extra) -> dict[str, object]:
    return {"packages": extra.packages, "too_old": extra.too_old, "pip": extra.pip_line}


class Driver:
    """What is asked of libcuda, of two GPUs."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = b"Test GPU %d" % device.value
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: int, device: Any) -> int:
        value._obj.value = {75: 12, 76: 1}[which]
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = 8_000_000_000
        return 0


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (0, ["GPU 0 Test GPU 0, compute capability 12.1, 8.0 GB",
             "GPU 1 Test GPU 1, compute capability 12.1, 8.0 GB"]),
        (100, ["NVIDIA GPU none"]),
        (999, ["NVIDIA GPU the NVIDIA driver does not start (cuInit gives 999); check nvidia-smi"]),
    ],
)  # fmt: skip
def test_gpus_by_name_and_compute_capability(
    status: int,
    lines: list[str],
    engines: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Driver(status))
    printed = [" ".join(line.split()) for line in run(capsys, "doctor").out.splitlines()]
    assert [line for line in printed if "GPU" in line] == lines


def test_a_machine_without_a_driver(
    engines: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(devices.ctypes, "CDLL", missing)
    values = json.loads(run(capsys, "doctor", "--json").out)
    assert (values["gpus"], values["gpu_error"]) == ([], None)
