"""The engine thread: images are those of ``generate``, whoever shares their calls."""

from __future__ import annotations

import contextlib
import gc
import time
import unittest.mock
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.protocol import BatchRuntime, Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.serving.engine.calls import open_model
from minit2i_deploy.serving.engine.engine import Engine
from minit2i_deploy.serving.engine.image_state import prompt_tokens
from minit2i_deploy.serving.engine.orders import (
    DeadlineExceeded,
    ImageDone,
    ImageFailed,
    RowDone,
    Stopping,
)
from minit2i_deploy.serving.scheduling.job import Batch
from minit2i_deploy.serving.scheduling.scheduler import QueueFull
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.step_inputs import ImageStep
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.serving_runs import (
    Watcher,
    fake_runtime,
    order,
    real_runtime,
    running_engine,
    served_bundles,
)
from tests.helpers.version_one import version_one_bundle

# Largest measured difference of a state to that of generate alone, and of its bytes: 0 and 0 on
# this processor; the bound is that of a batch.
STATE_BOUND = 1e-5


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as ready:
        yield ready


def mixed_requests(bundle: Bundle) -> list[Request]:
    """Solvers with a history, without one and with fresh noise, at several scales."""
    interval = adjust_guidance(solver_table("euler", steps=12, a_min=0.05), interval=(0.2, 0.7))
    clipped = adjust_guidance(solver_table("heun", steps=5, a_min=0.05), clip=1.0, rescale=0.5)
    return [
        Request.of(bundle, "a red circle", seed=1),
        Request.of(bundle, "a blue square", seed=2, table=interval, guidance=4.0),
        Request.of(bundle, "two green stars", seed=3, table=clipped, guidance=3.0),
        Request.of(bundle, "a circle", seed=4, guidance=1.0),
        Request.of(bundle, "a star", seed=5, negative="a red star"),
        Request.of(bundle, "", seed=6, table=solver_table("sde", steps=8, a_min=0.05)),
    ]


def test_every_image_is_that_of_generate() -> None:
    bundles = served_bundles()
    student = [Request.of(bundles["demo-student"], "a red circle", seed=seed) for seed in (7, 8)]
    base = [("demo", [request]) for request in mixed_requests(bundles["demo"])]
    compare_images(bundles, [*base, ("demo-student", student)])


@pytest.mark.filterwarnings("ignore::minit2i_deploy.errors.PromptTruncatedWarning")
def test_bundles_of_format_version_1_are_served() -> None:
    bundles = {"old": Bundle.open(version_one_bundle())}
    orders = [("old", [request]) for request in mixed_requests(bundles["old"])]
    # Guidance and update are numpy's, which rounds other last bits than the graph.
    compare_images(bundles, orders, byte_bound=1)


def compare_images(
    bundles: Mapping[str, Bundle],
    orders: Sequence[tuple[str, list[Request]]],
    byte_bound: int = 0,
) -> None:
    """Serve the orders together, and compare each image with that of generate alone."""
    watchers = [Watcher() for _ in orders]
    with running_engine(real_runtime, bundles=bundles) as engine:
        for watcher, (model, each) in zip(watchers, orders, strict=True):
            # Later ones join calls that are under way.
            time.sleep(0.01)
            engine.submit_images(order(watcher, each, model=model))
        ends = [
            watcher.ends(len(each)) for watcher, (_, each) in zip(watchers, orders, strict=True)
        ]
    for (model, each), events in zip(orders, ends, strict=True):
        with real_runtime(bundles[model]) as runtime:
            for event in events:
                assert isinstance(event, ImageDone)
                _compare(bundles[model], runtime, each[event.image], event.x, byte_bound)


def _compare(
    bundle: Bundle, runtime: Runtime, request: Request, x: np.ndarray, byte_bound: int
) -> None:
    expected = generate(
        bundle,
        runtime,
        request.prompts,
        seed=request.seeds,
        table=request.table,
        guidance=request.guidance,
        negative=request.negative,
    ).x
    assert np.abs(x - expected[0]).max() <= STATE_BOUND * np.abs(expected).max()
    pixels, expected_pixels = (to_uint8(each).astype(int) for each in (x[None], expected))
    assert np.abs(pixels - expected_pixels).max() <= byte_bound


