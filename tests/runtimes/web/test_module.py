"""The JavaScript module's types, sizes and names."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.helpers.web_client import NODE, WEB

pytestmark = pytest.mark.web

MAX_FILE_LINES = 300
# 164 kB measured, a third of it comments.
MAX_MODULE_BYTES = 180_000


def test_types() -> None:
    compiler = WEB / "node_modules" / "typescript" / "bin" / "tsc"
    command = [str(NODE), str(compiler), "--project", "tsconfig.json"]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_sizes() -> None:
    sources = list((WEB / "src").rglob("*.js"))
    assert len(sources) > 20
    lines = {path.name: path.read_text("utf-8").count("\n") for path in sources}
    assert [name for name, count in lines.items() if count > MAX_FILE_LINES] == []
    assert sum(path.stat().st_size for path in sources) <= MAX_MODULE_BYTES


def test_public_names_are_those_of_the_guide() -> None:
    text = (WEB / "src" / "index.js").read_text("utf-8")
    names = sorted(
        name.strip()
        for block in re.findall(r"export \{([^}]*)\}", text)
        for name in block.split(",")
        if name.strip()
    )
    assert names == [
        "Bundle", "BundleError", "Cancelled", "Embeddings", "Minit2iError", "Mix", "Model",
        "Result", "RuntimeFailure", "Table", "UrlSource", "UsageError", "open", "readTable",
        "sha256", "sha256Hex", "standardNoise", "toRgba",
    ]  # fmt: skip
