"""The guard of speed and memory, with small packages in the place of builds."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import regression
from benchmarks.regression_builds import BuildError, open_build
from benchmarks.regression_cells import CELLS, Measurements

# What the guard calls of a build. A generation writes a line, so that turns can be counted.
PACKAGE = """
import contextlib
from pathlib import Path
from types import SimpleNamespace
SECONDS, LOG = {seconds!r}, Path({log!r})
class Bundle:
    @staticmethod
    def open(path):
        assert (Path(path) / "made by {name}").is_file()
        return path
def solver_table(name, steps):
    return steps
@contextlib.contextmanager
def open_runtime(bundle, name, **options):
    if name == {lacks!r}:
        raise SystemExit("minit2i: error: " + name + " is not installed; pip install it")
    yield None
def generate(bundle, runtime, prompt, seed, table):
    with LOG.open("a") as file:
        file.write("{name} ")
    return SimpleNamespace(timings={{"steps": SECONDS * table}})
"""
MAIN = """
import sys
from pathlib import Path
folder = Path(sys.argv[3])
folder.mkdir()
(folder / "made by {name}").touch()
"""
QUICK = "step/demo/onnxruntime"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def build(folder: Path, log: Path, seconds: float, lacks: str = "") -> Path:
    """A package whose rows take so many seconds, as it says; nothing sleeps."""
    package = folder / "minit2i_deploy"
    package.mkdir(parents=True)
    names = {"name": folder.name, "seconds": seconds, "log": str(log), "lacks": lacks}
    (package / "__init__.py").write_text(PACKAGE.format(**names))
    (package / "__main__.py").write_text(MAIN.format(**names))
    return folder


def run(tmp_path: Path, *arguments: object) -> int:
    work = ("--work", tmp_path / "work", "--rounds", 2)
    return regression.main([str(item) for item in (*work, *arguments)])


@pytest.mark.parametrize(("seconds", "code"), [(0.52, 0), (0.6, 1)])
def test_a_slower_build_is_reported(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str], seconds: float, code: int
) -> None:
    old, new = build(tmp_path / "old", log, 0.5), build(tmp_path / "new", log, seconds)
    assert run(tmp_path, old, "--new", new, "--only", QUICK) == code
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith(f"| {QUICK}"))
    ratio = f"{seconds / 0.5:.3f}"
    assert f"| 0.5 s | {seconds:g} s | {ratio} | {ratio} to {ratio} | 2 |" in line
    assert line.endswith("| worse |") == bool(code)
    # In turns, and each build by itself: one image that is not counted and fifteen.
    turns = log.read_text().split()
    assert turns == (["old"] * 16 + ["new"] * 16) * 2


def test_the_bound_is_the_callers(tmp_path: Path, log: Path) -> None:
    old, new = build(tmp_path / "old", log, 0.5), build(tmp_path / "new", log, 0.6)
    assert run(tmp_path, old, "--new", new, "--only", QUICK, "--bound", 1.25) == 0
    # Nothing is measured twice.
    size = log.stat().st_size
    assert run(tmp_path, old, "--new", new, "--only", QUICK, "--bound", 1.15) == 1
    assert log.stat().st_size == size
    # Another build is, whatever its folder is called.
    shutil.rmtree(new)
    build(new, log, 0.55)
    assert run(tmp_path, old, "--new", new, "--only", QUICK, "--bound", 1.15) == 0
    assert log.stat().st_size == 2 * size


def test_a_killed_run_goes_on(tmp_path: Path, log: Path) -> None:
    old, new = build(tmp_path / "old", log, 0.5), build(tmp_path / "new", log, 0.5)
    assert run(tmp_path, old, "--new", new, "--only", QUICK) == 0
    records = tmp_path / "work" / "measurements.jsonl"
    first, *_ = records.read_text().splitlines(keepends=True)
    records.write_text(first + '{"of": ["step/de')
    log.unlink()
    assert run(tmp_path, old, "--new", new, "--only", QUICK) == 0
    assert log.read_text().split() == ["new"] * 16 + ["old"] * 16 + ["new"] * 16
    values = Measurements(records)
    assert len(values._values) == 4


@pytest.mark.parametrize(
    ("old_lacks", "new_lacks", "code"),
    [("openvino", "openvino", 0), ("openvino", "", 0), ("", "openvino", 1)],
)
def test_what_only_the_new_build_cannot_run_is_worse(
    tmp_path: Path,
    log: Path,
    capsys: pytest.CaptureFixture[str],
    old_lacks: str,
    new_lacks: str,
    code: int,
) -> None:
    old = build(tmp_path / "old", log, 0.5, old_lacks)
    new = build(tmp_path / "new", log, 0.5, new_lacks)
    assert run(tmp_path, old, "--new", new, "--only", "step/demo/openvino-bf16") == code
    side = {("openvino", "openvino"): "old and new", ("openvino", ""): "old"}
    named = side.get((old_lacks, new_lacks), "new")
    reason = "minit2i: error: openvino is not installed; pip install it"
    assert f"not measured ({named}): {reason} |" in capsys.readouterr().out


def test_wheels_and_revisions_are_builds(tmp_path: Path, log: Path, repository: Path) -> None:
    old = build(tmp_path / "old", log, 0.5)
    wheel = tmp_path / "minit2i_deploy-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path in sorted(old.rglob("*.py")):
            file.write(path, path.relative_to(old))
    work = tmp_path / "work"
    unpacked = open_build(str(wheel), work, sys.executable)
    assert unpacked.digest == open_build(str(old), work, sys.executable).digest
    assert unpacked.run("-c", "import minit2i_deploy as m; print(m.SECONDS)").stdout == "0.5\n"
    if (repository / ".git").exists():
        head = open_build("HEAD", work, sys.executable)
        # With the links that a checkout has.
        code = "import minit2i_deploy.runtimes as r; print(r.__file__)"
        done = head.run("-c", code)
        assert done.stdout.startswith(str(head.root)), done.stderr


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("no-such-thing", "OLD is 'no-such-thing', expected a checkout, a wheel or a git revision"),
        ("--upload-pack=x", "expected a checkout, a wheel or a git revision"),
        ("EMPTY", "has no minit2i_deploy in it; pass a checkout or a wheel of it"),
        ("TEXT", "is no wheel; pass a checkout, a wheel or a git revision"),
    ],
)
def test_what_is_no_build_is_one_line(tmp_path: Path, source: str, line: str) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "TEXT").write_text("no wheel")
    place = tmp_path / source
    with pytest.raises(BuildError) as error:
        open_build(str(place) if place.exists() else source, tmp_path / "work", sys.executable)
    assert line in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["x", "--only", "step"], "cell 'step' is unknown; --list prints them"),
        (["x", "--rounds", "0"], "must be at least 1"),
        (["x", "--bound", "nan"], "--bound is nan, expected a positive ratio such as 1.1"),
        ([], "OLD is missing: pass a checkout, a wheel or a git revision"),
        (["no-such-thing"], "OLD is 'no-such-thing'"),
        ([".", "--old-python", "no-python"], "no-python: no such Python"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    try:
        code: Any = regression.main([*arguments, "--work", str(tmp_path)])
    except SystemExit as end:
        code = end.code
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and last.startswith("regression.py: error: ") and line in last


def test_the_interval_holds_the_median() -> None:
    ratios = np.array([0.9, 1.0, 1.0, 1.1, 1.2])
    low, high = regression.interval(ratios)
    assert 0.9 <= low <= 1.0 <= high <= 1.2 and low < high
    assert regression.interval(ratios[:1]) == (0.9, 0.9)


def test_cells_are_those_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert regression.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == list(CELLS)
    kinds = {cell.kind for cell in CELLS.values() if cell.network == "b-16"}
    assert kinds == {"step", "prompt", "texts", "image-memory", "embed-memory"}
    assert {cell.kind for cell in CELLS.values() if cell.network == "demo"} == kinds
    json.dumps([dict(cell.options) for cell in CELLS.values()])
