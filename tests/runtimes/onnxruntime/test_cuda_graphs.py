"""CUDA graphs of the step, against a stand-in: trusted only where plain runs agree."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
import weakref
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import CudaGraphWarning, RuntimeFailure, UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes.cuda.capture_gate import CAPTURE_GATE
from minit2i_deploy.runtimes.fake import FakeTrajectory
from minit2i_deploy.runtimes.onnxruntime.cuda_graphs import CHECKED_REPLAYS, CapturedTrajectory
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import CONFIG, write_bundle
from tests.helpers.fakes.fake_onnxruntime import OUT_OF_MEMORY, FakeOrt
from tests.helpers.tiny_bundle import tiny_bundle

WITH_CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")
_VALUES = np.array([0.5, 0.25, -0.5, -1.0, 0.0, 0.0], np.float32)
# Two branches, one, and two again.
ROWS = [
    Row(values=_VALUES, weights=np.array(weights, np.float32))
    for weights in ([3, -2], [1], [3, -2], [1], [2, -1], [2, -1])
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("capture") / "bundle"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeOrt:
    ort = FakeOrt(WITH_CUDA)
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    return ort


def arrays(seed: int, batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, 3, 32, 32)).astype(np.float32)
    shape = (2, batch, CONFIG.num_text_tokens, CONFIG.hidden_size)
    return x, rng.standard_normal(shape).astype(np.float32)


def expected(seed: int, times: int = 1, batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, tokens = arrays(seed, batch)
    state = FakeTrajectory(x, tokens)
    for row in ROWS * times:
        state.step(row)
    return state.state()


def generated(
    runtime: OnnxRuntime, seed: int, times: int = 1, batch: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    state = runtime.start(*arrays(seed, batch))
    for row in ROWS * times:
        state.step(row)
    return state.state()


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_graphs_are_recorded_checked_and_then_replayed_alone(
    bundle: Bundle, fake: FakeOrt, mode: str
) -> None:
    with OnnxRuntime(bundle, provider="cuda", cuda_graph=mode) as runtime:
        actual = generated(runtime, 1, times=4)
        assert all(map(np.array_equal, actual, expected(1, times=4)))
        (session,) = fake.sessions
        # Two branches from either pair, and one from the second.
        assert sorted(session.recorded) == [1, 2, 3]
        assert session.runs.count(-1) == CHECKED_REPLAYS * 3
        session.runs.clear()
        fake.copies.clear()
        assert all(map(np.array_equal, generated(runtime, 2), expected(2)))
        # One replay a row, and no check any more.
        assert len(session.runs) == len(ROWS) and -1 not in session.runs
        assert sorted(session.recorded) == [1, 2, 3]
        assert fake.copies.count("from cuda") == 2
        # x, h, each branch count's tokens; a row and its weights each time.
        assert fake.copies.count("to cuda") == 2 + 2 + 2 * len(ROWS)


def test_recordings_have_cuda_to_themselves(
    bundle: Bundle, fake: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its global mode, a call of another thread ends a recording and fails itself."""
    ran: list[tuple[bool, bool]] = []
    run = fake.InferenceSession.run_with_iobinding

    def noted(session: Any, binding: Any, options: Any = None) -> None:
        before = len(session.recorded)
        run(session, binding, options)
        records = len(session.recorded) > before
        ran.append((records, CAPTURE_GATE._alone is not None))
        assert records or CAPTURE_GATE._shares[threading.get_ident()]

    monkeypatch.setattr(fake.InferenceSession, "run_with_iobinding", noted)
    with OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime:
        state = runtime.start(*arrays(1))
        for row in ROWS:
            state.step(row)
        # And each row by itself, once graphs are trusted.
        state = runtime.start(*arrays(2))
        state.run_rows(ROWS, lambda row: None)
    assert all(records == is_alone for records, is_alone in ran)
    assert sum(records for records, _ in ran) == 3 + len(ROWS)
    assert not CAPTURE_GATE._shares


@pytest.mark.usefixtures("fake")
def test_what_hears_of_rows_may_wait_for_a_recording(bundle: Bundle) -> None:
    def record() -> None:
        with CAPTURE_GATE.alone():
            pass

    def wait_for_another(done: int) -> None:
        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    with OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime:
        for number in (1, 2):
            # Step by step, and in one piece once graphs are trusted.
            runtime.start(*arrays(number)).run_rows(ROWS, lambda row: None, wait_for_another)


