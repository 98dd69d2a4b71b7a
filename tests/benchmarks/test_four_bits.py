"""The benchmark of four bits on two captions a kind: resumed, and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import four_bits


def test_cells_are_of_known_methods() -> None:
    names = four_bits.cells()
    assert "nvfp4/low-rank+gptq" in names and "mxfp8/nearest" in names
    # Smoothing gains nothing where inputs are rounded in floating point.
    assert [name for name in names if "smooth" in name] == ["int4-int8/smooth+gptq"]


@pytest.mark.slow
def test_a_run_is_continued_and_another_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    arguments = ["demo", str(path), "--per-kind", "1", "--cell", "int4-weights/nearest"]
    assert four_bits.main(arguments) == 0
    first = json.loads(path.read_text())
    cell = first["cells"]["int4-weights/nearest"]
    assert cell["whole"]["bytes"] < 0.2 * first["cells"]["fp32"]["bytes"]
    assert 10 < cell["whole"]["psnr_mean"] < cell["late"]["psnr_mean"]
    path.with_suffix(".ranges.npz").unlink()
    assert four_bits.main(arguments) == 0
    assert json.loads(path.read_text()) == first
    assert not path.with_suffix(".ranges.npz").exists()
    assert "| `int4-weights` | nearest | all | 0.1" in capsys.readouterr().out
    arguments[3] = "2"
    assert four_bits.main(arguments) == 2
    assert "is of another bundle, captions or version" in capsys.readouterr().err
    arguments[5] = "int3/*"
    assert four_bits.main(arguments) == 2
