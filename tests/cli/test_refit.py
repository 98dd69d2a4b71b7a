"""minit2i refit where no engine holds weights of its own: onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.weight_replacement import network_tensors
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.lora_sources import combined_digest
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle


def test_two_adapters_without_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(tmp_path / "style", lora_alpha=0.05)
    write_adapter(tmp_path / "subject", targets=["txt_embedder"], lora_alpha=0.05)
    done = run(
        capsys, "refit", tiny_bundle(), "--lora", f"{tmp_path / 'style'}=0.5",
        "--lora", tmp_path / "subject", "-o", tmp_path / "out", "--engine", "onnxruntime", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    checks = {check["name"]: check["measured"] for check in json.loads(done.out)["checks"]}
    # Measured 3e-7 and 1e-6.
    assert checks.keys() == {"text_adapter", "transformer"} and max(checks.values()) <= 1e-5
    bundle = Bundle.open(tmp_path / "out")
    bundle.verify()
    strengths = {str(tmp_path / "style"): 0.5, str(tmp_path / "subject"): 1.0}
    merged = load_checkpoint(hub_folder(), lora=strengths)
    for name, value in network_tensors(bundle).items():
        assert np.array_equal(value, merged.tensors[name]), name
    assert bundle.manifest.adapters is not None
    assert {item.strength for item in bundle.manifest.adapters} == {0.5, 1.0}
    digest = combined_digest(merged.report.adapters)
    assert bundle.manifest.provenance.lora_sha256 == digest
    text = run(capsys, "inspect", bundle.path).out
    assert "at 0.5" in text and "at 1" in text