@pytest.mark.parametrize("mode", ["off", "on"])
def test_memory_is_not_freed_beside_a_recording(
    bundle: Bundle, fake: FakeOrt, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Nor the session, which the last trajectory of a closed runtime frees."""
    freed: list[bool] = []
    watched: list[weakref.ref[np.ndarray]] = []

    def note(_: object) -> None:
        freed.append(bool(CAPTURE_GATE._shares[threading.get_ident()]))

    for kind in (fake.OrtValue, fake.InferenceSession):
        create = kind.__init__

        def owning(self: Any, *args: Any, create: Any = create, **kwargs: Any) -> None:
            create(self, *args, **kwargs)
            # Freed with its last reference as the library's memory is, not by the collector.
            self.memory = np.zeros(1)
            watched.append(weakref.ref(self.memory, note))

        monkeypatch.setattr(kind, "__init__", owning)
    with OnnxRuntime(bundle, provider="cuda", cuda_graph=mode) as runtime:
        state = runtime.start(*arrays(1))
        state.step(ROWS[0])
    # What the fake itself refers to.
    fake.sessions.clear()
    assert not freed
    del state, runtime
    gc.collect()
    assert len(freed) > 4 and all(freed)


def test_one_session_serves_one_branch_and_two(bundle: Bundle, fake: FakeOrt) -> None:
    for mode in ("off", "on"):
        fake.sessions.clear()
        with OnnxRuntime(bundle, provider="cuda", cuda_graph=mode) as runtime:
            assert all(map(np.array_equal, generated(runtime, 3), expected(3)))
            assert all(map(np.array_equal, generated(runtime, 3, batch=1), expected(3, batch=1)))
        assert len(fake.sessions) == 1
        counts = {len(binding.inputs["weights"]) for binding in fake.sessions[0].bindings}
        assert counts == {1, 2}


def test_living_trajectories_have_places_of_their_own(bundle: Bundle, fake: FakeOrt) -> None:
    with OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime:
        first, second = runtime.start(*arrays(4)), runtime.start(*arrays(5))
        for row in ROWS:
            first.step(row)
            second.step(row)
        assert all(map(np.array_equal, first.state(), expected(4)))
        assert all(map(np.array_equal, second.state(), expected(5)))
        numbers = set(fake.sessions[0].recorded)
        del first, second
        gc.collect()
        generated(runtime, 6)
        assert set(fake.sessions[0].recorded) == numbers
        # Another shape has other memory, so other graphs.
        generated(runtime, 6, batch=1)
        assert set(fake.sessions[0].recorded) > numbers


def test_noise_reaches_the_graph(bundle: Bundle, fake: FakeOrt) -> None:
    x, tokens = arrays(7)
    noises = [np.asfortranarray(np.full_like(x, value)) for value in (0.5, -0.25, 0.125)] * 3
    expected = FakeTrajectory(x.copy(), tokens)
    with OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime:
        state = runtime.start(x, tokens)
        for noise in noises:
            state.step(ROWS[0], noise)
            expected.step(ROWS[0], noise)
        assert all(map(np.array_equal, state.state(), expected.state()))


def test_rows_stay_on_the_device_and_an_image_waits_once(bundle: Bundle, fake: FakeOrt) -> None:
    """After graphs have passed their checks; until then each row is checked as by ``step``."""
    done: list[int] = []
    with OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime:
        for seed in (1, 2, 3):
            state = runtime.start(*arrays(seed))
            assert isinstance(state, CapturedTrajectory)
            fake.copies.clear()
            fake.sessions[0].waits = 0
            state.run_rows(ROWS * 2, lambda row: None, done.append)
            copies, waits = list(fake.copies), fake.sessions[0].waits
            assert all(map(np.array_equal, state.state(), expected(seed, times=2)))
            del state  # its place serves the next one
    # The table of rows and weights, and the tokens of two branches and of one.
    assert copies == ["to cuda"] * (1 + 2) and waits == 1
    assert done == list(range(1, 2 * len(ROWS) + 1)) * 3
    # Noise comes from the host, so such rows run one by one.
    noisy = Row(values=_VALUES, weights=ROWS[0].weights, draws_noise=True)
    noise = np.full((2, 3, 32, 32), 0.5, np.float32)
    with OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime:
        for _ in "12":
            x, tokens = arrays(4)
            state, oracle = runtime.start(x, tokens), FakeTrajectory(x.copy(), tokens)
            assert isinstance(state, CapturedTrajectory)
            state.run_rows([noisy] * 6, lambda row: noise)
            for _ in range(6):
                oracle.step(noisy, noise)
            assert all(map(np.array_equal, state.state(), oracle.state()))


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_a_row_that_cannot_be_recorded_is_run(bundle: Bundle, fake: FakeOrt, mode: str) -> None:
    with OnnxRuntime(bundle, provider="cuda", cuda_graph=mode) as runtime:
        for _ in "12":
            generated(runtime, 1, times=2)
        fake.recording = "failing"
        state = runtime.start(*arrays(5))
        assert isinstance(state, CapturedTrajectory)
        if mode == "on":
            with pytest.raises(RuntimeFailure, match="stream is capturing"):
                state.run_rows(ROWS, lambda row: None)
        else:
            with pytest.warns(CudaGraphWarning, match="stream is capturing"):
                state.run_rows(ROWS, lambda row: None)
            assert all(map(np.array_equal, state.state(), expected(5)))


@pytest.mark.parametrize("fault", ["row", "state", "nothing"])
def test_a_stale_graph_is_found_out(bundle: Bundle, fake: FakeOrt, fault: str) -> None:
    fake.recording = fault
    with (
        OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime,
        pytest.raises(RuntimeFailure, match=r"CUDA graph .* is off by .*; choose cuda_graph=off"),
    ):
        generated(runtime, 8, times=2)
    with OnnxRuntime(bundle, provider="cuda") as runtime:
        with pytest.warns(
            CudaGraphWarning, match="off by .* running without CUDA graphs"
        ) as caught:
            actual = generated(runtime, 8, times=2)
        assert len(caught) == 1
        # The rows before were right, because checked ones keep what the plain run wrote.
        assert all(map(np.array_equal, actual, expected(8, times=2)))
        runs = fake.sessions[-1].runs
        runs.clear()
        assert all(map(np.array_equal, generated(runtime, 9), expected(9)))
        assert set(runs) == {-1}


def test_a_recording_that_fails_is_told(bundle: Bundle, fake: FakeOrt) -> None:
    fake.recording = "failing"
    with (
        OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime,
        pytest.raises(RuntimeFailure, match=r"stream is capturing; cuda_graph=off runs without"),
    ):
        generated(runtime, 1)
    with OnnxRuntime(bundle, provider="cuda") as runtime:
        with pytest.warns(CudaGraphWarning, match="stream is capturing"):
            actual = generated(runtime, 1)
        assert all(map(np.array_equal, actual, expected(1)))


def test_a_session_that_cannot_record_is_told(bundle: Bundle, fake: FakeOrt) -> None:
    fake.recording = "refused"
    with (
        OnnxRuntime(bundle, provider="cuda", cuda_graph="on") as runtime,
        pytest.raises(RuntimeFailure, match=r"cannot use the graph capture feature$"),
    ):
        generated(runtime, 1)
    with OnnxRuntime(bundle, provider="cuda") as runtime:
        with pytest.warns(CudaGraphWarning, match="graph capture feature; running without"):
            state = runtime.start(*arrays(1))
        assert not isinstance(state, CapturedTrajectory)
        assert all(map(np.array_equal, generated(runtime, 1), expected(1)))


def test_off_records_nothing(bundle: Bundle, fake: FakeOrt) -> None:
    with OnnxRuntime(bundle, provider="cuda", cuda_graph="off") as runtime:
        assert all(map(np.array_equal, generated(runtime, 1), expected(1)))
    assert not fake.sessions[0].recorded
    options = fake.sessions[0].provider_options["CUDAExecutionProvider"]
    assert "enable_cuda_graph" not in options


@pytest.mark.parametrize("mode", ["off", "on"])
def test_memory_that_runs_out_at_a_row_is_one_line(
    bundle: Bundle, fake: FakeOrt, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Where another number of branches needs its inputs on the device, and where a state is read;
    an arena that cannot grow is an error of the run, which other tests cover."""

    def full(*_: object) -> Any:
        raise RuntimeError(f"{OUT_OF_MEMORY}and more")

    line = "onnxruntime failed in transformer: out of memory, 12 MB more were needed; use a smaller"
    with OnnxRuntime(bundle, provider="cuda", cuda_graph=mode) as runtime:
        state = runtime.start(*arrays(1))
        state.step(ROWS[0])
        with monkeypatch.context() as patch:
            patch.setattr(fake.OrtValue, "ortvalue_from_numpy", full)
            with pytest.raises(RuntimeFailure) as error:
                state.step(ROWS[1])
            patch.setattr(fake.OrtValue, "numpy", full)
            with pytest.raises(RuntimeFailure) as unread:
                state.state()
        for failure in (error, unread):
            assert str(failure.value).startswith(line) and "\n" not in str(failure.value)
        # Nothing was advanced, and the runtime goes on.
        for row in ROWS[1:]:
            state.step(row)
        assert all(map(np.array_equal, state.state(), expected(1)))


def test_wrong_modes_are_refused(bundle: Bundle, fake: FakeOrt) -> None:
    with pytest.raises(UsageError, match="cuda_graph is 'yes'; choose one of off, on, auto"):
        OnnxRuntime(bundle, provider="cuda", cuda_graph="yes")
    with pytest.raises(UsageError, match="provider cpu records no CUDA graph"):
        OnnxRuntime(bundle, cuda_graph="on")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OnnxRuntime(bundle, cuda_graph="auto").close()


@pytest.mark.gpu
def test_graphs_on_a_gpu_give_what_plain_runs_give() -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")
    bundle = Bundle.open(tiny_bundle())
    table = solver_table("euler", steps=6, interval=(0.3, 0.7))
    images = []
    for mode in ("off", "on"):
        with OnnxRuntime(bundle, provider="cuda", cuda_graph=mode) as runtime:
            options: dict[str, Any] = {"table": table, "guidance": 2.5}
            images += [generate(bundle, runtime, "red", seed=s, **options).x for s in (1, 2, 1)]
    for plain, captured in zip(images[:3], images[3:], strict=True):
        assert np.abs(plain - captured).max() <= 1e-4 * np.abs(plain).max()
    assert not np.array_equal(images[0], images[1])
