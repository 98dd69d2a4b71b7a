"""The time to the first row, with small packages in the place of builds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import start_up

# What the script calls of a build; one takes a number of megabytes, or fails.
CLI = """
import sys
from pathlib import Path
from minit2i_deploy.runtimes.base import BaseRuntime
def main(arguments):
    command, bundle = arguments[:2]
    assert command == "generate" and (Path(bundle) / "manifest.json").is_file(), bundle
    if {error!r}:
        print("a first line", file=sys.stderr)
        sys.exit({error!r})
    values = bytearray({megabytes} << 20)
    BaseRuntime().start(values)
"""
BASE = """
class BaseRuntime:
    def start(self, values):
        assert values is not None
"""


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that looks like a bundle, by a path from the working folder."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").touch()
    monkeypatch.chdir(tmp_path)


def build(folder: Path, megabytes: int, error: str = "") -> Path:
    package = folder / "minit2i_deploy"
    (package / "runtimes").mkdir(parents=True)
    for name in ("__init__.py", "__main__.py", "runtimes/__init__.py"):
        (package / name).touch()
    (package / "cli.py").write_text(CLI.format(error=error, megabytes=megabytes))
    (package / "runtimes" / "base.py").write_text(BASE)
    return folder


def test_builds_are_measured_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start_up, "_ROOT", build(tmp_path / "new", 8))
    old = build(tmp_path / "old", 40)
    assert start_up.main(["bundle", "--old", str(old), "--rounds", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["builds"]["old"].startswith(f"{old} (")
    runs = report["runs"]
    assert list(runs) == [
        "python, old",
        "python, new",
        "python, --cache",
        "python, --cache, known prompt",
    ]
    assert all(len(values) == 2 and values[0]["first_row_s"] > 0 for values in runs.values())
    # Each ran its own package: a bytearray is written when it is made.
    apart = runs["python, old"][0]["peak_bytes"] - runs["python, new"][0]["peak_bytes"]
    assert 24 << 20 < apart < 40 << 20
    assert "python, new" in start_up._text(report)


def test_a_build_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_up, "_ROOT", build(tmp_path / "new", 1, "minit2i: error: no engine"))
    old = build(tmp_path / "old", 1)
    with pytest.raises(SystemExit) as end:
        start_up.main(["bundle", "--old", str(old), "--rounds", "1"])
    (line,) = str(end.value.code).splitlines()
    assert line.startswith(f"start_up.py: {tmp_path / 'new'} (")
    assert line.endswith("failed: minit2i: error: no engine")


def test_what_is_no_build_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert start_up.main(["bundle", "--old", "no-such-thing"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("start_up.py: error: OLD is 'no-such-thing', expected a checkout, a ")
