"""A full disk, exhausted memory and closed outputs: one line, the right code, nothing half-done."""

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

from minit2i_deploy.cli.support.error_text import explained
from minit2i_deploy.cli.table import SolverTableOptions
from minit2i_deploy.errors import Minit2iError, RuntimeFailure
from minit2i_deploy.io import files
from minit2i_deploy.io.files import append_line, atomic_directory
from tests.helpers.cli_runs import run

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
MEMORY = "out of memory; close other programs or use a smaller batch"


def raising(error: BaseException) -> Callable[[SolverTableOptions], None]:
    def work(options: SolverTableOptions) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), MEMORY),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "a.npy"), MEMORY),
        (RuntimeFailure("a.onnx: std::bad_alloc"), f"a.onnx: std::bad_alloc: {MEMORY}"),
        (OSError(errno.ENOENT, "No such file or directory", "a.bin"), "a.bin: No such file or d"),
        (OSError(errno.ENOSPC, "No space left", "from", None, "to"), "to: No space left"),
    ],
)
def test_errors_of_the_system_are_one_line(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("minit2i_deploy.cli.table.run", raising(error))
    done = run(capsys, "table")
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith(line)


def test_memory_that_lacks_for_the_error_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(error: Exception, extra: str) -> Minit2iError:
        raise MemoryError

    monkeypatch.setattr("minit2i_deploy.cli.table.run", raising(ValueError("no")))
    monkeypatch.setattr("minit2i_deploy.cli.support.error_text.explained", lacking)
    done = run(capsys, "table")
    assert (done.code, done.error) == (1, MEMORY)


def test_what_follows_from_exhausted_memory_does_not_hide_it() -> None:
    try:
        try:
            raise MemoryError
        finally:
            raise ValueError("I/O operation on closed file")
    except ValueError as error:
        assert str(explained(error, "cpu")) == MEMORY


def test_a_full_disk_inside_a_folder_names_the_output(tmp_path: Path) -> None:
    with (
        pytest.raises(Minit2iError, match=r"out: cannot be written: No space left on device$"),
        atomic_directory(tmp_path / "out") as partial,
    ):
        (partial / "half").write_text("half")
        raise FULL
    assert list(tmp_path.iterdir()) == []


def test_other_errors_inside_a_folder_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_line_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Minit2iError, match="/dev/full: cannot be written: No space left"):
        append_line(Path("/dev/full"), "{}")


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.jsonl"
    append_line(path, "first")

    class Short:
        """Writes half, as a disk does that becomes full."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self.stream = open(*arguments, **settings)

        def __enter__(self) -> Short:
            return self

        def __exit__(self, *arguments: object) -> None:
            self.stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, data: bytes) -> int:
            return self.stream.write(data[: len(data) // 2])

    monkeypatch.setattr(files, "open", Short, raising=False)
    with pytest.raises(Minit2iError, match=r"index\.jsonl: cannot be written: No space left"):
        append_line(path, "second")
    assert path.read_text() == "first\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_output_that_is_full_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "minit2i_deploy", "help", "engines"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "minit2i: error: output cannot be written: No space left on device; "
        "free some space there\n",
    )


def test_sigterm_removes_the_lock_and_ends_the_process(tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from minit2i_deploy.io.files import cleanup_on_sigterm\n"
        "from minit2i_deploy.io.lock import output_lock\n"
        "with cleanup_on_sigterm(), output_lock(Path(sys.argv[1])):\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "print('not reached')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")
    assert list(tmp_path.iterdir()) == []
