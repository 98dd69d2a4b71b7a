"""A download that a full disk, memory, a signal or a second process meets: one line, resumable."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minit2i_deploy.io.lock import output_lock
from tests.helpers.cli_runs import run
from tests.helpers.fake_hub import FakeHub, install, make_hub

INTERRUPTED = "minit2i: interrupted: {} is not complete; the same command resumes the download\n"
# As in a terminal: a test run in the background may have SIGINT ignored.
SCRIPT = """
import signal, sys
from pathlib import Path
import pytest
from tests.helpers.fake_hub import install, open_hub
signal.signal(signal.SIGINT, signal.default_int_handler)
hub, number = open_hub(Path(sys.argv[1])), int(sys.argv[2])
copy = hub.hf_hub_download
def download(*arguments, **named):
    if len([call for call in hub.calls if call[0] == "download"]) == 1:
        signal.raise_signal(number)
    return copy(*arguments, **named)
hub.hf_hub_download = download
install(pytest.MonkeyPatch(), hub)
del sys.argv[1:3]
from minit2i_deploy.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = make_hub(tmp_path / "hub")
    install(monkeypatch, fake)
    return fake


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "out: cannot be written: No space left"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), "f: cannot be written: No space"),
        (MemoryError(), "out of memory; close other programs"),
        (RuntimeError("std::bad_alloc"), "MiniT2I/MiniT2I: cannot reach the hub (std::bad_alloc)"),
    ],
)
def test_a_file_that_cannot_be_stored_is_one_line(
    fails: Exception,
    line: str,
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.fails, hub.only_files = fails, True
    done = run(capsys, "pull", "b16", "--output", "out")
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith(line)
    assert json.loads(Path("out/pull.json").read_text())["complete"] is False
    assert sorted(os.listdir()) == ["hub", "out"]
    hub.fails = None
    assert run(capsys, "pull", "b16", "--output", "out").code == 0


def test_a_library_that_does_not_say_that_the_disk_is_full(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minit2i_deploy.checkpoints.pull.disk_is_full", lambda folder: True)
    hub.fails, hub.only_files = RuntimeError("Data processing error"), True
    done = run(capsys, "pull", "b16", "--output", "out")
    assert (done.code, done.error) == (1, "out: cannot be written: No space left on device")


def test_a_disk_without_room_for_the_record_leaves_no_folder(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = run(capsys, "pull", "b16", "--output", tmp_path / "new" / "out")
    assert done.code == 1
    assert done.error.endswith("pull.json: cannot be written: No space left on device")
    assert os.listdir(tmp_path) == ["hub"]


def test_a_second_process_is_refused(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with output_lock(out):
        done = run(capsys, "pull", "b16", "--output", out)
    assert (done.code, f"out: process {os.getpid()} is writing it" in done.error) == (1, True)
    assert not out.exists() and hub.calls == []


@pytest.mark.parametrize(
    ("number", "code", "line", "names"),
    [
        (signal.SIGINT, 130, INTERRUPTED, ["hub", "out"]),
        (signal.SIGTERM, -signal.SIGTERM, "", ["hub", "out"]),
        (signal.SIGKILL, -signal.SIGKILL, "", [".out.lock", "hub", "out"]),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_a_signal_between_two_files(
    number: signal.Signals,
    code: int,
    line: str,
    names: list[str],
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "out")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "hub"), str(int(number))]
    done = subprocess.run(
        [*command, "pull", "b16", "--output", out], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", line.format(out))
    assert sorted(os.listdir(tmp_path)) == names
    assert json.loads((tmp_path / "out" / "pull.json").read_text())["complete"] is False
    # The next one takes over what a killed one has left.
    assert run(capsys, "pull", "b16", "--output", out).code == 0
    assert sorted(os.listdir(tmp_path)) == ["hub", "out"]
