"""The guide's lines write a checkpoint in the published form, which reads back the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minit2i_deploy.checkpoints import load_checkpoint
from tests.helpers.checkpoint_forms import base_forms, hub_folder


def test_weights_read_back(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "docs" / "guides" / "integrations.md").read_text()
    section = text.partition("## stable-diffusion.cpp")[2]
    code, _ = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    path, _ = base_forms()["torch-training"]
    arguments = '"run/step-020000", lora="my-adapter"'
    assert arguments in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace(arguments, repr(str(path))), "guide", "exec"), {})
    expected, actual = load_checkpoint(path), load_checkpoint(tmp_path / "release")
    assert actual.report.form == "huggingface" and actual.config == expected.config
    for name, value in expected.tensors.items():
        assert np.array_equal(actual.tensors[name], value), name
    # The official reader and stable-diffusion.cpp ask for every tensor of the release.
    name = "diffusion_pytorch_model.safetensors"
    written, published = (
        {key: value.shape for key, value in load_file(folder / name).items()}
        for folder in (tmp_path / "release" / "transformer", hub_folder())
    )
    assert written == published
