"""AUTOMATIC1111's web UI: /sdapi/v1, as far as Open WebUI, SillyTavern and LibreChat call it.

Source: AUTOMATIC1111/stable-diffusion-webui, modules/api/{api,models}.py. LibreChat reads ``info``
as JSON and its ``infotexts``; SillyTavern asks for every list and interrupts when its user leaves.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from starlette.responses import JSONResponse, Response

from minit2i_deploy.serving.dialects.image_sizes import model_at_size
from minit2i_deploy.serving.dialects.web_ui_edits import IMG2IMG_FIELDS, img2img_sources
from minit2i_deploy.serving.dialects.web_ui_progress import Progress
from minit2i_deploy.serving.engine.edit_images import NO_EDIT, SentEdit
from minit2i_deploy.serving.engine.orders import ImageDone, ImageFailed, RowDone
from minit2i_deploy.serving.engine.served_model import (
    ImageSettings,
    PlannedImages,
    ServedModel,
)
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.errors import HttpError, web_ui_form
from minit2i_deploy.serving.http.fields import Field
from minit2i_deploy.serving.service import Service

# Its samplers -> our solvers. Others are the bundle's own table, with a notice.
_SAMPLERS: Final[Mapping[str, str]] = {
    "Euler": "euler",
    "Heun": "heun",
    "DPM++ 2M": "dpmpp2m",
    "AB2": "ab2",
}
_AUTOMATIC: Final = "Automatic"
_IMAGES: Final = ("init_images", "mask")
_EMPTY_LISTS: Final = ("sd-vae", "upscalers", "latent-upscale-modes", "loras", "embeddings")
_FIELDS: Final = (
    Field(name="prompt", kind="string", default="", help="what the image shows"),
    Field(name="negative_prompt", kind="string", help="what the image does not show"),
    Field(
        name="width",
        kind="integer",
        low=1,
        high=99999,
        help="that of the bundle, or any where it is free",
    ),
    Field(
        name="height",
        kind="integer",
        low=1,
        high=99999,
        help="that of the bundle, or any where it is free",
    ),
    Field(name="steps", kind="integer", help="of the sampler; absent: the bundle's table"),
    Field(name="cfg_scale", kind="number", help="scale of guidance; absent: the bundle's"),
    Field(name="seed", kind="integer", default=-1, help="of the first image; -1: drawn"),
    Field(name="batch_size", kind="integer", default=1, low=1, help="images at once"),
    Field(name="n_iter", kind="integer", default=1, low=1, help="times of it"),
    Field(name="sampler_name", kind="string", help=", ".join([_AUTOMATIC, *_SAMPLERS])),
    Field(name="override_settings", kind="object", help="sd_model_checkpoint names a bundle"),
)


class WebUi:
    """The endpoints.

    Args:
        service: runs the requests.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._checkpoint = service.default.name
        self._progress = Progress()

    def endpoints(self) -> list[Endpoint]:
        """Of this dialect."""
        large = (
            ("txt2img", self._txt2img, "Generate images", _FIELDS),
            ("img2img", self._img2img, "Edit an image", (*_FIELDS, *IMG2IMG_FIELDS)),
        )
        small = (
            ("GET", "options", self._options),
            ("POST", "options", self._set_options),
            ("GET", "progress", self._read_progress),
            ("POST", "interrupt", self._interrupt),
            ("GET", "samplers", self._samplers),
            ("GET", "schedulers", self._schedulers),
            ("GET", "sd-models", self._models),
            *(("GET", name, self._nothing) for name in _EMPTY_LISTS),
        )
        return [
            *(
                Endpoint(
                    method="POST",
                    path=f"/sdapi/v1/{name}",
                    answer=answer,
                    summary=f"{summary}, as AUTOMATIC1111's web UI does",
                    fields=fields,
                    error_form=web_ui_form,
                )
                for name, answer, summary, fields in large
            ),
            *(
                Endpoint(
                    method=method,
                    path=f"/sdapi/v1/{name}",
                    answer=answer,
                    summary=f"{name} of AUTOMATIC1111's web UI",
                    error_form=web_ui_form,
                )
                for method, name, answer in small
            ),
        ]

    async def _txt2img(self, call: Call) -> Response:
        return await self._generate(call, NO_EDIT)

    async def _img2img(self, call: Call) -> Response:
        sources = img2img_sources(call.values)
        model, _ = self._find_model(call.values)
        return await self._generate(call, await self._service.read_edit(model, sources))

    async def _generate(self, call: Call, edit: SentEdit) -> Response:
        model, planned, notices = self._understand(call.values, edit)
        states = await self._run(model, planned, call.client)
        files = [
            base64.b64encode(await self._service.file(model, planned, index, x, ".png")).decode(
                "ascii"
            )
            for index, x in enumerate(states)
        ]
        info = self._info(model, planned, notices)
        # Its server does not send the images of a request back either.
        parameters = dict(call.body) | {name: None for name in _IMAGES if name in call.body}
        return JSONResponse({"images": files, "parameters": parameters, "info": json.dumps(info)})

    def _find_model(self, values: Mapping[str, Any]) -> tuple[ServedModel, tuple[str, ...]]:
        name = (values["override_settings"] or {}).get("sd_model_checkpoint", self._checkpoint)
        model, notices = self._service.find_model(name if isinstance(name, str) else None)
        if values["width"] is None and values["height"] is None:
            return model, notices
        _, height, width = model.bundle.config.image_shape
        size = f"{values['width'] or width}x{values['height'] or height}"
        model, sizes = model_at_size(model, size, strict=self._service.options.strict)
        return model, (*notices, *sizes)

    def _understand(
        self, values: Mapping[str, Any], edit: SentEdit
    ) -> tuple[ServedModel, PlannedImages, Sequence[str]]:
        service, strict = self._service, self._service.options.strict
        model, notices = self._find_model(values)
        num_images = values["batch_size"] * values["n_iter"]
        if num_images > service.options.max_images:
            raise HttpError(
                422,
                f"batch_size * n_iter is {num_images}; at most {service.options.max_images} "
                "images are taken at once",
                param="batch_size",
            )
        solver, samplers = _solver(model, values["sampler_name"], strict=strict)
        planned = model.plan(
            ImageSettings(
                prompt=values["prompt"],
                negative=values["negative_prompt"],
                num_images=num_images,
                seed=None if values["seed"] == -1 else values["seed"],
                solver=solver if values["steps"] is not None else None,
                steps=values["steps"],
                guidance=values["cfg_scale"],
                edit=edit,
            ),
            strict=strict,
        )
        return model, planned, [*notices, *samplers, *planned.notices]

    async def _run(
        self, model: ServedModel, planned: PlannedImages, client: Hashable
    ) -> list[np.ndarray]:
        """The final states, with progress on the way."""
        states: dict[int, np.ndarray] = {}
        every_row = frozenset(range(1, len(planned.table) + 1))
        with (
            self._progress.job(client, len(planned.requests)) as job,
            self._service.begin(model, planned, watched_rows=every_row) as images,
        ):
            async for event in images.events():
                if job.is_interrupted:
                    raise HttpError(409, "interrupted")
                if isinstance(event, ImageFailed):
                    raise event.error
                if isinstance(event, RowDone):
                    job.row_done(event)
                elif isinstance(event, ImageDone):
                    states[event.image] = event.x
        return [states[index] for index in range(len(planned.requests))]

    def _info(
        self, model: ServedModel, planned: PlannedImages, notices: Sequence[str]
    ) -> dict[str, Any]:
        requests = planned.requests
        prompts = [str(request.prompts[0]) for request in requests]
        _, height, width = model.bundle.config.image_shape
        return {
            "prompt": prompts[0],
            "all_prompts": prompts,
            "negative_prompt": requests[0].negative or "",
            "all_negative_prompts": [request.negative or "" for request in requests],
            "seed": planned.seeds[0],
            "all_seeds": list(planned.seeds),
            "subseed": 0,
            "all_subseeds": [0] * len(requests),
            "subseed_strength": 0,
            "width": width,
            "height": height,
            "sampler_name": planned.table.name,
            "cfg_scale": planned.guidance,
            "steps": len(planned.table),
            "batch_size": len(requests),
            "sd_model_name": model.name,
            "sd_model_hash": model.bundle.digest[:10],
            "index_of_first_image": 0,
            "infotexts": [self._infotext(model, planned, index) for index in range(len(requests))],
            "extra_generation_params": {"notices": list(notices)} if notices else {},
            "styles": [],
            "version": "minit2i-deploy",
        }

    def _infotext(self, model: ServedModel, planned: PlannedImages, index: int) -> str:
        """The ``parameters`` field of the image's own file."""
        return self._service.record_fields(model, planned, index)["parameters"]

    async def _options(self, call: Call) -> Response:
        return JSONResponse({"sd_model_checkpoint": self._checkpoint, "samples_format": "png"})

    async def _set_options(self, call: Call) -> Response:
        name = call.body.get("sd_model_checkpoint")
        if isinstance(name, str):
            # Its clients send the title of a list entry, which is the name here.
            self._checkpoint = self._service.find_model(name)[0].name
        return JSONResponse(None)

    async def _read_progress(self, call: Call) -> Response:
        with_image = call.request.query_params.get("skip_current_image", "false") != "true"
        return JSONResponse(self._progress.read(call.client, with_image=with_image))

    async def _interrupt(self, call: Call) -> Response:
        self._progress.interrupt(call.client)
        return JSONResponse({})

    async def _samplers(self, call: Call) -> Response:
        names = [_AUTOMATIC, *_SAMPLERS]
        return JSONResponse([{"name": name, "aliases": [], "options": {}} for name in names])

    async def _schedulers(self, call: Call) -> Response:
        return JSONResponse([{"name": "automatic", "label": _AUTOMATIC}])

    async def _models(self, call: Call) -> Response:
        return JSONResponse(
            [
                {
                    "title": model.name,
                    "model_name": model.name,
                    "hash": model.bundle.digest[:10],
                    "sha256": model.bundle.digest,
                    "filename": model.name,
                    "config": None,
                }
                for model in self._service.models.values()
            ]
        )

    async def _nothing(self, call: Call) -> Response:
        return JSONResponse([])


def _solver(
    model: ServedModel, sampler: str | None, *, strict: bool
) -> tuple[str | None, tuple[str, ...]]:
    """Our solver of a sampler's name, and what to say where there is none."""
    if sampler in (None, "", _AUTOMATIC):
        return None, ()
    solver = None if model.is_student else _SAMPLERS.get(str(sampler))
    if solver is not None:
        return solver, ()
    text = f"sampler {str(sampler)[:40]!r} is not served; {model.name}'s own solver runs"
    if strict:
        raise HttpError(422, text, param="sampler_name")
    return None, (text,)
