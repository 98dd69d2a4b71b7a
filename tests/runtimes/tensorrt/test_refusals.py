"""What the TensorRT runtime refuses, and what it says when the GPU or the library fails."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure, UsageError
from minit2i_deploy.runtimes import open_runtime, runtime_class
from minit2i_deploy.runtimes.cuda.driver import CudaDriver, CudaFailure
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.fakes.fake_cuda import FakeCuda, cudaError_t
from tests.helpers.fakes.fake_tensorrt import FakeTensorRt
from tests.helpers.tensorrt_runs import (
    GUIDANCE,
    TABLE,
    Bench,
    install,
    make_bench,
    no_noise,
    start_arrays,
)
from tests.helpers.tiny_bundle import tiny_bundle


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(monkeypatch, tmp_path / "bundle")


def test_bad_graphs_option_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="graphs is 'all'; choose one of trajectory, step, none"):
        bench.open(graphs="all")


@pytest.mark.parametrize(("rtx", "extra"), [(True, "rtx"), (False, "tensorrt")])
def test_a_missing_library_names_its_pip_line(
    monkeypatch: pytest.MonkeyPatch, rtx: bool, extra: str
) -> None:
    library = "tensorrt_rtx" if rtx else "tensorrt"
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    name = "tensorrt-rtx" if rtx else "tensorrt"
    line = rf"{library} is not installed; run .* constraints.txt '.\[{extra}\]'$"
    with pytest.raises(MissingDependencyError, match=line):
        open_runtime(Bundle.open(tiny_bundle()), name)


def test_the_other_library_is_named_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    install(monkeypatch, cuda, FakeTensorRt(cuda, rtx=True))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    line = r"tensorrt is not installed \(tensorrt-rtx is; choose that instead\); run in"
    with pytest.raises(MissingDependencyError, match=line):
        open_runtime(Bundle.open(tiny_bundle()), "tensorrt")


def test_missing_cuda_python_names_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    install(monkeypatch, cuda, FakeTensorRt(cuda, rtx=True))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MissingDependencyError, match=r"constraints.txt '.\[rtx\]'"):
        open_runtime(Bundle.open(tiny_bundle()), "tensorrt-rtx")


@pytest.mark.parametrize(
    ("cuda", "message"),
    [
        (FakeCuda(driver=0), "there is no NVIDIA driver on this machine; install it"),
        (FakeCuda(driver=12040), r"knows CUDA 12\.4, but 13\.5 is needed; install a newer"),
        (FakeCuda(gpus=()), "device is 0, but this machine has no NVIDIA GPU"),
    ],
)
def test_a_machine_that_cannot_run_it_says_why(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, message: str
) -> None:
    install(monkeypatch, cuda, FakeTensorRt(cuda, rtx=True))
    with pytest.raises((RuntimeFailure, UsageError), match=message) as caught:
        open_runtime(Bundle.open(tiny_bundle()), "tensorrt-rtx")
    assert "\n" not in str(caught.value)


def test_no_engine_names_the_build_line(bench: Bench) -> None:
    for folder in (bench.bundle.path / "engines").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with bench.open() as runtime:
        with pytest.raises(RuntimeFailure, match=r"run: minit2i build \S+ --engine tensorrt-rtx"):
            runtime.start(*start_arrays(bench.bundle))


def test_a_batch_beyond_the_profile_is_refused(bench: Bench) -> None:
    with bench.open() as runtime:
        runtime.start(*start_arrays(bench.bundle))
        with pytest.raises(RuntimeFailure, match=r"accepts batch from 1 to 4, got 5"):
            runtime.start(*start_arrays(bench.bundle, batch=5))


def test_a_profile_that_cannot_be_set_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real binding raises an error of its own there, where it elsewhere returns false."""
    tight = {name: (1, 1, 1) for name in ("n", "tokens", "batch", "branches", "sequences")}
    bench = make_bench(monkeypatch, tmp_path / "bundle", extra_profiles=[tight])
    with bench.open() as runtime:
        state = runtime.start(*start_arrays(bench.bundle))
        monkeypatch.setattr(bench.cuda, "enqueue", lambda handle, op: False)
        with pytest.raises(RuntimeFailure, match="plan: profile 1") as caught:
            state.run_rows(TABLE.steps(GUIDANCE), no_noise)
    assert "\n" not in str(caught.value)


def test_a_plan_that_the_library_refuses_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rtx, message in (
        (True, "it was built by another version of the library; run minit2i build"),
        (False, r"tensorrt 10\.15\.1 refuses this engine: version mismatch"),
    ):
        bench = make_bench(monkeypatch, tmp_path / str(rtx), rtx=rtx, plan_version="1.0")
        with bench.open() as runtime, pytest.raises(RuntimeFailure, match=message):
            runtime.start(*start_arrays(bench.bundle))


