"""Ctrl-C at any moment is one line and 130, and never falls into the import of a library."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minit2i_deploy.cli.support.interrupt import sigint_held, uninterrupted_imports
from minit2i_deploy.cli.table import SolverTableOptions
from tests.helpers.cli_runs import run

RAISE = "import signal\nsignal.raise_signal(signal.SIGINT)\n"
INNER = RAISE + "from pathlib import Path\nPath(__file__).with_suffix('.whole').touch()\n"
NAMES = ("heavy_outer", "heavy_inner", "heavy_broken")


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose part is interrupted, and a module that cannot be imported besides."""
    (tmp_path / "heavy_outer").mkdir()
    (tmp_path / "heavy_inner.py").write_text(INNER)
    # As a native library imports: from a call, which an exception must not reach.
    outer = "[*map(__import__, ['heavy_inner'])]\nopen(__file__ + '.whole', 'w').close()\n"
    (tmp_path / "heavy_outer" / "__init__.py").write_text(outer)
    (tmp_path / "heavy_broken.py").write_text(RAISE + "raise ImportError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    # A shell's background jobs ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path
    signal.signal(signal.SIGINT, before)
    for name in NAMES:
        sys.modules.pop(name, None)


def importing(name: str) -> Callable[[SolverTableOptions], None]:
    def work(options: SolverTableOptions) -> None:
        importlib.import_module(name)
        raise AssertionError("an interrupt came and nobody heard of it")

    return work


def test_an_import_is_finished_before_the_interrupt(
    heavy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minit2i_deploy.cli.table.run", importing("heavy_outer"))
    before, finders = signal.getsignal(signal.SIGINT), list(sys.meta_path)
    done = run(capsys, "table")
    assert (done.code, done.out, done.err) == (130, "", "minit2i: interrupted\n")
    assert (heavy / "heavy_inner.whole").exists()
    assert (heavy / "heavy_outer" / "__init__.py.whole").exists()
    assert signal.getsignal(signal.SIGINT) is before and sys.meta_path == finders


def test_an_import_that_fails_too_is_an_interrupt(
    heavy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minit2i_deploy.cli.table.run", importing("heavy_broken"))
    done = run(capsys, "table")
    assert (done.code, done.err) == (130, "minit2i: interrupted\n")


def test_modules_keep_their_loaders(heavy: Path) -> None:
    (heavy / "heavy_inner.py").write_text("value = 3\n")
    with uninterrupted_imports():
        module = importlib.import_module("heavy_inner")
    assert module.value == 3 and type(module.__loader__).__name__ == "SourceFileLoader"


def test_other_threads_import_as_ever(heavy: Path) -> None:
    (heavy / "heavy_inner.py").write_text("value = 3\n")
    actual = []
    with uninterrupted_imports():
        thread = threading.Thread(
            target=lambda: actual.append(importlib.import_module("heavy_inner").value)
        )
        thread.start()
        thread.join()
    assert actual == [3]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with sigint_held() as locked:
            signal.raise_signal(signal.SIGINT)
        assert not locked and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_a_library_brings_stays() -> None:
    before = signal.getsignal(signal.SIGINT)
    came: list[int] = []
    try:
        with sigint_held():
            signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
        signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def process(code: str) -> subprocess.CompletedProcess[str]:
    # As in a terminal: a test run in the background may have SIGINT ignored.
    head = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    tail = "from minit2i_deploy.__main__ import main\nsys.exit(main())\n"
    text = head + textwrap.dedent(code) + tail
    arguments = [sys.executable, "-c", text, "--version"]
    return subprocess.run(arguments, capture_output=True, text=True)


def test_an_interrupt_before_the_command_is_known_is_one_line() -> None:
    done = process(
        """
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "minit2i_deploy.cli.support.parser":
                    signal.raise_signal(signal.SIGINT)
        sys.meta_path.insert(0, Finder())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "minit2i: interrupted\n")


def test_an_interrupt_after_all_is_done_says_nothing() -> None:
    done = process("import atexit\natexit.register(signal.raise_signal, signal.SIGINT)\n")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_the_package_is_the_command() -> None:
    arguments = [sys.executable, "-m", "minit2i_deploy", "--version"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("minit2i ")
