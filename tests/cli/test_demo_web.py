"""minit2i demo --web: a page on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from minit2i_deploy.cli import main
from minit2i_deploy.demo import web_packages
from minit2i_deploy.demo.web_packages import library_folder
from minit2i_deploy.errors import Minit2iError, MissingDependencyError


@pytest.mark.web
def test_the_page_is_served_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minit2i_deploy", "demo", "--web"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "DISPLAY": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        place = running.stdout.readline().split(" ")[0]
        with urllib.request.urlopen(f"{place}ort/ort.wasm.min.mjs", timeout=60) as answer:
            assert answer.headers["Content-Type"] == "text/javascript"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--port", "3"], "--port is the page's; add --web, or omit it"),
        (["--web", "--json"], "--web opens a page and nothing else; omit --export and --json"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *options]) == 2
    assert line in capsys.readouterr().err


def test_a_missing_npm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package.json").write_text('{"devDependencies": {"onnxruntime-web": "1.0.0"}}')
    monkeypatch.setattr(web_packages, "WEB", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"to fetch onnxruntime-web@1\.0\.0; run: pip"):
        library_folder(tmp_path / "cache")


def test_npm_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package.json").write_text('{"devDependencies": {"onnxruntime-web": "1.0.0"}}')
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(web_packages, "WEB", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        Minit2iError, match=r"cannot fetch onnxruntime-web@1\.0\.0: no network; check"
    ):
        library_folder(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