def test_too_little_memory_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(memory=1 << 20)
    bench = make_bench(monkeypatch, tmp_path / "bundle", cuda=cuda, scratch=8 << 20)
    with bench.open() as runtime:
        state = runtime.start(*start_arrays(bench.bundle))
        rows = TABLE.steps(GUIDANCE)
        message = r"scratch memory needs 8\.0 MiB of memory on Fake RTX 4090, but 0\.\d of 1\.0 MiB"
        with pytest.raises(RuntimeFailure, match=message) as caught:
            state.run_rows(rows, no_noise)
        assert "lower the batch" in str(caught.value)
    assert bench.cuda.live()["blocks"] == 0


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_on_the_card_names_the_row(bench: Bench, debug: bool) -> None:
    x, tokens = start_arrays(bench.bundle)
    rows = solver_table("euler", steps=9).steps(GUIDANCE)
    runtime = bench.open(debug=debug)
    state = runtime.start(x, tokens)
    state.run_rows(rows, no_noise)
    assert runtime.graphs == ("none" if debug else "trajectory")
    bench.cuda.fault_at_kernel = bench.cuda.kernels + 6
    again = runtime.start(x, tokens)
    with pytest.raises(
        RuntimeFailure, match=r"bundle: tensorrt_rtx failed in transformer at row 6"
    ):
        again.run_rows(rows, no_noise)
    assert bench.cuda.dead is cudaError_t.cudaErrorIllegalAddress
    # A GPU that failed stays so, and closing says nothing further.
    with pytest.raises(RuntimeFailure, match="illegaladdress"):
        runtime.start(x, tokens)
    runtime.close()


def test_a_fault_between_steps_names_the_row(bench: Bench) -> None:
    x, tokens = start_arrays(bench.bundle)
    rows = TABLE.steps(GUIDANCE)
    runtime = bench.open(graphs="none")
    state = runtime.start(x, tokens)
    bench.cuda.fault_at_kernel = bench.cuda.kernels + 3
    with pytest.raises(RuntimeFailure, match="failed in transformer at row 3: "):
        for row in rows:
            state.step(row)
    runtime.close()


def test_a_run_that_the_library_refuses_gives_its_reason(bench: Bench) -> None:
    rows = TABLE.steps(GUIDANCE)
    with bench.open() as runtime:
        state = runtime.start(*start_arrays(bench.bundle))
        bench.library.accept_runs = False
        with pytest.raises(RuntimeFailure, match=r"failed in transformer.*a test wants it refused"):
            state.run_rows(rows, no_noise)


@pytest.mark.parametrize("rtx", [True, False])
def test_a_toy_proves_a_library(monkeypatch: pytest.MonkeyPatch, rtx: bool) -> None:
    cuda = FakeCuda()
    library = FakeTensorRt(cuda, rtx=rtx)
    install(monkeypatch, cuda, library)
    (test,) = runtime_class("tensorrt-rtx" if rtx else "tensorrt").self_tests()
    # Measured 2e-7.
    assert test.run() <= 1e-5
    assert cuda.live() == {"blocks": 0, "pinned": 0, "streams": 0, "graphs": 0}
    library.accept_builds = False
    with pytest.raises(RuntimeFailure, match="cannot build a toy engine: a test wants no toy"):
        test.run()
    cuda.gpus = ()
    with pytest.raises(UsageError, match="no NVIDIA GPU"):
        test.run()


def test_a_trajectory_of_a_closed_runtime_refuses(bench: Bench) -> None:
    rows = TABLE.steps(GUIDANCE)
    with bench.open() as runtime:
        state = runtime.start(*start_arrays(bench.bundle))
    for call in (state.state, lambda: state.step(rows[0])):
        with pytest.raises(RuntimeFailure, match="runtime tensorrt-rtx is closed; open it again"):
            call()
    with pytest.raises(RuntimeFailure, match="runtime tensorrt-rtx is closed"):
        runtime.start(*start_arrays(bench.bundle))


def test_what_a_copy_reads_goes_though_the_wait_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    install(monkeypatch, cuda, FakeTensorRt(cuda, rtx=True))
    driver = CudaDriver(0, "rtx")
    stream, address = driver.new_stream(), driver.allocate(4096, "a source")
    array = np.zeros(1024, np.float32)
    source = weakref.ref(array)
    driver.to_device(address, array, stream)
    del array
    assert source() is not None
    cuda.dead = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(CudaFailure):
        driver.wait(stream)
    assert source() is None
