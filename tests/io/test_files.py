"""Files and folders are whole or not there, also after errors and signals."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.io import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_hash(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "f").write_bytes(data)
    assert files.sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_writing_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    files.atomic_write_bytes(tmp_path / "f", b"old")
    files.atomic_write_text(tmp_path / "f", "new\n\u00e9")
    assert (tmp_path / "f").read_bytes() == b"new\n\xc3\xa9"
    assert names(tmp_path) == ["f"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.atomic_write_bytes(tmp_path / "f", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Minit2iError, match=r"f: cannot be written: No space left") as caught:
        files.atomic_write_bytes(tmp_path / "f", b"new")
    assert not isinstance(caught.value, UsageError)
    assert (tmp_path / "f").read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_places_that_cannot_be_written_are_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "none" / "f", tmp_path / "file" / "f"):
        with pytest.raises(UsageError, match="cannot be written"):
            files.atomic_write_bytes(place, b"x")
    with (
        pytest.raises(UsageError, match="cannot be written"),
        files.atomic_directory(tmp_path / "file" / "folder"),
    ):
        pass
    assert names(tmp_path) == ["file"]


def test_a_parent_without_permission_is_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patched, not chmod: the superuser may write everywhere.
    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(UsageError, match="Permission denied; choose"),
        files.atomic_directory(tmp_path / "a"),
    ):
        pass


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_appears_when_the_block_ends(tmp_path: Path, existing: bool) -> None:
    target = tmp_path / "deep" / "out"
    if existing:
        target.mkdir(parents=True)
    with files.atomic_directory(target) as partial:
        assert partial.parent == target.parent
        assert partial.name == f".out.partial-{os.getpid()}-{socket.gethostname()}"
        (partial / "a").write_text("1")
        assert not target.exists() or not names(target)
    assert names(target) == ["a"] and names(target.parent) == ["out"]


def test_a_full_folder_stays_unless_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(UsageError, match="not empty"), files.atomic_directory(target):
        pass
    with pytest.raises(ZeroDivisionError), files.atomic_directory(target, overwrite=True):
        raise ZeroDivisionError
    assert names(target) == ["old"] and names(tmp_path) == ["out"]
    with files.atomic_directory(target, overwrite=True) as partial:
        (partial / "new").write_text("1")
    assert names(target) == ["new"] and names(tmp_path) == ["out"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("1")
    with (
        pytest.raises(UsageError, match="is a file, expected a folder"),
        files.atomic_directory(tmp_path / "out", overwrite=True),
    ):
        pass


def test_a_failed_move_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("1")
    rename = os.rename

    def flaky(source: Path, destination: Path) -> None:
        if ".partial-" in str(source):
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", flaky)
    with (
        pytest.raises(Minit2iError, match="Input/output error"),
        files.atomic_directory(target, overwrite=True),
    ):
        pass
    assert names(target) == ["old"] and names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_a_broken_block_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), files.atomic_directory(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        raise error
    assert names(tmp_path) == []


def test_sigterm_removes_the_partial_folder_and_still_kills(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from minit2i_deploy.io.files import atomic_directory\n"
        "with atomic_directory(sys.argv[1]) as partial:\n"
        "    (partial / 'a').write_text('1')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == "ready\n"
        assert len(names(tmp_path)) == 1
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == -signal.SIGTERM
        assert child.stderr.read() == ""
    assert names(tmp_path) == []


def test_signal_handlers_are_restored_and_unchanged_in_threads(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with files.atomic_directory(tmp_path / "thread"):
            assert signal.getsignal(signal.SIGTERM) is before

    with files.atomic_directory(tmp_path / "main"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert names(tmp_path) == ["main", "thread"]


def test_what_killed_processes_left_is_removed_but_never_the_only_copy(tmp_path: Path) -> None:
    for name in (".out.partial-7", ".out.replaced-7", ".other.partial-7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(b"")
    files.remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == [".other.partial-7", ".out.replaced-7"]
    (tmp_path / "out").mkdir()
    files.remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == [".other.partial-7", "out"]
