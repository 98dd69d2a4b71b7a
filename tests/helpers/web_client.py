"""The JavaScript module in Node and in Chromium, driven by cases in JSON."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.demo.web_server import address, site_server
from tests.helpers.browser import open_browser

WEB = Path(__file__).parent.parent.parent / "runtimes" / "web"
NODE = Path(sys.executable).parent / "node"
ENGINES = ("onnxruntime-web", "onnxruntime-node", "chromium")
# Chromium with a GPU in software.
WEBGPU = "webgpu"
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
    """Run cases on one of ENGINES or WEBGPU; each result has ``value`` or ``error``."""
    with tempfile.TemporaryDirectory() as folder:
        if engine in ("chromium", WEBGPU):
            return _run_in_chromium(Path(folder), cases, webgpu=engine == WEBGPU)
        questions, answers = Path(folder) / "cases.json", Path(folder) / "results.json"
        questions.write_text(json.dumps([vars(item) for item in cases]), encoding="utf-8")
        node("run_node.mjs", engine, str(questions), str(answers))
        results: list[dict[str, Any]] = json.loads(answers.read_text(encoding="utf-8"))
    return results


def _run_in_chromium(folder: Path, cases: Sequence[Case], *, webgpu: bool) -> list[dict[str, Any]]:
    """The module and the cases' bundles lie under one address."""
    (folder / "web").symlink_to(WEB)
    places: dict[str, str] = {}
    for item in cases:
        if str(item.args[0]).startswith("/") and item.args[0] not in places:
            places[item.args[0]] = f"/bundle{len(places)}/"
            (folder / f"bundle{len(places) - 1}").symlink_to(item.args[0])
    questions = [
        {"kind": item.kind, "args": [places.get(str(item.args[0]), item.args[0]), *item.args[1:]]}
        for item in cases
    ]
    with served(folder) as place, open_browser(webgpu=webgpu) as browser:
        page = browser.new_page()
        page.set_default_timeout(1000 * _TIMEOUT_S)
        page.goto(f"{place}web/testing/cases.html?provider={'webgpu' if webgpu else 'wasm'}")
        page.wait_for_function("window.ready")
        results: list[dict[str, Any]] = page.evaluate("cases => window.run(cases)", questions)
    return results


@contextmanager
def served(folder: Path, *, isolated: bool = True) -> Iterator[str]:
    """Address of a folder's files."""
    server = site_server(folder, isolated=isolated)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address(server)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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