def test_the_mixed_requests_are_mixed() -> None:
    requests = mixed_requests(served_bundles()["demo"])
    rows = [row for request in requests for row in request.rows]
    assert {len(row.weights) for row in rows} == {1, 2}
    assert any(row.draws_noise for row in rows)
    assert {row.slope for row in rows} == {0.0, -1.0}


def test_watched_rows_report_the_estimate(engine: Engine) -> None:
    bundle = served_bundles()["demo"]
    request = Request.of(bundle, "a red circle", seed=3, table=solver_table("ab2", steps=6))
    watcher = Watcher()
    engine.submit_images(order(watcher, [request], watched=(2, 6)))
    events = [watcher.events.get(timeout=30) for _ in range(3)]
    rows = [event for event in events if isinstance(event, RowDone)]
    assert [(row.row, row.num_rows) for row in rows] == [(2, 6), (6, 6)]
    with fake_runtime(bundle) as runtime:
        estimates: list[np.ndarray] = []
        generate(
            bundle,
            runtime,
            "a red circle",
            seed=3,
            table=request.table,
            previews=True,
            on_frame=lambda frame: estimates.append(frame.estimate()[0]),
        )
    for row in rows:
        # h - s x in float32 on both sides; measured 0.
        assert np.abs(row.estimate - estimates[row.row - 1]).max() <= 1e-6


def test_a_prompt_is_adapted_once() -> None:
    """For all requests that share it, and again where the other branch is another one."""
    settings = {
        "demo": [{}, {"guidance": 3.0}, {"negative": "blue"}, {"guidance": 1.0}],
        "demo-student": [{}, {"seed": 2}, {"guidance": 2.0}, {"guidance": 2.0}],
    }
    num_adapted = {name: list[int]() for name in settings}
    for name, each in settings.items():
        with contextlib.ExitStack() as stack:
            model = open_model(served_bundles()[name], stack, fake_runtime)
            for changes in each:
                request = Request.of(model.bundle, "a red circle", **changes)  # type: ignore[arg-type]
                expected = prompt_tokens(model.bundle, model.runtime, request)
                with unittest.mock.patch.object(
                    model.runtime, "adapt", side_effect=model.runtime.adapt
                ) as adapt:
                    assert np.array_equal(model.tokens(request), expected)
                num_adapted[name].append(adapt.call_count)
    assert num_adapted == {"demo": [1, 0, 1, 1], "demo-student": [1, 0, 1, 0]}


class Poisoned:
    """Opens a fake runtime that fails, or gives NaN, for the sequences of a prompt."""

    def __init__(self, prompt: str, *, raises: bool) -> None:
        self.raises = raises
        bundle = served_bundles()["demo"]
        with fake_runtime(bundle) as plain:
            self.tone = prompt_tokens(bundle, plain, Request.of(bundle, prompt))[0, 0, 0]

    def __call__(self, bundle: Bundle) -> Runtime:
        runtime = fake_runtime(bundle)
        assert isinstance(runtime, BatchRuntime)
        step_batch = runtime.step_batch

        def poisoned_step(images: Sequence[ImageStep]) -> tuple[np.ndarray, np.ndarray]:
            bad = [image.tokens[0, 0, 0] == self.tone for image in images]
            if any(bad) and self.raises:
                raise RuntimeFailure("the engine choked")
            x, h = step_batch(images)
            x[bad] = np.nan
            return x, h

        runtime.step_batch = poisoned_step  # type: ignore[method-assign]
        return runtime


@pytest.mark.parametrize(("raises", "text"), [(True, "choked"), (False, "NaN or infinite at row")])
def test_one_bad_request_does_not_take_down_the_batch(raises: bool, text: str) -> None:
    bundle = served_bundles()["demo"]
    prompts = ("a red circle", "poison", "bad \ud800", "a star")
    watchers = {prompt: Watcher() for prompt in prompts}
    with running_engine(Poisoned("poison", raises=raises)) as engine:
        for prompt, watcher in watchers.items():
            engine.submit_images(order(watcher, [Request.of(bundle, prompt)]))
        ends = {prompt: watcher.ends()[0] for prompt, watcher in watchers.items()}
    assert isinstance(ends["a red circle"], ImageDone)
    assert isinstance(ends["a star"], ImageDone)
    poison, broken = ends["poison"], ends["bad \ud800"]
    assert isinstance(poison, ImageFailed) and text in str(poison.error)
    assert isinstance(broken, ImageFailed) and isinstance(broken.error, UsageError)


