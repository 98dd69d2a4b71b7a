"""The engine for asyncio: what the APIs call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_formats import encode_image
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.io.images import to_pil
from minit2i_deploy.serving.engine.edit_images import EditReader, EditSources, SentEdit
from minit2i_deploy.serving.engine.engine import Engine
from minit2i_deploy.serving.engine.orders import (
    ImageDone,
    ImageEvent,
    ImageFailed,
    ImageOrder,
    RowDone,
    TextOrder,
)
from minit2i_deploy.serving.engine.served_model import PlannedImages, ServedModel
from minit2i_deploy.text.prompts import as_mix
from minit2i_deploy.tokenizer import Encoded

# Estimates of a client that reads slowly are dropped beyond this; ends never are.
_MAX_WAITING_EVENTS: Final = 256
# From so many characters on, texts are tokenized on another thread: a hundredth of a second.
_MANY_CHARACTERS: Final = 10_000


class UnknownModel(UsageError):
    """A model that is not served."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceOptions:
    """How requests are taken.

    Args:
        strict: refuse what would otherwise be served by the nearest, with a notice.
        deadline_s: longest time from a request to its answer.
        max_images: most images of one request.
        max_texts: most texts of one request for embeddings.
        public_url: by which a proxy is reached; None: the address that a request came to.
    """

    strict: bool = False
    deadline_s: float = 300.0
    max_images: int = 10
    max_texts: int = 2048
    public_url: str | None = None


class RunningImages(contextlib.AbstractContextManager["RunningImages"]):
    """The images of one request, from the queue to their ends. Closing cancels the rest.

    Args:
        engine: that runs them.
        model: the bundle.
        planned: what is run.
        watched_rows: numbers of finished rows whose estimates are reported.
        deadline_s: on ``time.monotonic``.

    Raises:
        QueueFull: there is no room.
        Stopping: the server stops.
    """

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        planned: PlannedImages,
        watched_rows: frozenset[int],
        deadline_s: float,
    ) -> None:
        loop, self._events = asyncio.get_running_loop(), asyncio.Queue[ImageEvent]()
        self._engine, self._num_images = engine, len(planned.requests)
        self._order = ImageOrder(
            model=model.name,
            requests=planned.requests,
            deadline_s=deadline_s,
            watched_rows=watched_rows,
            listener=lambda event: _post(loop, self._keep, event),
        )
        engine.submit_images(self._order)

    def _keep(self, event: ImageEvent) -> None:
        if not isinstance(event, RowDone) or self._events.qsize() < _MAX_WAITING_EVENTS:
            self._events.put_nowait(event)

    def close(self) -> None:
        """Cancel what still runs."""
        self._engine.cancel(self._order)

    def __exit__(self, *error: object) -> None:
        self.close()

    async def events(self) -> AsyncGenerator[ImageEvent, None]:
        """An end for each image, in the order they end, and rows before it."""
        open_ends = self._num_images
        while open_ends:
            event = await self._events.get()
            open_ends -= not isinstance(event, RowDone)
            yield event

    async def finished(self) -> list[np.ndarray]:
        """The final states, in the order of the images.

        Raises:
            Exception: of the first image that failed.
        """
        states: dict[int, np.ndarray] = {}
        async for event in self.events():
            if isinstance(event, ImageFailed):
                raise event.error
            if isinstance(event, ImageDone):
                states[event.image] = event.x
        return [states[index] for index in range(self._num_images)]


