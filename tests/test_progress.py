"""The progress line on a terminal and in a log, and progress put together from parts."""

from __future__ import annotations

import io

import pytest

from minit2i_deploy import progress
from minit2i_deploy.progress import ProgressLine, by_count, no_progress, stage_of


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(("elapsed_s", "visible"), [(0.5, False), (1.5, True)])
def test_a_bar_for_work_over_two_seconds(elapsed_s: float, visible: bool, clock: Clock) -> None:
    stream = Terminal()
    with ProgressLine("generate", stream) as line:
        clock.now += elapsed_s
        line(0.5, "row 1/2")
        clock.now += 0.01
        line(0.6)
    drawn = stream.getvalue().split("\r\x1b[K")[1:]
    bar = "#" * 12 + "." * 12
    assert drawn == ([f"generate [{bar}]  50%    2 s left row 1/2", ""] if visible else [])


def test_resumed_work_counts_only_its_time(clock: Clock) -> None:
    stream = Terminal()
    with ProgressLine("run", stream, start=0.5) as line:
        clock.now += 10
        line(0.75, "loss=0.1")
    assert "75%   10 s left loss=0.1" in stream.getvalue()


def test_short_work_writes_nothing_to_a_log(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressLine("generate", stream) as line:
        clock.now += 29
        line(0.5)
        line(1.0)
    assert stream.getvalue() == ""


def test_long_work_writes_a_plain_line_every_30_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressLine("export", stream) as line:
        for share, seconds in [(0.1, 10), (0.25, 20), (0.3, 5), (0.75, 30), (1.0, 1)]:
            clock.now += seconds
            line(share, "torch")
    assert stream.getvalue().splitlines() == [
        "export 25% torch elapsed=30s left=90s",
        "export 75% torch elapsed=65s left=22s",
    ]
    assert "\r" not in stream.getvalue()


def test_a_run_logs_its_first_and_last_step(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressLine("run", stream, start=1 / 9, log_ends=True) as line:
        for done, now in [(2, 101.0), (3, 110.0), (5, 140.0), (6, 141.0), (9, 142.0)]:
            clock.now = now
            line(done / 9, f"{done}/9 loss=0.1235")
    lines = stream.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["2/9", "5/9", "9/9"]
    assert lines[1] == "run 56% 5/9 loss=0.1235 elapsed=40s left=40s"


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("run", log_ends=True) as line:
        line(1.0)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("run 100%")


def test_stages_and_counts_are_shares_of_the_work_they_are_part_of() -> None:
    calls: list[tuple[float, str]] = []

    def keep(share: float, label: str = "", /) -> None:
        calls.append((share, label))

    inner = stage_of(stage_of(keep, 0.5, 1.0, "calibrate"), 0.0, 0.5)
    inner(0.5, "ranges")
    inner(1.0)
    by_count(inner)(1, 4)
    by_count(keep, "files")(0, 0)
    no_progress(0.5, "nobody")
    assert calls == [
        (0.625, "calibrate: ranges"),
        (0.75, "calibrate"),
        (0.5625, "calibrate"),
        (1.0, "files"),
    ]