def slow_request() -> Request:
    return Request.of(served_bundles()["demo"], "a", table=solver_table("euler", steps=1000))


def test_a_cancelled_order_runs_no_further_row(engine: Engine) -> None:
    watcher = Watcher()
    each = order(watcher, [slow_request()], watched=range(1001))
    engine.submit_images(each)
    watcher.events.get(timeout=30)
    (job,) = each.jobs
    engine.cancel(each)
    done = job.rows_done
    time.sleep(0.05)
    assert job.rows_done == done < 1000
    assert engine.scheduler.num_live == 0


def test_planning_is_a_part_of_a_calls_cost(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[float] = []
    plan, learn = engine.scheduler.plan, engine.scheduler.costs.learn

    def slow_plan() -> Batch | None:
        time.sleep(0.02)
        return plan()

    def noting_learn(kind: Hashable, num_sequences: int, seconds: float) -> None:
        learned.append(seconds)
        learn(kind, num_sequences, seconds)

    monkeypatch.setattr(engine.scheduler, "plan", slow_plan)
    monkeypatch.setattr(engine.scheduler.costs, "learn", noting_learn)
    watcher = Watcher()
    each = order(
        watcher, [Request.of(served_bundles()["demo"], "a", table=solver_table("euler", steps=2))]
    )
    engine.submit_images(each)
    watcher.ends()
    assert len(learned) == 2 and min(learned) >= 0.02


def test_images_are_freed_with_their_order(engine: Engine) -> None:
    """At once, and not when Python next looks for cycles: that was 30 MiB of a server."""
    watcher = Watcher()
    each = order(
        watcher, [Request.of(served_bundles()["demo"], "a", table=solver_table("euler", steps=2))]
    )
    gc.disable()
    try:
        engine.submit_images(each)
        watcher.ends()
        state = weakref.ref(each.jobs[0].payload.state.x)
        engine.cancel(each)
        del each
        until = time.monotonic() + 10
        while state() is not None:
            assert time.monotonic() < until
            time.sleep(0.005)
    finally:
        gc.enable()


def test_a_refused_order_is_freed_at_once() -> None:
    """Images that wait for nothing are not in memory until Python looks for cycles."""
    with running_engine(max_queue=1) as engine:
        each = order(Watcher(), [slow_request(), slow_request()])
        events = weakref.ref(each.listener.__self__)  # type: ignore[attr-defined]
        gc.disable()
        try:
            with contextlib.suppress(QueueFull):
                engine.submit_images(each)
            assert each.jobs == ()
            del each
            assert events() is None
        finally:
            gc.enable()


def test_a_deadline_ends_an_image(engine: Engine) -> None:
    watcher = Watcher()
    engine.submit_images(order(watcher, [slow_request()], seconds=0.05))
    (end,) = watcher.ends()
    assert isinstance(end, ImageFailed) and isinstance(end.error, DeadlineExceeded)


def test_a_full_queue_refuses_and_a_stop_answers_everyone() -> None:
    waiting = [Watcher() for _ in range(2)]
    with running_engine(max_queue=2) as engine:
        for watcher in waiting:
            engine.submit_images(order(watcher, [slow_request()]))
        with pytest.raises(QueueFull):
            engine.submit_images(order(Watcher(), [slow_request()]))
        engine.stop(drain_s=0.0)
        for watcher in waiting:
            (end,) = watcher.ends()
            assert isinstance(end, ImageFailed) and isinstance(end.error, Stopping)
        with pytest.raises(Stopping, match="takes no new requests"):
            engine.submit_images(order(Watcher(), [slow_request()]))


def test_a_stop_finishes_what_is_under_way() -> None:
    watcher = Watcher()
    with running_engine() as engine:
        engine.submit_images(order(watcher, [Request.of(served_bundles()["demo"], "a")]))
        engine.stop(drain_s=30.0)
        assert isinstance(watcher.ends()[0], ImageDone)


def test_a_bundle_that_does_not_open_is_an_error_of_start() -> None:
    def no_runtime(bundle: Bundle) -> Runtime:
        raise RuntimeFailure("no device")

    with pytest.raises(RuntimeFailure, match="no device"), running_engine(no_runtime):
        raise AssertionError("it must not start")