class Service:
    """Bundles by name on an engine that has started.

    Args:
        models: by name; the first one is the default.
        engine: runs them.
        options: how requests are taken.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], engine: Engine, options: ServiceOptions
    ) -> None:
        self.models, self.engine, self.options = models, engine, options
        self.started_s = time.time()
        self._edits = EditReader()

    @property
    def default(self) -> ServedModel:
        """The bundle of requests that name none."""
        return next(iter(self.models.values()))

    def find_model(self, name: str | None) -> tuple[ServedModel, tuple[str, ...]]:
        """The bundle of that name, or the default one with a notice.

        Raises:
            UnknownModel: no such bundle, under ``strict``.
        """
        if name is None or name in self.models:
            return self.models[name] if name else self.default, ()
        served = ", ".join(self.models)
        if self.options.strict:
            raise UnknownModel(f"model {name!r} is not served; choose one of {served}")
        return self.default, (f"model {name!r} is not served; {self.default.name} answers",)

    async def read_edit(self, model: ServedModel, sources: EditSources) -> SentEdit:
        """Images of an edit as the bundle takes them.

        Raises:
            UsageError: one is no usable image, or they do not fit together or the bundle.
        """
        return await self._edits.read(model.bundle, sources)

    def begin(
        self,
        model: ServedModel,
        planned: PlannedImages,
        *,
        watched_rows: frozenset[int] = frozenset(),
        deadline_s: float | None = None,
    ) -> RunningImages:
        """Queue the images of a request; whoever takes the result closes it.

        Args:
            model: the bundle.
            planned: what to run.
            watched_rows: numbers of finished rows whose estimates are reported.
            deadline_s: on ``time.monotonic``; None: the options' time from now on.

        Raises:
            QueueFull: there is no room.
            Stopping: the server stops.
        """
        deadline_s = self.deadline_s() if deadline_s is None else deadline_s
        return RunningImages(self.engine, model, planned, watched_rows, deadline_s)

    def deadline_s(self) -> float:
        """When a request that comes now must be done, on ``time.monotonic``."""
        return time.monotonic() + self.options.deadline_s

    async def finished(self, model: ServedModel, planned: PlannedImages) -> list[np.ndarray]:
        """Run a request and return the final states, in the order of its images.

        Raises:
            QueueFull: there is no room.
            Stopping: the server stops.
            Exception: of the first image that failed; the others are cancelled.
        """
        with self.begin(model, planned) as images:
            return await images.finished()

    async def file(
        self, model: ServedModel, planned: PlannedImages, index: int, x: np.ndarray, suffix: str
    ) -> bytes:
        """An image as the file that ``minit2i generate`` writes of it.

        Args:
            model: the bundle.
            planned: what was run.
            index: of the image.
            x: float32 [3, H, W], its final state.
            suffix: one of ``image_formats.SUFFIXES``.
        """
        fields = self.record_fields(model, planned, index)
        return await asyncio.to_thread(
            lambda: encode_image(to_pil(x[None])[0], f"image{suffix}", fields)
        )

    def record_fields(
        self, model: ServedModel, planned: PlannedImages, index: int
    ) -> dict[str, str]:
        """What made an image, as text fields that ``minit2i generate --from`` reads."""
        request = planned.requests[index]
        edit = request.edit.record()
        if edit is not None:
            edit = dataclasses.replace(edit, feather=planned.feather)
        record = Record.of(
            model.bundle,
            request.base_table,
            prompt=as_mix(request.prompts[0]),
            seed=request.seeds[0],
            guidance=request.guidance,
            negative=request.negative,
            noise=None,
            runtime=self.engine.runtime_name(model.name),
            edit=edit,
            size=request.size,
        )
        return record.fields(num_rows=len(request.base_table))

    async def tokenize(self, model: ServedModel, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize texts.

        Raises:
            UsageError: a text with a NUL character or broken Unicode.
        """
        encode = model.bundle.tokenizer().encode
        if sum(map(len, texts)) < _MANY_CHARACTERS:
            return encode(texts)
        return await asyncio.to_thread(encode, texts)

    async def embed(self, model: ServedModel, encoded: Sequence[Encoded]) -> list[np.ndarray]:
        """The text encoder's output for each text: float32 [tokens, width].

        Raises:
            QueueFull: there is no room.
            Stopping: the server stops.
            RuntimeFailure: the engine failed.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[np.ndarray]] = loop.create_future()

        def settle(result: list[np.ndarray] | Exception) -> None:
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        job = self.engine.submit_texts(
            TextOrder(
                model=model.name,
                encoded=encoded,
                deadline_s=self.deadline_s(),
                listener=lambda result: _post(loop, settle, result),
            )
        )
        try:
            return await answer
        except asyncio.CancelledError:
            job.is_cancelled = True
            raise


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[Any], None], value: Any) -> None:
    # The loop may have ended, and nobody waits then.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, value)
