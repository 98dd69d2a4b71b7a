"""The JavaScript module in Node and in Chromium, driven by cases in JSON."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WEB = Path(__file__).parent.parent.parent / "runtimes" / "web"
NODE = Path(sys.executable).parent / "node"
ENGINES = ("onnxruntime-web", "onnxruntime-node", "chromium")
# A busy machine; the slowest run of cases takes half a minute on two cores.
_TIMEOUT_S = 400


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call: a kind of ``testing/cases.js`` and its arguments."""

    kind: str
    args: Sequence[Any]


def case(kind: str, *args: Any) -> Case:
    """A case whose first argument may be a bundle's folder."""
    return Case(kind=kind, args=[str(arg) if isinstance(arg, Path) else arg for arg in args])


def run_cases(engine: str, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Run cases on one of ENGINES; each result has ``value`` or ``error``."""
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder) / "cases.json", Path(folder) / "results.json"
        questions.write_text(json.dumps([vars(item) for item in cases]), encoding="utf-8")
        script = ["run_chromium.mjs"] if engine == "chromium" else ["run_node.mjs", engine]
        node(*script, str(questions), str(answers))
        results: list[dict[str, Any]] = json.loads(answers.read_text(encoding="utf-8"))
    return results


def values(engine: str, cases: Sequence[Case]) -> list[Any]:
    """The values of cases that must not fail."""
    results = run_cases(engine, cases)
    errors = [result["error"] for result in results if "error" in result]
    assert errors == []
    return [result.get("value") for result in results]


def node(script: str, *args: str, cwd: Path = WEB) -> str:
    """Run a script of ``testing/``; what it prints."""
    if not (WEB / "node_modules").is_dir():
        raise RuntimeError("the web tests need packages of npm; run: make test-web")
    command = [str(NODE), str(WEB / "testing" / script), *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout.decode()


def floats(text: str) -> np.ndarray:
    """float32 values that a result holds."""
    return np.frombuffer(base64.b64decode(text), np.float32)


def pixels(text: str, size: int) -> np.ndarray:
    """uint8 [size, size, 3] that a result holds."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(size, size, 3)
