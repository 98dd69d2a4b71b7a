"""Texts on the engine thread: in turns, between the rows of images."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.serving.engine.engine import Engine, EngineLimits
from minit2i_deploy.serving.engine.orders import Stopping, TextOrder
from minit2i_deploy.serving.scheduling.scheduler import SchedulerLimits
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.embed import embed
from tests.helpers.serving_runs import (
    Watcher,
    fake_runtime,
    order,
    running_engine,
    served_bundles,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as ready:
        yield ready


def test_texts_are_embedded_between_rows(engine: Engine) -> None:
    bundle = served_bundles()["demo"]
    watcher, done = Watcher(), threading.Event()
    answers: list[list[np.ndarray] | Exception] = []
    request = Request.of(bundle, "a", table=solver_table("euler", steps=1000))
    slow = order(watcher, [request])
    engine.submit_images(slow)

    def answer(result: list[np.ndarray] | Exception) -> None:
        answers.append(result)
        done.set()

    engine.submit_texts(
        TextOrder(
            model="demo",
            encoded=bundle.tokenizer().encode(["a red circle", "red"]),
            deadline_s=time.monotonic() + 30,
            listener=answer,
        )
    )
    assert done.wait(30)
    # The image is still under way.
    assert watcher.events.empty()
    with fake_runtime(bundle) as runtime:
        expected = embed(bundle, runtime, ["a red circle", "red"])
    sequences = answers[0]
    assert isinstance(sequences, list)
    for sequence, values, mask in zip(sequences, expected.values, expected.mask, strict=True):
        assert np.array_equal(sequence, values[mask > 0])
    engine.cancel(slow)


def test_a_large_request_for_embeddings_does_not_hold_up_others(engine: Engine) -> None:
    """Images, other texts and the end of the server come between its calls."""
    bundle = served_bundles()["demo"]
    # Longest first, so that the order of the calls is another one.
    texts = [f"{'red ' * (n % 7)}circle {n}" for n in range(150, 0, -1)]
    answers: dict[str, list[np.ndarray] | Exception] = {}
    done = threading.Semaphore(0)

    def ask(name: str, each: list[str]) -> None:
        def answer(result: list[np.ndarray] | Exception) -> None:
            answers[name] = result
            done.release()

        encoded = bundle.tokenizer().encode(each)
        deadline_s = time.monotonic() + 30
        engine.submit_texts(
            TextOrder(model="demo", encoded=encoded, deadline_s=deadline_s, listener=answer)
        )

    ask("large", texts)
    ask("small", ["a red circle"])
    for _ in range(2):
        assert done.acquire(timeout=30)
    # Five calls of the large one.
    assert list(answers) == ["small", "large"]
    sequences = answers["large"]
    assert isinstance(sequences, list)
    with fake_runtime(bundle) as runtime:
        expected = embed(bundle, runtime, texts)
    for sequence, values, mask in zip(sequences, expected.values, expected.mask, strict=True):
        assert np.array_equal(sequence, values[mask > 0])


def test_a_stop_does_not_wait_for_all_texts_of_a_request() -> None:
    calls: list[int] = []
    answers: list[list[np.ndarray] | Exception] = []
    bundle = served_bundles()["demo"]

    def slow(each: Bundle) -> Runtime:
        runtime = fake_runtime(each)
        encode = runtime.encode

        def encode_slowly(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            if len(ids) > 1:
                calls.append(len(ids))
                time.sleep(0.05)
            return encode(ids, mask)

        runtime.encode = encode_slowly  # type: ignore[method-assign]
        return runtime

    stopped = Engine({"demo": bundle}, slow, EngineLimits(images=SchedulerLimits()))
    stopped.start()
    stopped.submit_texts(
        TextOrder(
            model="demo",
            encoded=bundle.tokenizer().encode([f"circle {n}" for n in range(2000)]),
            deadline_s=time.monotonic() + 30,
            listener=answers.append,
        )
    )
    while not calls:
        time.sleep(0.001)
    stopped.stop(0.0)
    assert [type(answer) for answer in answers] == [Stopping]
    # Of 63 calls; the one under way ends.
    assert len(calls) < 30 and set(calls) == {32}
