"""OpenAI's images: POST /v1/images/generations and /v1/images/edits, also as streams of events.

Source: openai-python 3.57, types/images_response.py and types/image_gen_*_event.py. The names of
further fields are those of vLLM-Omni 0.30.
"""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from starlette.responses import JSONResponse, Response

from minit2i_deploy.io.image_formats import encode_image
from minit2i_deploy.io.images import to_pil
from minit2i_deploy.serving.dialects.image_links import ImageLinks
from minit2i_deploy.serving.dialects.image_sizes import model_at_size
from minit2i_deploy.serving.dialects.openai_edits import EDIT_FIELDS, edit_sources
from minit2i_deploy.serving.engine.edit_images import NO_EDIT, SentEdit
from minit2i_deploy.serving.engine.orders import ImageFailed, RowDone
from minit2i_deploy.serving.engine.served_model import (
    MAX_STEPS,
    ImageSettings,
    PlannedImages,
    ServedModel,
)
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.event_stream import EventStream
from minit2i_deploy.serving.http.fields import Field
from minit2i_deploy.serving.service import RunningImages, Service

_FORMATS: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_MEDIA_TYPES: Final = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
# A larger estimate is sent as JPEG, which is a tenth of the bytes.
_MAX_PNG_SIDE: Final = 128


def fields(max_images: int) -> tuple[Field, ...]:
    """What the body may have."""
    return (
        Field(name="prompt", kind="string", required=True, help="what the image shows"),
        Field(name="model", kind="string", help="name of a served bundle"),
        Field(name="n", kind="integer", default=1, low=1, high=max_images, help="images"),
        Field(
            name="size",
            kind="string",
            help="auto, or WIDTHxHEIGHT: the bundle's, or any between its bounds where it is free",
        ),
        Field(
            name="response_format",
            kind="string",
            default="b64_json",
            choices=("b64_json", "url"),
            help="how the images come",
        ),
        Field(
            name="output_format",
            kind="string",
            default="png",
            choices=tuple(_FORMATS),
            help="format of the files",
        ),
        Field(name="stream", kind="boolean", default=False, help="answer with events"),
        Field(
            name="partial_images",
            kind="integer",
            default=0,
            low=0,
            high=MAX_STEPS,
            help="estimates of each image in a stream; OpenAI has at most 3",
        ),
        Field(name="seed", kind="integer", help="of the first image; absent or -1: drawn"),
        Field(name="negative_prompt", kind="string", help="what the image does not show"),
        Field(name="guidance_scale", kind="number", help="of classifier-free guidance, 1: none"),
        Field(name="num_inference_steps", kind="integer", help="rows, or steps of the solver"),
        Field(name="solver", kind="string", help="compiled with num_inference_steps"),
        Field(name="table", kind="string", help="table or preset of the bundle"),
    )


