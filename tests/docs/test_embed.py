"""The code in docs/guides/embed.md is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minit2i_deploy as m
from tests.helpers.tiny_bundle import tiny_bundle

TEXTS = ["a red circle", "green", ""]


@pytest.fixture(scope="module")
def blocks(repository: Path) -> list[str]:
    text = (repository / "docs" / "guides" / "embed.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def reference() -> Any:
    bundle = m.Bundle.open(tiny_bundle())
    with m.open_runtime(bundle, "onnxruntime", threads=1) as runtime:
        return m.embed(bundle, runtime, TEXTS)


def test_the_graph_used_directly_and_through_optimum(blocks: list[str]) -> None:
    pytest.importorskip("optimum.onnxruntime")
    direct, through = blocks[1:3]
    assert len(direct.strip().splitlines()) <= 16
    names: dict[str, Any] = {"folder": tiny_bundle(), "texts": TEXTS}
    exec(direct, names)
    expected = reference()
    assert np.array_equal(names["mask"], expected.mask)
    actual = names["values"] * names["mask"][..., None]
    # Measured 0: the same graph on the same ids.
    assert np.abs(actual - expected.values).max() <= 1e-6
    exec(through.replace("my-bundle", str(tiny_bundle())), names)
    actual = np.asarray(names["values"]) * names["mask"][..., None]
    assert np.abs(actual - expected.values).max() <= 1e-6


def test_the_python_api(
    blocks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("red\ngreen\n", encoding="utf-8")
    code = blocks[0].replace("my-bundle", str(tiny_bundle())).replace("blue square", "circle")
    code = code.replace('open("captions.txt")', "captions").replace("...  #", "pass  #")
    exec(code, {"captions": captions.read_text().splitlines()})
    assert capsys.readouterr().out.startswith("(2, ")
