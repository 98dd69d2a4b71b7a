"""Several adapters at once, each times its strength, in any order."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.checkpoints import Checkpoint, load_checkpoint
from minit2i_deploy.checkpoints.lora_sources import combined_digest, recorded_adapters
from minit2i_deploy.errors import UsageError
from tests.checkpoints.test_lora import ALPHA, RANK, write_adapter
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle

SCALE = ALPHA / RANK
STRENGTHS = {"style": 0.8, "subject": -0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters that share one matrix."""
    folder = tmp_path_factory.mktemp("x")
    write_adapter(folder / "style", targets=["txt_embedder", "double_blocks.0.img_qkv"])
    write_adapter(folder / "subject", targets=["txt_embedder"], lora_alpha=2 * ALPHA)
    return folder


def merged(folder: Path, strengths: dict[str, float]) -> Checkpoint:
    sources = {str(folder / name): strength for name, strength in strengths.items()}
    return load_checkpoint(hub_folder(), lora=sources)


def delta(folder: Path, name: str, module: str) -> np.ndarray:
    """What one adapter alone adds to a matrix."""
    alone = load_checkpoint(hub_folder(), lora=folder / name)
    before = load_checkpoint(hub_folder()).tensors[f"{module}.weight"]
    return alone.tensors[f"{module}.weight"] - before


def test_the_sum_of_both_times_their_strengths(folder: Path) -> None:
    actual = merged(folder, STRENGTHS).tensors
    base = load_checkpoint(hub_folder()).tensors
    for module, names in (
        ("txt_embedder", ("style", "subject")),
        ("double_blocks.0.img_qkv", ("style",)),
    ):
        expected = base[f"{module}.weight"].astype(np.float64)
        for name in names:
            expected = expected + STRENGTHS[name] * delta(folder, name, module)
        # Measured 1.9e-6 on sums up to 30.
        assert np.abs(actual[f"{module}.weight"] - expected).max() <= 1e-5


def test_the_order_does_not_matter(folder: Path) -> None:
    one, other = merged(folder, STRENGTHS), merged(folder, dict(reversed(STRENGTHS.items())))
    assert one.report.adapters == other.report.adapters
    for name, value in one.tensors.items():
        assert np.array_equal(value, other.tensors[name]), name


def test_digests(folder: Path) -> None:
    (alone,) = load_checkpoint(hub_folder(), lora=folder / "style").report.adapters
    assert combined_digest([]) is None and combined_digest([alone]) == alone.sha256
    assert recorded_adapters([alone]) is None
    adapters = merged(folder, STRENGTHS).report.adapters
    lines = sorted(f"{item.sha256} {item.strength!r}\n" for item in adapters)
    assert combined_digest(adapters) == hashlib.sha256("".join(lines).encode()).hexdigest()
    weaker = merged(folder, {"style": 0.7}).report.adapters
    assert combined_digest(weaker) not in (alone.sha256, combined_digest(adapters))


def test_a_manifest_records_each(folder: Path) -> None:
    recorded = recorded_adapters(merged(folder, STRENGTHS).report.adapters)
    assert recorded is not None and {item.strength for item in recorded} == {0.8, -0.5}
    manifest = dataclasses.replace(Bundle.open(tiny_bundle()).manifest, adapters=recorded)
    assert Manifest.from_bytes(manifest.to_bytes(), "here") == manifest


@pytest.mark.parametrize(
    ("strength", "text"),
    [
        (0, "must be finite and not 0"),
        (float("nan"), "must be finite and not 0"),
        ("much", "expected a number, got 'much'"),
        (True, "expected a number, got True"),
    ],
)
def test_strengths_that_are_refused(strength: Any, text: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=text):
        merged(folder, {"style": strength})


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style, subject = folder / "style", folder / "subject"
    done = run(
        capsys, "inspect", hub_folder(), "--lora", f"{style}=0.8", "--lora", subject
    )  # fmt: skip
    assert done.code == 0 and "strength 0.8" in done.out and "strength 1" in done.out
    for values, text in (
        ([f"{style}=0.8", str(style)], "names one adapter twice"),
        ([f"{style}=loud"], "expected a number, got 'loud'"),
        ([f"{style}=inf"], "must be finite and not 0"),
    ):
        options = [word for value in values for word in ("--lora", value)]
        done = run(capsys, "inspect", hub_folder(), *options)
        assert done.code == 2 and text in done.error, done.error
