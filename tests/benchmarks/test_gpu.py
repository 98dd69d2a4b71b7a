"""benchmarks/gpu_tensorrt.py end to end on a fake card: every engine, table and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.tensorrt_runs import make_bench


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, repository: Path) -> ModuleType:
    import importlib

    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    monkeypatch.syspath_prepend(str(repository / "tests"))
    return importlib.import_module("gpu_tensorrt")


def test_a_dry_run_measures_every_engine(
    benchmark: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The tiny bundle takes the place of the network that the program would export.
    bench = make_bench(monkeypatch, tmp_path / "work" / "tiny-fp32", rtx=True)
    monkeypatch.setattr(benchmark, "PROMPT", "red")
    arguments = ["--dry-run", "--no-build", "--no-golden", "--presets", "fast", "--work",
             tmp_path / "work"]  # fmt: skip
    assert benchmark.main([*map(str, arguments), "-o", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    running = {"torch eager", "onnxruntime cpu", "tensorrt-rtx"}
    assert set(report["not_run"]) == {"tensorrt"}
    assert report["not_run"]["tensorrt"].startswith("tensorrt is not installed")
    assert set(report["errors"]) == running
    # Measured 6e-7.
    assert max(max(errors.values()) for errors in report["errors"].values()) <= 1e-5
    assert set(report["step_s"]) == {"1", "2"}
    for seconds in (*report["step_s"].values(), *report["picture_s"].values()):
        assert set(seconds) == running
        assert all(0 < values["p50"] <= values["p95"] for values in seconds.values())
    names = [name.partition(" (")[0] for name in report["picture_s"]]
    assert names == ["fast"]
    assert report["host_copies_a_picture"] == {"tensorrt-rtx": {"to_device": 2, "to_host": 2}}
    assert report["facts"]["tensorrt-rtx"]["cuda_graphs"] == "trajectory"
    printed = capsys.readouterr().out
    assert "not run: tensorrt: tensorrt is not installed" in printed
    assert "guided step" in printed and "relative error" in printed
    assert bench.cuda.live() == {"blocks": 0, "pinned": 0, "streams": 0, "graphs": 0}


def test_an_engine_that_fails_is_named_and_the_rest_measured(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bench(monkeypatch, tmp_path / "tiny-fp32").cuda.gpus = ()
    monkeypatch.setattr(benchmark, "PROMPT", "red")
    arguments = ["--dry-run", "--no-build", "--no-golden", "--presets", "fast"]
    options = benchmark._parse(arguments)
    options.rounds, options.batches = 1, [1]
    report = benchmark.measure(options, tmp_path, lambda share, label="": None)
    assert "this machine has no NVIDIA GPU" in report["not_run"]["tensorrt-rtx"]
    assert set(report["errors"]) == {"torch eager", "onnxruntime cpu"}


def test_golden_states_are_met(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    options = benchmark._parse(["--dry-run", "--engines", "--no-build"])
    errors = benchmark.golden_errors(options)
    assert set(errors) == {"torch eager", "onnxruntime cpu"}
    # Measured 4e-7.
    assert max(errors.values()) <= 1e-5


def test_figures_of_a_run(benchmark: ModuleType) -> None:
    seconds = benchmark.summary([1.0, 3.0, 1.0, 3.0, 1.0])
    assert seconds == {"p50": 1.0, "p95": 3.0, "least": 1.0, "n": 5, "aa_spread": 2.0}


def test_a_card_is_read_through_nvidia_smi(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_report

    program = tmp_path / "nvidia-smi"
    fields = gpu_report._QUERY.split(",")
    program.write_text(f"#!/bin/sh\necho {', '.join(fields)}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_report.read_card() == {name: name for name in fields}
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_report.read_card() is None
    program.unlink()
    assert gpu_report.read_card() is None
