"""export and train: what reaches the folders that do the work. Columns of text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support import formatting
from minit2i_deploy.errors import VerificationError
from minit2i_deploy.export import ExportOptions
from minit2i_deploy.progress import Progress
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What export_bundle was called with; it writes a bundle without a network."""
    export = pytest.importorskip("minit2i_deploy.export")
    exported: list[tuple[Any, ...]] = []

    def stub(
        checkpoint: Path, bundle: Path, options: ExportOptions, *, progress: Progress
    ) -> Bundle:
        progress(0.5, "stage")
        exported.append((checkpoint, bundle, options))
        return Bundle.open(write_bundle(bundle))

    monkeypatch.setattr(export, "export_bundle", stub)
    monkeypatch.setattr("minit2i_deploy.cli.export._check_places", lambda options: None)
    return exported


def test_export_passes_its_options_and_prints_the_checks(
    calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(
        capsys, "export", "ckpt", tmp_path / "b", "--precision", "fp16", "--text-encoder", "t5",
        "--flavour", "jax-l16", "--raw", "--overwrite", "--lora", "adapter",
        "--image-size", 256, "--prompt-length", 128,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert calls == [
        (
            Path("ckpt"),
            tmp_path / "b",
            ExportOptions(
                precision="fp16", text_encoder="t5", flavour="jax-l16", ema=False,
                overwrite=True, lora={"adapter": 1.0}, image_size=256, prompt_length=128,
            ),
        )
    ]  # fmt: skip
    assert done.out.splitlines()[1].split() == [
        "step", "3e-07", "1e-05", "relative", "onnx", "to", "torch",
    ]  # fmt: skip


def test_export_defaults_and_json(
    calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(run(capsys, "export", "ckpt", tmp_path / "b", "--json").out)
    assert calls[0][2] == ExportOptions()
    assert values["digest"] == Bundle.open(tmp_path / "b").digest
    assert values["checks"][0]["measured"] == 3e-7


def test_export_for_an_engine_chooses_and_says_why(
    calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "export", "ckpt", tmp_path / "a", "--for", "tensorrt-rtx")
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert done.err.startswith("minit2i: for tensorrt-rtx: opset 23, fp16, attention as one")
    run(capsys, "export", "ckpt", tmp_path / "b", "--for", "tensorrt-rtx", "--precision", "fp32")
    assert [(c[2].opset, c[2].precision) for c in calls] == [(23, "fp16"), (18, "fp32")]
    refused = run(capsys, "export", "ckpt", tmp_path / "c", "--for", "cpu", "--precision", "bf16")
    assert (refused.code, "choose one of fp32, fp16" in refused.error) == (2, True)
    assert len(calls) == 2
    run(capsys, "export", "ckpt", tmp_path / "d", "--for", "cpu")
    assert [call[2].only_for for call in calls] == [None, None, "cpu"]


def test_export_pads_heads_with_the_option_or_for_the_target(
    calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "export", "ckpt", tmp_path / "a", "--for", "cuda")
    assert "attention as an operator of onnxruntime, heads padded to a multiple of 8 (" in done.err
    run(capsys, "export", "ckpt", tmp_path / "b", "--for", "cuda", "--head-multiple", "16")
    run(capsys, "export", "ckpt", tmp_path / "c", "--for", "tensorrt")
    run(capsys, "export", "ckpt", tmp_path / "d", "--head-multiple", "8")
    assert [c[2].head_multiple for c in calls] == [8, 16, 1, 8]


def test_export_over_a_bound_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export = pytest.importorskip("minit2i_deploy.export")

    def over(*args: object, **options: object) -> None:
        raise VerificationError("step: 2e-5 relative but at most 1e-5 is allowed")

    monkeypatch.setattr(export, "export_bundle", over)
    monkeypatch.setattr("minit2i_deploy.cli.export._check_places", lambda options: None)
    done = run(capsys, "export", "ckpt", tmp_path / "b")
    assert (done.code, "at most 1e-5" in done.error) == (1, True)


def test_export_refuses_wrong_places_before_torch_is_loaded(
    tmp_path: Path, repository: Path
) -> None:
    model = str(repository / "minit2i_deploy" / "demo" / "assets" / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    cases = [
        (["none", "new"], 1, "none: does not exist"),
        ([model, "full"], 2, "full: the folder exists and is not empty"),
        ([model, "full", "--overwrite"], 2, "full: exists and is not a bundle"),
        ([model, "new", "--text-encoder", "full"], 2, "full: no config.json in it"),
        ([model, "new", "--flavour", "x"], 2, "flavour 'x' is unknown"),
        ([model, "new", "--for", "x"], 2, "unknown target 'x'"),
    ]
    code = (
        "import json, sys\n"
        "from minit2i_deploy.cli import main\n"
        "codes = [main(['export', *words]) for words in json.loads(sys.argv[1])]\n"
        "print(json.dumps([codes, 'torch' in sys.modules]))\n"
    )
    arguments = [sys.executable, "-c", code, json.dumps([case[0] for case in cases])]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[case[1] for case in cases], False]
    for line, case in zip(done.stderr.splitlines(), cases, strict=True):
        assert line.startswith("minit2i: error: ") and case[2] in line
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("command", ["train", "distill"])
def test_training_passes_overrides_from_both_sides_of_an_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = []

    def stub(recipe: Path, folder: Path, overrides: Sequence[str]) -> Path:
        exported.append((recipe, folder, list(overrides)))
        return folder / "step-000002"

    monkeypatch.setattr(f"minit2i_deploy.training.{command}", stub)
    done = run(capsys, command, "r.yaml", "lr=1", "--output", "run", "steps=2", "model.x=3")
    assert (done.code, done.out) == (0, "run/step-000002\n")
    assert exported == [(Path("r.yaml"), Path("run"), ["lr=1", "steps=2", "model.x=3"])]


def test_columns_of_numbers_are_set_to_the_right() -> None:
    rows = [("a", "1", "x 1"), ("bcd", "-2.5", "y")]
    expected = "n       v  w\na       1  x 1\nbcd  -2.5  y"
    assert formatting.columns(rows, head=("n", "v", "w")) == expected


@pytest.mark.parametrize(
    ("num_bytes", "arguments"), [(999, "999 B"), (1000, "1.0 kB"), (20_650_908, "20.7 MB")]
)
def test_sizes(num_bytes: int, arguments: str) -> None:
    assert formatting.size(num_bytes) == arguments
