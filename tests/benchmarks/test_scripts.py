"""A script's errors are one line, as the command's are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.errors import BundleError, UsageError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# One runs where the package is not installed, one takes nothing that could be wrong.
WITHOUT = {"gpu_first.py", "serve_simulation.py"}
# This one's answer is read by another script.
CHILD = {"regression_cell.py"}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no table\nof that name"), 2, "no table of that name"),
        (BundleError("no bundle there"), 1, "no bundle there"),
        (FileNotFoundError("no such file"), 1, "no such file"),
        (
            subprocess.CalledProcessError(3, ["node", "run.js"]),
            1,
            "a process of this script ended with code 3",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_a_line_and_a_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> int:
        raise error

    monkeypatch.setattr(sys, "argv", ["benchmarks/start_up.py"])
    assert run_script(main) == code
    assert capsys.readouterr().err == f"start_up.py: error: {line}\n"


def test_a_fault_of_ours_stays_a_traceback() -> None:
    def main() -> int:
        raise IndexError("of a list")

    with pytest.raises(IndexError):
        run_script(main)


@pytest.mark.parametrize(("result", "code"), [(0, 0), (1, 1), (None, 0)])
def test_the_code_is_that_of_the_script(result: int | None, code: int) -> None:
    assert run_script(lambda: result) == code


def test_a_script_without_its_bundle_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "generate_memory.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"generate_memory\.py: error: \S+: no bundle there .*\n", done.stderr)


def test_every_script_goes_through_it() -> None:
    scripts = [
        path
        for path in BENCHMARKS.glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        and path.name not in WITHOUT | CHILD
    ]
    assert len(scripts) > 30
    for path in scripts:
        assert "sys.exit(run_script(main))" in path.read_text(encoding="utf-8"), path.name
