"""One call of a network or of its text encoder; an error stays with the request that caused it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.protocol import BatchRuntime, Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.serving.engine.batch_step import BatchStep, RuntimeStep
from minit2i_deploy.serving.engine.image_state import ImageState, prompt_tokens
from minit2i_deploy.serving.engine.orders import ImageTask, RowDone, TextOrder
from minit2i_deploy.serving.scheduling.embed_queue import TextShare
from minit2i_deploy.text.encoder import SequenceCache, SequenceEncoder

# Twenty prompts of B/16; hundreds of the demo model.
PROMPT_CACHE_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """An open bundle.

    Args:
        bundle: that is run.
        runtime: it is open on.
        step: advances its images.
        prompts: adapted tokens of the latest prompts.
    """

    bundle: Bundle
    runtime: Runtime
    step: BatchStep
    prompts: SequenceCache = field(default_factory=lambda: SequenceCache(PROMPT_CACHE_BYTES))

    def tokens(self, request: Request) -> np.ndarray:
        """Tokens of a request's branches, as in ``prompt_tokens``; not computed twice."""
        conditions = b"" if request.conditions is None else request.conditions.tobytes()
        texts = (str(request.prompts[0]), request.negative, request.guided)
        key = repr(texts).encode() + conditions
        tokens = self.prompts.get(key)
        if tokens is None:
            tokens = prompt_tokens(self.bundle, self.runtime, request)
            self.prompts.put(key, tokens)
        return tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CallResult:
    """What a call came to.

    Args:
        failures: id of a task -> why it failed.
        seconds: of the step and its reports, without what images do before their first row.
    """

    failures: Mapping[int, Exception]
    seconds: float


def open_model(
    bundle: Bundle, stack: contextlib.ExitStack, open_runtime: Callable[[Bundle], Runtime]
) -> Model:
    """Open a bundle and run each of its graphs once, so that the first request is not slower.

    Args:
        bundle: to open.
        stack: closes the runtime.
        open_runtime: opens it.

    Raises:
        Minit2iError: it does not open, or a graph does not run.
    """
    runtime = stack.enter_context(open_runtime(bundle))
    if not isinstance(runtime, BatchRuntime):
        raise RuntimeFailure(
            f"runtime {runtime.name} does not step images at rows of their own; choose another"
        )
    model = Model(bundle=bundle, runtime=runtime, step=RuntimeStep(runtime))
    request = Request.of(bundle, "")
    state = ImageState.start(bundle, request, model.tokens(request))
    model.step.run([state])
    return model


def advance_images(model: Model, tasks: Sequence[ImageTask]) -> CallResult:
    """Advance each image by a row, and report the estimates that are watched.

    Args:
        model: of all of them.
        tasks: images at any rows; those that have not begun begin here.
    """
    failures: dict[int, Exception] = {}
    ready = [task for task in tasks if _begin(model, task, failures)]
    began = time.perf_counter()
    _step(model, ready, failures)
    for task in ready:
        if id(task) not in failures:
            _check_and_report(task, failures)
    return CallResult(failures=failures, seconds=time.perf_counter() - began)


def embed_texts(model: Model, shares: Sequence[TextShare]) -> None:
    """Encode texts of some requests together; where that fails, those of each request alone.

    Args:
        model: of all of them.
        shares: of the queue; the payload of their jobs is a ``TextOrder``.
    """
    try:
        _encode(model, shares)
    except Exception as error:  # the request that caused it must not fail the others
        if len(shares) > 1:
            for share in shares:
                embed_texts(model, [share])
            return
        order: TextOrder = shares[0].job.payload
        shares[0].job.is_cancelled = True
        order.listener(error)
        return
    for share in shares:
        share.job.payload.settle()


def _begin(model: Model, task: ImageTask, failures: dict[int, Exception]) -> bool:
    if task.state is not None:
        return True
    order = task.order
    request = order.requests[task.image]
    try:
        if order.tokens is None:
            order.tokens = model.tokens(request)
        task.state = ImageState.start(model.bundle, request, order.tokens)
    except Exception as error:  # answered, and the other images go on
        failures[id(task)] = error
        return False
    return True


def _step(model: Model, tasks: Sequence[ImageTask], failures: dict[int, Exception]) -> None:
    """One call for all; where it fails, one for each, so that only the cause of it fails."""
    states = [task.state for task in tasks if task.state is not None]
    if not states:
        return
    try:
        model.step.run(states)
    except Exception as error:  # any error of an engine
        if len(tasks) == 1:
            failures[id(tasks[0])] = error
            return
        for task in tasks:
            _step(model, [task], failures)


def _check_and_report(task: ImageTask, failures: dict[int, Exception]) -> None:
    state, order = task.state, task.order
    assert state is not None, "it has just run"
    # Now and not at the last row: the remaining rows would be for nothing.
    if not np.isfinite(state.x).all():
        failures[id(task)] = RuntimeFailure(
            f"the image became NaN or infinite at row {state.index}; use a lower guidance, another "
            "table or a bundle of higher precision"
        )
    elif state.index in order.watched_rows:
        rows = state.request.rows
        order.listener(
            RowDone(
                image=task.image,
                row=state.index,
                num_rows=len(rows),
                t=rows[state.index - 1].t,
                estimate=state.estimate,
            )
        )


def _encode(model: Model, shares: Sequence[TextShare]) -> None:
    places: list[tuple[TextOrder, int]] = [
        (share.job.payload, position)
        for share in shares
        for position in share.job.payload.positions(share.first, share.count)
    ]
    encoder = SequenceEncoder(model.bundle, model.runtime)
    for index, sequence in encoder.sequences([order.encoded[item] for order, item in places]):
        order, position = places[index]
        order.sequences[position] = sequence
