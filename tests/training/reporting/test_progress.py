"""What a progress line shows on a terminal, in a log, and where nobody asked for it."""

from __future__ import annotations

import io

import pytest

from minit2i_deploy.training.reporting import progress as module
from minit2i_deploy.training.reporting.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_when_not_a_terminal() -> None:
    stream = io.StringIO()
    with Progress("run", 3, stream=stream) as progress:
        for done in (1, 2, 3):
            progress.update(done, loss=0.5)
    assert stream.getvalue() == ""


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", 1, log_every_s=0.0) as progress:
        progress.update(1)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("run 1/1")


def test_one_plain_line_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress("run", 9, start=1, log_every_s=30.0, stream=stream) as progress:
        for done, clock in [(2, 1001.0), (3, 1010.0), (5, 1040.0), (6, 1041.0), (9, 1042.0)]:
            now[0] = clock
            progress.update(done, loss=0.12345, score=0.5)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["2/9", "5/9", "9/9"]
    assert lines[1] == "run 5/9 loss=0.1235 score=0.5 elapsed=40s left=40s"
    assert "\r" not in stream.getvalue()


def test_a_bar_with_figures_on_a_terminal() -> None:
    stream = Terminal()
    with Progress("run", 4, start=2, stream=stream) as progress:
        progress.update(4, loss=0.25)
    text = stream.getvalue()
    assert "run" in text and "4/4" in text and "2/4" in text
