"""The Python code in README.md is run as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image


def test_the_python_example(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 8
    # Where the ready bundle is written and the image saved.
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    with Image.open("circle.png") as image:
        assert image.size == (64, 64)
