"""What ONNX Runtime is asked to open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.runtimes.onnxruntime import runtime, session


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The file of every session that is opened."""
    files: list[Path] = []
    real = session.open_session

    def spied(ort: Any, graph: Path, *arguments: Any, **settings: Any) -> Any:
        files.append(graph)
        return real(ort, graph, *arguments, **settings)

    monkeypatch.setattr(runtime, "open_session", spied)
    return files
