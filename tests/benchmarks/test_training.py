"""The benchmark of a training step, with a stand-in for the official checkout."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

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
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    package = tmp_path / "mini_t2i"
    package.mkdir()
    for name, text in (("__init__", ""), ("model", MODEL), ("diffusion", DIFFUSION)):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    (package / "utils.py").write_text(UTILS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.split(".")[0] == "mini_t2i"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "training_step.py"
    spec = importlib.util.spec_from_file_location("training_step", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(checkout: Path, *more: str) -> list[str]:
    few = ["--steps", "2", "--depth", "1", "--batch", "1", "--eager", "--threads", "1"]
    return ["--official", str(checkout), *few, "--tokens", "5", *more]


@pytest.mark.parametrize(
    ("side", "text"),
    [
        ("official", "none"),
        ("official", "loop"),
        ("ours", "none"),
        ("ours", "loop"),
        ("ours", "cached"),
    ],
)
def test_a_side_steps_and_tells_its_time_and_memory(
    side: str, text: str, checkout: Path, benchmark: ModuleType
) -> None:
    options = benchmark.parse_options(options_of(checkout, "--side", side, "--text", text))
    report = benchmark.measure(options)
    assert len(report["seconds"]) == len(report["cpu_seconds"]) == 2 < len(report["losses"])
    assert min(report["seconds"]) > 0 and report["peak_bytes"] > 1e8
    assert report["losses"][0] != report["losses"][1]


def test_each_contender_runs_in_another_process(checkout: Path, benchmark: ModuleType) -> None:
    options = benchmark.parse_options(options_of(checkout, "--steps", "1"))
    report = benchmark.run_in_process(options, "official", "none")
    assert len(report["losses"]) == 2


@pytest.mark.parametrize("text", ["loop", "none"])
def test_the_encoder_sees_new_captions_at_every_step(
    text: str, checkout: Path, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    options = benchmark.parse_options(options_of(checkout, "--side", "ours", "--text", text))
    encoder = benchmark.open_encoder(options)
    encoder.register_forward_pre_hook(
        lambda _, args: calls.append((args[0].shape, tuple(args[0].flatten().tolist())))
    )
    monkeypatch.setattr(benchmark, "open_encoder", lambda _: encoder)
    encode = benchmark.our_text(options)
    contexts = [encode()[0] for _ in range(3)]
    assert contexts[0].shape == (1, 256, 1024)
    assert not contexts[0][0, 5:].any() and contexts[0][0, :5].all()
    # Real tokens alone go through ours, and other ones each time.
    assert {shape for shape, _ in calls} == ({(1, 5)} if text == "loop" else set())
    assert len({ids for _, ids in calls}) == len(calls) == (3 if text == "loop" else 0)


def test_the_official_encoder_sees_padded_captions(
    checkout: Path, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    options = benchmark.parse_options(options_of(checkout, "--side", "official", "--text", "loop"))
    encoder = benchmark.open_encoder(options)
    encoder.register_forward_pre_hook(
        lambda _, args, keywords: calls.append(keywords), with_kwargs=True
    )
    monkeypatch.setattr(benchmark, "open_encoder", lambda _: encoder)
    context, mask = benchmark.official_text(options, torch.device("cpu"))()
    assert context.shape == (1, 256, 1024) and context.dtype == torch.bfloat16
    assert calls[0]["input_ids"].shape == (1, 256) and int(mask.sum()) == 5
    assert torch.equal(calls[0]["attention_mask"], mask)
    assert int((calls[0]["input_ids"] > 0).sum()) == 5


def test_the_table_has_all_contenders_and_their_ratios(
    checkout: Path, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    requested: list[tuple[str, str]] = []
    times = {
        ("official", "none"): [3.0, 5.0],
        ("ours", "none"): [2.0, 2.0],
        ("official", "loop"): [6.0, 6.0],
        ("ours", "loop"): [4.0, 4.0],
        ("ours", "cached"): [2.5, 2.5],
    }

    def measured(options: object, side: str, text: str) -> dict[str, object]:
        requested.append((side, text))
        seconds = times[side, text]
        return {"seconds": seconds, "cpu_seconds": seconds, "losses": [1.0], "peak_bytes": 2e9}

    monkeypatch.setattr(benchmark, "run_in_process", measured)
    figures = tmp_path / "figures.json"
    texts = ["--text", "none", "loop", "cached"]
    assert benchmark.main(["--official", str(checkout), "--json", str(figures), *texts]) == 0
    assert requested == [*times, *times]
    text = capsys.readouterr().out
    assert "| official, none | 4 (3) | 4 (3) | 2.00 |" in text
    assert "| the network alone | 2.00 | 2.00 | 1.00 |" in text
    assert "| text encoder in both | 1.50 | 1.50 | 1.00 |" in text
    assert "cached embeddings in ours | 2.40 | 2.40 | 1.00 |" in text
    assert json.loads(figures.read_text("utf-8"))["runs"]["ours none"][0]["seconds"] == [2.0, 2.0]


def test_cached_alone_needs_no_run_of_the_network_alone(benchmark: ModuleType) -> None:
    assert benchmark.list_contenders(["cached"]) == [("official", "loop"), ("ours", "cached")]
    assert benchmark.list_contenders(["none"]) == [("official", "none"), ("ours", "none")]
