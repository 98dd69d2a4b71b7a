"""CUDA graphs of the TensorRT runtime: trusted only after a check, and what happens if not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.errors import CudaGraphWarning
from minit2i_deploy.runtimes.tensorrt.rows import REPLAY_TOLERANCE
from minit2i_deploy.runtimes.tensorrt.runtime import TensorRtRuntime
from minit2i_deploy.runtimes.tensorrt.workspace import MAX_GRAPHS
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.fakes.fake_cuda import cudaError_t
from tests.helpers.tensorrt_runs import GUIDANCE, TABLE, Bench, make_bench, no_noise, start_arrays

Op = Callable[[], None]
UNSUPPORTED = cudaError_t.cudaErrorStreamCaptureUnsupported


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(monkeypatch, tmp_path / "bundle")


def run(bench: Bench, runtime: TensorRtRuntime, steps: int = len(TABLE)) -> np.ndarray:
    state = runtime.start(*start_arrays(bench.bundle))
    state.run_rows(solver_table("euler", steps=steps).steps(GUIDANCE), no_noise)
    return state.state()[0]


@pytest.fixture
def expected(bench: Bench) -> np.ndarray:
    with bench.open(graphs="none") as runtime:
        return run(bench, runtime)


@pytest.mark.parametrize("call", ["BeginCapture", "EndCapture"])
def test_a_refused_capture_falls_back_to_none(
    bench: Bench, expected: np.ndarray, call: str
) -> None:
    bench.cuda.refuse[f"cudaStream{call}"] = UNSUPPORTED
    with bench.open() as runtime:
        with pytest.warns(CudaGraphWarning, match="for all rows is not used: cudaStream") as all_:
            assert np.array_equal(run(bench, runtime), expected)
        assert "one graph a row is used from here on" in str(all_[0].message)
        with pytest.warns(CudaGraphWarning, match="a row is not used: .*; no graph is used"):
            assert np.array_equal(run(bench, runtime), expected)
        assert np.array_equal(run(bench, runtime), expected)
        assert runtime.graphs == "none"
        assert sorted(runtime.graph_refusals) == ["step", "trajectory"]
    assert bench.cuda.launches == 0


def test_a_refused_instantiation_is_a_refused_capture(bench: Bench, expected: np.ndarray) -> None:
    bench.cuda.refuse["cudaGraphInstantiate"] = UNSUPPORTED
    with bench.open() as runtime, pytest.warns(CudaGraphWarning, match="cudaGraphInstantiate"):
        assert np.array_equal(run(bench, runtime), expected)
    assert bench.cuda.live() == {"blocks": 0, "pinned": 0, "streams": 0, "graphs": 0}


def test_an_engine_that_cannot_be_captured_says_so(bench: Bench, expected: np.ndarray) -> None:
    bench.library.capturable = False
    with bench.open() as runtime, pytest.warns(CudaGraphWarning, match="cannot be captured"):
        assert np.array_equal(run(bench, runtime), expected)


def test_what_the_engine_refuses_inside_a_capture_is_no_failure(
    bench: Bench, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = bench.cuda.cudaStreamBeginCapture

    def refuse_runs(*arguments: object) -> object:
        bench.library.accept_runs = False
        return began(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.cuda, "cudaStreamBeginCapture", refuse_runs)
    with bench.open() as runtime:
        with pytest.warns(CudaGraphWarning, match="a test wants it refused"):
            assert np.array_equal(run(bench, runtime), expected)
        bench.library.accept_runs = True
        monkeypatch.setattr(bench.cuda, "cudaStreamBeginCapture", began)
        # One graph a row is used from here on, and works.
        for _ in range(2):
            assert np.array_equal(run(bench, runtime), expected)
        assert runtime.graphs == "step"
        assert bench.cuda.launches > len(TABLE)


def without_last_row(ops: list[Op]) -> list[Op]:
    return ops[:-2]


@pytest.mark.parametrize("graphs", ["trajectory", "step"])
def test_a_stale_replay_is_found_before_it_is_used(
    bench: Bench, expected: np.ndarray, graphs: str
) -> None:
    bench.cuda.at_launch = without_last_row
    message = "its replay is off by .* of the largest value"
    with bench.open(graphs=graphs) as runtime:
        with pytest.warns(CudaGraphWarning, match=message):
            assert np.array_equal(run(bench, runtime), expected)
        assert runtime.replay_error is not None and not runtime.replay_error <= 0.1
        bench.cuda.at_launch = lambda ops: ops
        assert np.array_equal(run(bench, runtime), expected)
        assert runtime.graphs == {"trajectory": "step", "step": "none"}[graphs]


@pytest.mark.parametrize(("size", "trusted"), [(0.1, True), (10.0, False)])
def test_the_tolerance_of_a_replay(bench: Bench, size: float, trusted: bool) -> None:
    with bench.open() as runtime:
        x, tokens = start_arrays(bench.bundle)
        state = runtime.start(x, tokens)
        image = state._space.x[len(TABLE) % 2]

        def off(ops: list[Op]) -> list[Op]:
            def nudge() -> None:
                values = bench.cuda.view(image, x.nbytes).view(np.float32)
                values += np.float32(size * REPLAY_TOLERANCE * np.abs(values).max())

            return [*ops, nudge]

        bench.cuda.at_launch = off
        if not trusted:
            with pytest.warns(CudaGraphWarning, match="off by"):
                state.run_rows(TABLE.steps(GUIDANCE), no_noise)
        else:
            state.run_rows(TABLE.steps(GUIDANCE), no_noise)
        assert runtime.replay_error == pytest.approx(size * REPLAY_TOLERANCE, rel=0.5)
        assert (runtime.graph_refusals == {}) == trusted


def test_graphs_are_kept_by_rows_branches_and_batch(bench: Bench) -> None:
    with bench.open() as runtime:
        captures = itertools.count()
        begin = bench.cuda.cudaStreamBeginCapture

        def counting(*arguments: object) -> object:
            next(captures)
            return begin(*arguments)  # type: ignore[arg-type]

        bench.cuda.cudaStreamBeginCapture = counting  # type: ignore[assignment,method-assign]
        longer, guided = solver_table("euler", steps=6), solver_table(
            "euler", steps=6, interval=(0.0, 0.5)
        )  # fmt: skip
        captured = []
        for table, batch in ((longer, 1), (guided, 1), (longer, 2), (TABLE, 1), (longer, 1)):
            state = runtime.start(*start_arrays(bench.bundle, batch=batch))
            captured.append("capture" in state.run_rows(table.steps(GUIDANCE), no_noise))
            del state
        assert captured == [True, True, True, True, False]
        assert next(captures) == 4


def test_the_graph_that_was_not_used_for_longest_is_dropped(bench: Bench) -> None:
    lengths = range(2, 2 + MAX_GRAPHS)
    with bench.open() as runtime:
        run(bench, runtime, 20)
        for steps in lengths:
            run(bench, runtime, steps)
            # Used again and again, so never the oldest.
            run(bench, runtime, 20)
        held = bench.cuda.live()
        assert held["graphs"] == MAX_GRAPHS

        def captures(steps: int) -> bool:
            state = runtime.start(*start_arrays(bench.bundle))
            table = solver_table("euler", steps=steps)
            return "capture" in state.run_rows(table.steps(GUIDANCE), no_noise)

        assert [captures(steps) for steps in (20, lengths[-1], lengths[0])] == [False, False, True]
        assert bench.cuda.live() == held
    assert bench.cuda.live()["graphs"] == 0


def test_more_rows_than_before_take_new_memory_and_new_graphs(bench: Bench) -> None:
    with bench.open() as runtime, bench.open(graphs="none") as plain:
        for steps in (3, 7, 3, 7):
            assert np.array_equal(run(bench, runtime, steps), run(bench, plain, steps))
        assert runtime.graphs == "trajectory"


def test_graphs_are_dropped_when_the_scratch_memory_moves(
    bench: Bench, expected: np.ndarray
) -> None:
    with bench.open() as runtime:
        assert np.array_equal(run(bench, runtime), expected)
        gpu = runtime._gpu
        gpu.scratch.reserve(gpu.scratch.num_bytes * 4)
        for _ in range(2):
            assert np.array_equal(run(bench, runtime), expected)
        assert runtime.graphs == "trajectory"


def test_steps_and_rows_may_be_mixed(bench: Bench, expected: np.ndarray) -> None:
    rows = TABLE.steps(GUIDANCE)
    with bench.open() as runtime:
        for _ in range(2):
            state = runtime.start(*start_arrays(bench.bundle))
            state.step(rows[0])
            state.run_rows(rows[1:3], no_noise)
            state.step(rows[3])
            state.run_rows(rows[4:], no_noise)
            assert np.array_equal(state.state()[0], expected)
            del state