def read_settings(values: Mapping[str, Any]) -> ImageSettings:
    """A body's fields as settings; a seed of -1 is drawn."""
    seed = values["seed"]
    return ImageSettings(
        prompt=values["prompt"],
        negative=values["negative_prompt"],
        num_images=values["n"],
        seed=None if seed == -1 else seed,
        table=values["table"],
        solver=values["solver"],
        steps=values["num_inference_steps"],
        guidance=values["guidance_scale"],
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Work:
    """A request that was understood; ``kind`` is how OpenAI's events begin."""

    model: ServedModel
    planned: PlannedImages
    notices: Sequence[str]
    kind: str
    format: str
    partial_images: int

    def extras(self) -> dict[str, Any]:
        """Members that OpenAI does not have: what was really run."""
        return {
            "model": self.model.name,
            "table": self.planned.table.name,
            "rows": len(self.planned.table),
            "guidance_scale": self.planned.guidance,
            "bundle": self.model.bundle.digest,
            "notices": list(self.notices),
        }

    def members(self) -> dict[str, Any]:
        """Members that OpenAI's answers and events share."""
        return {
            "background": "opaque",
            "output_format": self.format,
            "quality": "auto",
            "size": self.model.size,
        }


class OpenAiImages:
    """The endpoints.

    Args:
        service: runs the requests.
        links: serves images that are asked for as addresses.
    """

    def __init__(self, service: Service, links: ImageLinks) -> None:
        self._service, self._links = service, links

    def endpoints(self) -> list[Endpoint]:
        """Of this dialect."""
        return [
            Endpoint(
                method="POST",
                path="/v1/images/generations",
                answer=self.generate,
                summary="Generate images from a prompt",
                fields=fields(self._service.options.max_images),
            ),
            Endpoint(
                method="POST",
                path="/v1/images/edits",
                answer=self.edit,
                summary="Edit an image: where its mask is transparent, or all of it",
                fields=(*fields(self._service.options.max_images), *EDIT_FIELDS),
                takes_files=True,
            ),
        ]

    async def generate(self, call: Call) -> Response:
        """Answer a request for images."""
        return await self._answer(call, self._understand(call.values))

    async def edit(self, call: Call) -> Response:
        """Answer a request to edit an image."""
        sources, notices = edit_sources(call.values, strict=self._service.options.strict)
        model, _ = self._model(call.values)
        images = await self._service.read_edit(model, sources)
        return await self._answer(call, self._understand(call.values, images, notices))

    async def _answer(self, call: Call, work: _Work) -> Response:
        headers = {"X-MiniT2I-Model": work.model.name}
        if call.values["stream"]:
            watched = watched_rows(len(work.planned.table), work.partial_images)
            # Before the answer begins, so that a full queue has its own status.
            images = self._service.begin(work.model, work.planned, watched_rows=watched)
            return EventStream(self._events(work, images, sorted(watched)), images.close, headers)
        states = await self._service.finished(work.model, work.planned)
        as_links = call.values["response_format"] == "url"
        public_url = self._service.options.public_url
        address = f"{public_url}/" if public_url else str(call.request.base_url)
        base_url = address if as_links else None
        data = [await self._item(work, index, x, base_url) for index, x in enumerate(states)]
        body = {
            "created": int(time.time()),
            "data": data,
            "usage": _usage(work.planned),
            **work.members(),
            **work.extras(),
        }
        return JSONResponse(body, headers=headers)

    def _understand(
        self,
        values: Mapping[str, Any],
        edit: SentEdit = NO_EDIT,
        edit_notices: Sequence[str] = (),
    ) -> _Work:
        strict = self._service.options.strict
        model, notices = self._model(values)
        settings = dataclasses.replace(read_settings(values), edit=edit)
        planned = model.plan(settings, strict=strict)
        return _Work(
            model=model,
            planned=planned,
            notices=[*notices, *edit_notices, *planned.notices],
            kind="image_generation" if edit is NO_EDIT else "image_edit",
            format=values["output_format"],
            partial_images=values["partial_images"],
        )

    def _model(self, values: Mapping[str, Any]) -> tuple[ServedModel, tuple[str, ...]]:
        """The bundle at the size of a request, and what to say of both."""
        strict = self._service.options.strict
        model, notices = self._service.find_model(values["model"])
        model, sizes = model_at_size(model, values["size"], strict=strict)
        return model, (*notices, *sizes)

    async def _file(self, work: _Work, index: int, x: np.ndarray) -> bytes:
        suffix = _FORMATS[work.format]
        return await self._service.file(work.model, work.planned, index, x, suffix)

    async def _item(
        self, work: _Work, index: int, x: np.ndarray, base_url: str | None
    ) -> dict[str, Any]:
        data = await self._file(work, index, x)
        item: dict[str, Any] = {"seed": work.planned.seeds[index]}
        if base_url is None:
            item["b64_json"] = _base64(data)
        else:
            item["url"] = base_url + self._links.add(data, _MEDIA_TYPES[work.format])
        return item

    async def _events(
        self, work: _Work, images: RunningImages, watched: Sequence[int]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Server-sent events: estimates of rows, then each finished image."""
        async for event in images.events():
            if isinstance(event, ImageFailed):
                raise event.error
            if isinstance(event, RowDone):
                yield self._partial(work, event, watched)
            else:
                yield await self._completed(work, event.image, event.x)

    def _partial(
        self, work: _Work, event: RowDone, watched: Sequence[int]
    ) -> tuple[str, dict[str, Any]]:
        seed = work.planned.seeds[event.image]
        name = f"{work.kind}.partial_image"
        body = {
            "type": name,
            "b64_json": _base64(_estimate(event.estimate)),
            "created_at": int(time.time()),
            "partial_image_index": watched.index(event.row),
            **work.members(),
            "image_index": event.image,
            "seed": seed,
            "row": event.row,
            "rows": event.num_rows,
            "t": event.t,
        }
        return name, body

    async def _completed(
        self, work: _Work, index: int, x: np.ndarray
    ) -> tuple[str, dict[str, Any]]:
        name = f"{work.kind}.completed"
        body = {
            "type": name,
            "b64_json": _base64(await self._file(work, index, x)),
            "created_at": int(time.time()),
            "usage": _usage(work.planned),
            **work.members(),
            "image_index": index,
            "seed": work.planned.seeds[index],
            **work.extras(),
        }
        return name, body


def watched_rows(num_rows: int, count: int) -> frozenset[int]:
    """Numbers of finished rows for ``count`` estimates: spread before the last row, or all."""
    if count >= num_rows:
        return frozenset(range(1, num_rows + 1))
    return frozenset(round((index + 1) * num_rows / (count + 1)) or 1 for index in range(count))


def _estimate(y: np.ndarray) -> bytes:
    """An estimate as an image file."""
    suffix = ".png" if y.shape[-1] <= _MAX_PNG_SIDE else ".jpg"
    return encode_image(to_pil(y[None])[0], f"estimate{suffix}", {})


def _usage(planned: PlannedImages) -> dict[str, Any]:
    """OpenAI's count of tokens; ours are rows of images, so that it says what was computed."""
    rows = len(planned.table) * len(planned.requests)
    return {
        "input_tokens": 0,
        "output_tokens": rows,
        "total_tokens": rows,
        "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
