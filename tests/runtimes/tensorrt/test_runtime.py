"""The TensorRT runtime on a fake GPU whose engines run the bundle's ONNX graphs.

Values are compared with runtime onnxruntime, which runs the same graphs with the same library.
"""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.generate import generate, trajectory
from minit2i_deploy.protocol import RowsTrajectory
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.cuda.driver import CudaDriver
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.fakes.fake_cuda import FakeCuda
from tests.helpers.fakes.fake_tensorrt_configs import JitCache
from tests.helpers.tensorrt_runs import (
    GUIDANCE,
    TABLE,
    Bench,
    make_bench,
    no_noise,
    start_arrays,
    write_fake_engine,
)
from tests.helpers.tiny_bundle import tiny_bundle

# The fake engine is onnxruntime with one thread: measured 0 on one thread, 4e-6 on two (of 4).
MAX_ABS_ERROR = 3e-5
PROMPTS = ["a red", "two blue"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(monkeypatch, tmp_path / "bundle")


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    bundle = Bundle.open(tiny_bundle())
    with OnnxRuntime(bundle, threads=1) as runtime:
        result = generate(bundle, runtime, PROMPTS, seed=[3, 4], table=TABLE, guidance=GUIDANCE)
    return result.x


@pytest.mark.parametrize("graphs", ["trajectory", "none"])
def test_known_bytes_stay_and_the_rest_is_that_of_onnxruntime(bench: Bench, graphs: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image, mask = Image.fromarray(pixels), np.zeros((32, 32), np.float32)
    mask[:, 16:] = 1
    edit = {"init_image": image, "strength": 0.8, "known": image, "mask": mask}
    with OnnxRuntime(bench.bundle, threads=1) as runtime:
        expected = generate(bench.bundle, runtime, PROMPTS, seed=[3, 4], table=TABLE, **edit).x
    with open_runtime(bench.bundle, "tensorrt-rtx", graphs=graphs) as runtime:
        # Without an edit in between: a captured graph must not keep the pixels.
        for changes in (edit, {}, edit):
            result = generate(bench.bundle, runtime, PROMPTS, seed=[3, 4], table=TABLE, **changes)
            stays = [
                np.array_equal(np.asarray(one)[:, :16], pixels[:, :16]) for one in result.images
            ]
            assert stays == [bool(changes)] * 2
    assert np.abs(result.x - expected).max() <= MAX_ABS_ERROR


@pytest.mark.parametrize("rtx", [True, False])
@pytest.mark.parametrize("graphs", ["trajectory", "step", "none"])
def test_images_are_those_of_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray, graphs: str, rtx: bool
) -> None:
    bench = make_bench(monkeypatch, tmp_path / "bundle", rtx=rtx)
    name = "tensorrt-rtx" if rtx else "tensorrt"
    with open_runtime(bench.bundle, name, graphs=graphs) as runtime:
        for _ in range(3):
            result = generate(
                bench.bundle, runtime, PROMPTS, seed=[3, 4], table=TABLE, guidance=GUIDANCE
            )
            assert np.abs(result.x - expected).max() <= MAX_ABS_ERROR
        assert runtime.graphs == graphs  # type: ignore[attr-defined]
        assert runtime.graph_refusals == {}  # type: ignore[attr-defined]
        frames = [
            frame.x()
            for frame in trajectory(
                bench.bundle, runtime, PROMPTS, seed=[3, 4], table=TABLE, guidance=GUIDANCE
            )
        ]
        assert np.array_equal(frames[-1], result.x)
    assert bench.cuda.live() == {"blocks": 0, "pinned": 0, "streams": 0, "graphs": 0}


def test_a_steady_image_is_one_launch_and_six_copies(bench: Bench) -> None:
    x, tokens = start_arrays(bench.bundle)
    rows = TABLE.steps(GUIDANCE)
    with bench.open() as runtime:
        first = runtime.start(x, tokens)
        assert isinstance(first, RowsTrajectory)
        assert "capture" in first.run_rows(rows, no_noise)
        first_state = first.state()
        del first
        bench.cuda.copies.clear()
        bench.cuda.launches = 0
        state = runtime.start(x, tokens)
        assert state.run_rows(rows, no_noise) == {}
        for actual, right in zip(state.state(), first_state, strict=True):
            assert np.array_equal(actual, right)
        assert bench.cuda.launches == 1
        assert runtime.replay_error == 0.0
        # There: the start state and the rows, the tokens being there. Back: the count of each row
        # and the final state.
        image = x.nbytes
        sizes = [size for kind, size in bench.cuda.copies if kind == "to"]
        assert sizes[0] == image and len(sizes) == 2
        back = [size for kind, size in bench.cuda.copies if kind == "from"]
        assert back == [4] * len(TABLE) + [image, image]


def test_only_tokens_that_changed_are_sent(bench: Bench) -> None:
    x, tokens = start_arrays(bench.bundle)
    with bench.open() as runtime:
        runtime.start(x, tokens).state()
        bench.cuda.copies.clear()
        other = tokens.copy()
        other[0] += 1
        runtime.start(x, other).state()
        sent = [size for kind, size in bench.cuda.copies if kind == "to"]
        assert sorted(sent) == sorted([tokens[0, 0].nbytes, x.nbytes])


def test_a_prompt_is_encoded_and_adapted_once(bench: Bench) -> None:
    with bench.open() as runtime:
        for prompt in ("a red", "a red", "a blue", "a red"):
            generate(bench.bundle, runtime, prompt, table=TABLE, guidance=GUIDANCE)
        runs = bench.library.runs
        assert runs.count("text_adapter") == 3  # two prompts and none
        assert runs.count("text_encoder") == 3  # the probe and two prompts
    bench.library.runs.clear()
    with bench.open(keep_prompts=False) as runtime:
        for _ in range(2):
            generate(bench.bundle, runtime, "a red", table=TABLE, guidance=GUIDANCE)
        assert bench.library.runs.count("text_adapter") == 4


def test_a_kept_result_is_a_fresh_one(bench: Bench) -> None:
    rng = np.random.default_rng(0)
    config = bench.bundle.config
    shape = (3, config.prompt_length, config.txt_input_size)
    context, mask = rng.standard_normal(shape, dtype=np.float32), np.ones(shape[:2], np.int64)
    with bench.open() as runtime:
        together = runtime.adapt(context, mask)
        # An edit that the key's few values do not see.
        edited = context.copy()
        edited[1, 3, 5] += 1
        changed = runtime.adapt(edited, mask)
    with bench.open() as runtime:
        assert np.array_equal(runtime.adapt(context[1:2], mask[1:2]), together[1:2])
        assert np.array_equal(runtime.adapt(edited[1:2], mask[1:2]), changed[1:2])
    assert np.array_equal(changed[::2], together[::2])
    assert not np.array_equal(changed[1], together[1])


def test_rows_with_fewer_branches_have_contexts_of_their_own(bench: Bench) -> None:
    table = solver_table("euler", steps=6, interval=(0.3, 0.7))
    for _ in range(2):
        with bench.open() as runtime, OnnxRuntime(bench.bundle, threads=1) as other:
            results = [
                generate(bench.bundle, each, "red", table=table, guidance=3.0).x
                for each in (runtime, runtime, other)
            ]
            assert runtime.graphs == "trajectory"
            assert np.array_equal(results[0], results[1])
            assert np.abs(results[1] - results[2]).max() <= MAX_ABS_ERROR


def test_fresh_noise_comes_between_rows(bench: Bench) -> None:
    table = solver_table("sde", steps=4)
    with bench.open() as runtime, OnnxRuntime(bench.bundle, threads=1) as other:
        first, second, expected = (
            generate(bench.bundle, each, "red", table=table, guidance=2.0).x
            for each in (runtime, runtime, other)
        )
        assert runtime.graphs == "step"
    assert np.array_equal(first, second)
    assert np.abs(first - expected).max() <= MAX_ABS_ERROR


def test_two_trajectories_at_once_do_not_share_memory(bench: Bench) -> None:
    x, tokens = start_arrays(bench.bundle)
    rows = TABLE.steps(GUIDANCE)
    with bench.open() as runtime:
        alone = runtime.start(x, tokens)
        alone.run_rows(rows, no_noise)
        expected = alone.state()[0]
        first, second = runtime.start(x, tokens), runtime.start(-x, tokens)
        for row in rows:
            first.step(row)
            second.step(row)
        assert np.array_equal(first.state()[0], expected)
        assert not np.array_equal(second.state()[0], expected)


def test_progress_counts_what_the_card_has_done(bench: Bench) -> None:
    x, tokens = start_arrays(bench.bundle)
    rows = solver_table("euler", steps=12).steps(GUIDANCE)
    with bench.open() as runtime:
        for _ in range(2):
            reported: list[int] = []
            runtime.start(x, tokens).run_rows(rows, no_noise, reported.append)
            assert reported == sorted(set(reported))
            assert reported[-1] == 12 and len(reported) > 2


def test_leaving_the_loop_cancels_and_the_next_image_is_right(
    bench: Bench, expected: np.ndarray
) -> None:
    settings = {"seed": [3, 4], "table": TABLE, "guidance": GUIDANCE}
    with bench.open() as runtime:
        for frame in trajectory(bench.bundle, runtime, PROMPTS, **settings):  # type: ignore[arg-type]
            if frame.index == 2:
                break
        assert bench.library.runs.count("transformer") <= 3 * 2  # a check runs a row twice
        del frame
        result = generate(bench.bundle, runtime, PROMPTS, **settings)  # type: ignore[arg-type]
        assert np.abs(result.x - expected).max() <= MAX_ABS_ERROR


def test_an_interrupt_while_rows_run_leaves_the_runtime_usable(bench: Bench) -> None:
    x, tokens = start_arrays(bench.bundle)
    rows = solver_table("euler", steps=12).steps(GUIDANCE)

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with bench.open() as runtime:
        state = runtime.start(x, tokens)
        state.run_rows(rows, no_noise)
        expected = state.state()[0]
        with pytest.raises(KeyboardInterrupt):
            runtime.start(x, tokens).run_rows(rows, no_noise, interrupt)
        again = runtime.start(x, tokens)
        again.run_rows(rows, no_noise)
        assert np.array_equal(again.state()[0], expected)


def test_sizes_of_batches_come_and_go(bench: Bench) -> None:
    with bench.open() as runtime, OnnxRuntime(bench.bundle, threads=1) as other:
        for count in (1, 2, 3, 4, 1):
            prompts = PROMPTS * 2
            actual, right = (
                generate(bench.bundle, each, prompts[:count], table=TABLE, guidance=2.0).x
                for each in (runtime, other)
            )
            assert np.abs(actual - right).max() <= MAX_ABS_ERROR


def test_another_thread_is_refused(bench: Bench) -> None:
    caught: list[Exception] = []
    with bench.open() as runtime:
        x, tokens = start_arrays(bench.bundle)
        state = runtime.start(x, tokens)

        def use() -> None:
            for call in (lambda: runtime.start(x, tokens), state.state):
                try:
                    call()
                except RuntimeFailure as error:
                    caught.append(error)

        thread = threading.Thread(target=use, name="other")
        thread.start()
        thread.join()
    message = "opened in thread 'MainThread', but is called from 'other'; open one runtime in each"
    assert [message in str(error) for error in caught] == [True, True]


def test_cards_are_chosen_by_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(gpus=(("Fake RTX 4090", 89), ("Fake RTX 4090", 89)))
    bench = make_bench(monkeypatch, tmp_path / "bundle", cuda=cuda)
    x, tokens = start_arrays(bench.bundle)
    rows = TABLE.steps(GUIDANCE)
    with bench.open(device=1) as second, bench.open() as first:
        states = [runtime.start(x, tokens) for runtime in (second, first)]
        for state in states:
            state.run_rows(rows, no_noise)
        one, other = (state.state()[0] for state in states)
        assert np.array_equal(one, other)
        assert {device for device, _ in cuda.blocks.values()} == {0, 1}
    with pytest.raises(UsageError, match="device is 2, but this machine has 2 NVIDIA GPUs; count"):
        bench.open(device=2)


def test_compiled_kernels_are_kept_beside_the_engine(bench: Bench) -> None:
    for _ in range(2):
        with bench.open() as runtime:
            generate(bench.bundle, runtime, "red", table=TABLE)
    stored = sorted(bench.bundle.path.glob("engines/*/kernels.cache"))
    assert [path.read_bytes() for path in stored] == [b"kernels"] * 3
    kinds = {
        (context.engine.stored["onnx"].split("/")[-2], str(context.config.dynamic_shapes_kernel_specialization_strategy.name))  # noqa: E501
        for context in bench.library.contexts
    }  # fmt: skip
    assert kinds == {("text_encoder", "NONE"), ("text_adapter", "NONE"), ("transformer", "EAGER")}
    # A cache beside the plan is no damage.
    with bench.open() as runtime:
        generate(bench.bundle, runtime, "red", table=TABLE)


def test_where_no_kernel_was_compiled_nothing_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library then gives None for its empty cache."""
    monkeypatch.setattr(JitCache, "serialize", lambda self: None)
    with bench.open() as runtime:
        generate(bench.bundle, runtime, "red", table=TABLE)
    assert sorted(bench.bundle.path.glob("engines/*/kernels.cache")) == []


def test_what_a_copy_reads_stays_until_the_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where host and GPU share memory, a copy may read its source after the call."""
    to_device, wait = CudaDriver.to_device, CudaDriver.wait
    sources: list[weakref.ref[np.ndarray]] = []
    alive: list[bool] = []

    def copy(driver: CudaDriver, address: int, values: np.ndarray, stream: Any) -> None:
        sources.append(weakref.ref(values))
        to_device(driver, address, values, stream)

    def look_and_wait(driver: CudaDriver, stream: Any) -> None:
        alive.extend(source() is not None for source in sources)
        sources.clear()
        wait(driver, stream)

    monkeypatch.setattr(CudaDriver, "to_device", copy)
    monkeypatch.setattr(CudaDriver, "wait", look_and_wait)
    with bench.open() as runtime:
        generate(bench.bundle, runtime, PROMPTS, seed=[3, 4], table=TABLE, guidance=GUIDANCE)
    assert alive and all(alive)


def test_a_second_engine_is_opened_for_a_larger_batch(bench: Bench) -> None:
    sizes = {"batch": (5, 6, 8), "branches": (1, 2, 2), "sequences": (5, 12, 16)}
    write_fake_engine(bench.bundle, "transformer", bench.library, sizes=sizes)
    rows = TABLE.steps(GUIDANCE)
    with bench.open() as runtime:
        for batch in (1, 6):
            state = runtime.start(*start_arrays(bench.bundle, batch=batch))
            state.run_rows(rows, no_noise)
            assert np.isfinite(state.state()[0]).all()


def test_a_second_profile_of_one_engine_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray
) -> None:
    tight = {name: (1, 1, 1) for name in ("n", "tokens", "batch", "branches", "sequences")}
    bench = make_bench(monkeypatch, tmp_path / "bundle", extra_profiles=[tight])
    with bench.open() as runtime:
        result = generate(
            bench.bundle, runtime, PROMPTS, seed=[3, 4], table=TABLE, guidance=GUIDANCE
        )
        assert np.abs(result.x - expected).max() <= MAX_ABS_ERROR
    used = {context.active_optimization_profile for context in bench.library.contexts}
    assert used == {0, 1}
