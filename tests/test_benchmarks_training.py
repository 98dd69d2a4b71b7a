"""The benchmark of a training step, with a stand-in for the official checkout."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

MODEL = """
import torch
class MMJiTB32Text2(torch.nn.Module):
    def __init__(self, image_size, patch_size, attention_impl, **rest):
        super().__init__()
        self.w = torch.nn.Linear(3, 3)
    def forward(self, x, t, context, mask):
        return self.w(x.movedim(1, 3)).movedim(3, 1).float()
"""
DIFFUSION = """
def training_loss(model, images, text, mask):
    loss = (model(images, None, text, mask) - images).square().mean()
    return loss, {"loss": loss.detach()}, None
"""
UTILS = """
def update_ema(average, model, decay):
    for a, p in zip(average.parameters(), model.parameters()):
        a.mul_(decay).add_(p.detach(), alpha=1 - decay)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "mini_t2i"
    package.mkdir()
    for name, text in (("__init__", ""), ("model", MODEL), ("diffusion", DIFFUSION)):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    (package / "utils.py").write_text(UTILS, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "training_step.py"
    spec = importlib.util.spec_from_file_location("training_step", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("side", ["official", "ours"])
def test_a_side_steps_and_tells_its_time_and_memory(
    side: str, checkout: Path, benchmark: ModuleType, repository: Path
) -> None:
    script = str(repository / "benchmarks" / "training_step.py")
    options = ["--side", side, "--official", str(checkout), "--steps", "2", "--depth", "1"]
    command = [sys.executable, script, *options, "--batch", "1", "--eager", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["seconds"]) == len(found["cpu_seconds"]) == 2 < len(found["losses"])
    assert min(found["seconds"]) > 0 and found["peak_bytes"] > 1e8
    assert found["losses"][0] != found["losses"][1]


def test_the_table_has_both_sides_and_their_ratios(
    checkout: Path, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: list[str] = []

    def measured(options: object, side: str) -> dict[str, object]:
        asked.append(side)
        seconds = {"official": [3.0, 5.0], "ours": [2.0, 2.0]}[side]
        return {"seconds": seconds, "cpu_seconds": seconds, "losses": [1.0], "peak_bytes": 2e9}

    monkeypatch.setattr(benchmark, "_in_process", measured)
    figures = tmp_path / "figures.json"
    assert benchmark.main(["--official", str(checkout), "--json", str(figures)]) == 0
    assert asked == ["official", "ours", "official", "ours"]
    text = capsys.readouterr().out
    assert "| official | 4 (3) | 4 (3) | 2.00 |" in text
    assert "official over ours: step 2.00, processor time 2.00, memory 1.00" in text
    assert json.loads(figures.read_text("utf-8"))["sides"]["ours"][0]["seconds"] == [2.0, 2.0]
