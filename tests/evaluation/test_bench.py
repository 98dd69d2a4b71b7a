"""Stages timed in turns, rates from medians, ratios from pairs, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.bench import peak_memory_bytes
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.bench import timing as measuring
from minit2i_deploy.evaluation.bench.estimates import reference_states
from minit2i_deploy.evaluation.bench.stages import STAGES, Subject, prepare_subject, short_texts
from minit2i_deploy.evaluation.bench.timing import Timing, speed_ratios, time_subjects
from minit2i_deploy.evaluation.quality.image_metrics import psnr
from minit2i_deploy.flops import denoiser_flops
from minit2i_deploy.protocol import Trajectory
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.row import Row
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    return clock


def subject(label: str, clock: Clock, calls: list[str], seconds: dict[str, float]) -> Subject:
    def stage(name: str) -> Any:
        def call() -> None:
            calls.append(f"{label} {name}")
            clock.now += seconds[name]

        return call

    return Subject(
        label=label,
        stages={name: stage(name) for name in STAGES},
        flops={"step": 600},
        steps_per_image=10.0,
        num_texts=64,
        noise=np.ones((1, 3, 2, 2), np.float32),
        estimate=lambda x, t: 0.5 * x,
        matrix_rate=1000.0,
    )


def test_subjects_take_turns_and_warm_up_is_not_timed(clock: Clock) -> None:
    calls: list[str] = []
    slow = dict(zip(STAGES, (1.0, 2.0, 3.0, 1.0, 4.0, 8.0), strict=True))
    fast = {name: seconds / 4 for name, seconds in slow.items()}
    subjects = [subject("a", clock, calls, slow), subject("b", clock, calls, fast)]
    first, second = time_subjects(subjects, repeats=3, warm_up=2)
    assert calls[:10] == ["a tokenise", "b tokenise"] * 5
    assert len(calls) == len(STAGES) * 5 * 2
    assert first.timings["adapt"].seconds == (3.0, 3.0, 3.0)
    # 1 + 2 + 3 + 4 once, and ten steps of 1.
    assert first.images_per_s == pytest.approx(1 / 20)
    assert first.texts_per_s == 8.0
    assert first.step_share == 0.6
    assert second.step_share == pytest.approx(2.4)
    assert speed_ratios(first, second) == dict.fromkeys(STAGES, 4.0)


def test_percentiles() -> None:
    timing = Timing(seconds=tuple(float(n) for n in range(1, 22)))
    assert (timing.p50, timing.p95) == (11.0, 20.0)


def test_ratios_are_of_pairs(clock: Clock) -> None:
    calls: list[str] = []
    base = dict.fromkeys(STAGES, 1.0)
    (a,) = time_subjects([subject("a", clock, calls, base)], repeats=3, warm_up=0)
    fields = {"seconds": (1.0, 10.0, 100.0)}
    doubled = {"seconds": (0.5, 5.0, 50.0)}
    one, two = (
        measuring.SubjectTimings(
            label="x", timings={"step": Timing(**item)}, images_per_s=1, texts_per_s=1,
            step_flops=1, matrix_rate=1, difference=0, difference_db=0,
        )
        for item in (fields, doubled)
    )  # fmt: skip
    # A machine that slows down a hundredfold in between does not show.
    assert speed_ratios(one, two) == {"step": 2.0}
    assert a.difference == 0.0


@pytest.mark.parametrize("options", [{"repeats": 0}, {"warm_up": -1}])
def test_wrong_counts_are_refused(clock: Clock, options: dict[str, int]) -> None:
    with pytest.raises(
        UsageError, match="expected repeats of at least 1 and warm-up of at least 0"
    ):
        time_subjects([subject("a", clock, [], dict.fromkeys(STAGES, 1.0))], **options)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b in the current folder, and a matrix rate that costs nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minit2i_deploy.evaluation.bench.stages.numpy_rate", lambda: 1e9)
    return Bundle.open(write_bundle(tmp_path / "b"))


def test_the_stages_of_a_bundle(bundle: Bundle) -> None:
    with FakeRuntime(bundle) as runtime:
        result = prepare_subject("fake", bundle, runtime, prompt="a red circle", num_texts=5)
        assert list(result.stages) == list(STAGES)
        for call in result.stages.values():
            call()
        assert len(list(result.stages["embed"]())) == 5  # type: ignore[call-overload]
    assert result.steps_per_image == 4.0
    assert result.flops["step"] == 2 * denoiser_flops(bundle.config)
    assert result.matrix_rate == 1e9
    with FakeRuntime(bundle) as runtime:
        again = prepare_subject("fake", bundle, runtime, prompt="a red circle")
        assert np.array_equal(result.noise, again.noise)


def test_the_difference_is_that_of_the_estimate(bundle: Bundle) -> None:
    class Rough(FakeRuntime):
        """Estimates that are 3% off, of which a first step of a hundred shows 3e-4."""

        def start(self, x: np.ndarray, tokens: np.ndarray) -> Trajectory:
            return RoughTrajectory(super().start(x, tokens))

    class RoughTrajectory:
        def __init__(self, inner: Trajectory) -> None:
            self.inner = inner

        def step(self, row: Row, noise: np.ndarray | None = None) -> None:
            before = self.inner.state()[0]
            self.inner.step(row, noise)
            x, h = self.inner.state()
            off = 0.03 * (h - np.float32(row.slope) * before)
            self.after = x + row.values[1] * off, h + off

        def state(self) -> tuple[np.ndarray, np.ndarray]:
            return self.after

    with FakeRuntime(bundle) as exact, Rough(bundle) as rough:
        subjects = [
            prepare_subject(label, bundle, runtime, prompt="red", num_texts=1)
            for label, runtime in (("exact", exact), ("rough", rough), ("again", exact))
        ]
        first, second, third = time_subjects(subjects, repeats=1, warm_up=0)
        states = reference_states(subjects[0].estimate, subjects[0].noise)
        expected_db = min(
            float(psnr(subjects[1].estimate(x, t), subjects[0].estimate(x, t))[0])
            for t, x in states
        )
    assert (first.difference, third.difference) == (0.0, 0.0)
    assert second.difference == pytest.approx(0.03, rel=1e-3)
    assert second.difference_db == pytest.approx(expected_db)
    values = second.to_dict()
    assert (values["difference"], values["difference_db"]) == (
        second.difference,
        second.difference_db,
    )


def test_images_of_two_sizes_have_no_difference(clock: Clock) -> None:
    seconds = dict.fromkeys(STAGES, 1.0)
    small = subject("small", clock, [], seconds)
    large = dataclasses.replace(small, noise=np.ones((1, 3, 4, 4), np.float32))
    values = time_subjects([small, large], repeats=1)[1].to_dict()
    assert (values["difference"], values["difference_db"]) == (None, None)


def test_texts_are_all_different_and_always_the_same() -> None:
    texts = short_texts(500)
    assert len(set(texts)) == 500
    assert short_texts(3) == texts[:3]


def test_the_command_prints_a_table_and_json(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("bench", "b", "--runtime", "fake", "--repeats", 2, "--warm-up", 0, "--texts", 3)
    done = run(capsys, *arguments, "--against", "b@fake", "-o", "bench.json")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[1] for line in lines if line[:1] == ["b@fake"]][:6] == list(STAGES)
    assert "peak memory of this process: " in done.out
    values = json.loads(Path("bench.json").read_text())
    assert [item["label"] for item in values["subjects"]] == ["fake", "b@fake"]
    first, second = values["subjects"]
    assert first["ratio_to_first"] == dict.fromkeys(STAGES, 1.0)
    assert (first["difference"], second["difference"]) == (0.0, 0.0)
    assert (first["difference_db"], second["difference_db"]) == (None, None)
    assert len(second["stages"]["step"]["seconds"]) == 2
    assert values["peak_memory_bytes"] > 1_000_000
    values = json.loads(run(capsys, *arguments, "--json").out)
    assert len(values["subjects"]) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--against", "tpu"],
            "--against: expected [BUNDLE@]RUNTIME[:PROVIDER[:PRECISION]] with one of",
        ),
        (["--against", "fake:a:b:c"], "got 'fake:a:b:c'"),
        (["--against", "fake:cuda"], "runtime fake has no --provider"),
        (["--repeats", "0"], "--repeats: expected at least 1, got 0"),
        (["--texts", "0"], "--texts: expected at least 1, got 0"),
        (["-o", "none/b.json"], "none: cannot be written"),
        (["--preset", "none"], "preset 'none' is not in the bundle"),
    ],
)
def test_wrong_use(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    done = run(capsys, "bench", "b", "--runtime", "fake", *arguments)
    assert (done.code, text in done.error) == (2, True)


def test_peak_memory_grows_with_arrays() -> None:
    before = peak_memory_bytes()
    array = np.ones(60_000_000, np.float32)
    after = peak_memory_bytes()
    assert before is not None and after is not None and array.nbytes > 0
    # Over whatever the tests before it had reached.
    assert after >= max(before, array.nbytes)


def test_a_share_above_the_whole_is_explained(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("bench", "b", "--runtime", "fake", "--repeats", 1, "--warm-up", 0, "--texts", 1)
    for share, explained in ((1.3, True), (0.9, False)):
        monkeypatch.setattr(measuring.SubjectTimings, "step_share", share)
        done = run(capsys, *arguments)
        assert done.code == 0
        assert ("share above 100%: either" in done.out) == explained
