"""A refit that a full disk, memory, a signal or a second process meets: all or nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle import weight_replacement
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.runtimes.tensorrt import refit
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.cli_runs import run
from tests.helpers.tensorrt_runs import Bench, make_bench

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SCRIPT = """
import signal, sys
import pytest
from minit2i_deploy.runtimes.tensorrt import refit
from tests.helpers.fakes.fake_cuda import FakeCuda
from tests.helpers.fakes.fake_tensorrt import FakeTensorRt
from tests.helpers.tensorrt_runs import install
cuda, number = FakeCuda(), int(sys.argv[1])
install(pytest.MonkeyPatch(), cuda, FakeTensorRt(cuda, rtx=True))
# The weights are written and one engine is in the cache of the new bundle.
refit.write_engine = lambda *arguments, **named: signal.raise_signal(number)
del sys.argv[1]
from minit2i_deploy.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    write_adapter(tmp_path / "lora")
    return make_bench(monkeypatch, tmp_path / "base", refit=True)


def arguments(bench: Bench) -> list[str]:
    folder = bench.bundle.path.parent
    names = ["refit", str(bench.bundle.path), "--lora", str(folder / "lora")]
    return [*names, "-o", str(folder / "out"), "--engine", "tensorrt-rtx"]


def raising(error: BaseException) -> Callable[..., Any]:
    def work(*arguments: object, **named: object) -> Any:
        raise error

    return work


# In the order of the command: copy, overwrite, set weights, store an engine, compare, end.
STAGES: dict[str, tuple[object, str]] = {
    "copy": (weight_replacement.shutil, "copyfile"),
    "overwrite": (weight_replacement, "_narrowed"),
    "refit": (refit, "refit_plan"),
    "store": (refit, "write_engine"),
    "compare": (sys.modules["minit2i_deploy.runtimes"], "open_runtime"),
    "end": (weight_replacement, "write_manifest"),
}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FULL, 1, "minit2i: error: {}: cannot be written: No space left on device"),
        (MemoryError(), 1, "minit2i: error: out of memory; close other programs"),
        (KeyboardInterrupt(), 130, "minit2i: interrupted"),
    ],
    ids=["disk", "memory", "interrupt"],
)
@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_left_of_a_refit_that_fails(
    stage: str,
    error: BaseException,
    code: int,
    line: str,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, name = STAGES[stage]
    monkeypatch.setattr(place, name, raising(error))
    done = run(capsys, *arguments(bench))
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(line.format(tmp_path / "out")) and done.err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["base", "lora"]
    assert bench.cuda.live()["streams"] == 0


def test_a_second_process_is_refused(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with output_lock(tmp_path / "out"):
        done = run(capsys, *arguments(bench))
    assert (done.code, f"out: process {os.getpid()} is writing it" in done.error) == (1, True)
    assert sorted(os.listdir(tmp_path)) == ["base", "lora"]


def test_a_killed_refit_looks_like_no_bundle_and_the_next_one_clears_it_away(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = _signalled(bench, signal.SIGKILL)
    assert (killed.returncode, killed.stdout, killed.stderr) == (-signal.SIGKILL, "", "")
    left = sorted(set(os.listdir(tmp_path)) - {"base", "lora"})
    assert [name.partition("-")[0] for name in left] == [".out.lock", ".out.partial"]
    ended = _signalled(bench, signal.SIGTERM)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "", "")
    assert sorted(os.listdir(tmp_path)) == ["base", "lora"]
    assert Bundle.open(bench.bundle.path).digest == bench.bundle.digest


def _signalled(bench: Bench, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(int(number)), *arguments(bench)]
    return subprocess.run(command, capture_output=True, text=True)
