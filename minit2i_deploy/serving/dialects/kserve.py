"""KServe's protocol, version 2 (Open Inference Protocol): /v2.

A bundle NAME is two models there: NAME makes images, NAME-text embeds texts.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from starlette.responses import JSONResponse, Response

from minit2i_deploy._version import __version__
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.serving.dialects.texts import TextRules, mean_vectors, read_texts
from minit2i_deploy.serving.engine.orders import Stopping
from minit2i_deploy.serving.engine.served_model import ImageSettings, ServedModel
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.errors import HttpError, text_form
from minit2i_deploy.serving.http.fields import Field, read_fields
from minit2i_deploy.serving.http.large_json import json_response
from minit2i_deploy.serving.service import Service

_TEXT_SUFFIX: Final = "-text"
_INFER_FIELDS: Final = (
    Field(name="id", kind="string", help="comes back in the answer"),
    Field(name="inputs", kind="array", required=True, help="a tensor of prompts or of texts"),
    Field(name="parameters", kind="object", help="seed, guidance_scale, steps, table"),
)
_PARAMETERS: Final = (
    Field(name="seed", kind="integer", help="of the first image"),
    Field(name="guidance_scale", kind="number", help="of classifier-free guidance"),
    Field(name="steps", kind="integer", help="of the solver"),
    Field(name="table", kind="string", help="table or preset of the bundle"),
    Field(name="negative_prompt", kind="string", help="what the image does not show"),
)


class KServe:
    """The endpoints.

    Args:
        service: runs the requests.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._rules = TextRules(param="text", max_texts=service.options.max_texts)

    def endpoints(self) -> list[Endpoint]:
        """Of this dialect."""
        gets = (
            ("/v2", self._server, "What the server is", True),
            ("/v2/health/live", self._live, "Whether the server runs", True),
            ("/v2/health/ready", self._live, "Whether the server takes requests", True),
            ("/v2/models/{name}", self._metadata, "Inputs and outputs of a model", False),
            ("/v2/models/{name}/ready", self._ready, "Whether a model takes requests", True),
        )
        return [
            *(
                Endpoint(
                    method="GET",
                    path=path,
                    answer=answer,
                    summary=summary,
                    error_form=text_form,
                    is_open=is_open,
                )
                for path, answer, summary, is_open in gets
            ),
            Endpoint(
                method="POST",
                path="/v2/models/{name}/infer",
                answer=self._infer,
                summary="Generate images, or embed texts",
                fields=_INFER_FIELDS,
                error_form=text_form,
            ),
        ]

    async def _server(self, call: Call) -> Response:
        return JSONResponse({"name": "minit2i-deploy", "version": __version__, "extensions": []})

    async def _live(self, call: Call) -> Response:
        if not self._service.engine.is_alive:
            raise Stopping("the engine does not run; start the server again")
        return JSONResponse({"live": True, "ready": True})

    async def _ready(self, call: Call) -> Response:
        name, _ = self._find(call)
        return JSONResponse({"name": name, "ready": self._service.engine.is_alive})

    async def _metadata(self, call: Call) -> Response:
        name, model = self._find(call)
        width = model.bundle.config.txt_input_size
        if name.endswith(_TEXT_SUFFIX):
            inputs = [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
            outputs = [{"name": "embedding", "datatype": "FP32", "shape": [-1, width]}]
        else:
            inputs = [{"name": "prompt", "datatype": "BYTES", "shape": [-1]}]
            channels, *size = model.bundle.config.image_shape
            outputs = [{"name": "image", "datatype": "UINT8", "shape": [-1, *size, channels]}]
        return JSONResponse(
            {
                "name": name,
                "versions": ["1"],
                "platform": "onnx_onnxv1",
                "inputs": inputs,
                "outputs": outputs,
            }
        )

    async def _infer(self, call: Call) -> Response:
        name, model = self._find(call)
        is_text = name.endswith(_TEXT_SUFFIX)
        texts = _strings(call.values["inputs"], "text" if is_text else "prompt")
        if is_text:
            output, values = "embedding", await self._vectors(model, texts)
        else:
            parameters = read_fields(call.values["parameters"] or {}, _PARAMETERS)
            output, values = "image", await self._images(model, texts, parameters)
        body = {"model_name": name, "model_version": "1"}
        if call.values["id"] is not None:
            body["id"] = call.values["id"]
        return await json_response(
            lambda: body | {"outputs": [_tensor(output, values)]}, values.size
        )

    async def _vectors(self, model: ServedModel, texts: list[str]) -> np.ndarray:
        encoded = await read_texts(self._service, model, texts, self._rules)
        return np.stack(mean_vectors(await self._service.embed(model, encoded), normalize=True))

    async def _images(
        self, model: ServedModel, prompts: Sequence[str], parameters: Mapping[str, Any]
    ) -> np.ndarray:
        """uint8 [prompts, H, W, 3]; the seeds of the prompts follow one another."""
        most = self._service.options.max_images
        if len(prompts) > most:
            raise HttpError(400, f"{len(prompts)} prompts came; at most {most} are taken at once")
        seed, plans = parameters["seed"], []
        for index, prompt in enumerate(prompts):
            settings = ImageSettings(
                prompt=prompt,
                negative=parameters["negative_prompt"],
                seed=None if seed is None else (seed + index) % 2**64,
                table=parameters["table"],
                steps=parameters["steps"],
                guidance=parameters["guidance_scale"],
            )
            plans.append(model.plan(settings, strict=self._service.options.strict))
        deadline_s = self._service.deadline_s()
        # An order has one text. Where one finds no room, those before it are cancelled.
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(self._service.begin(model, planned, deadline_s=deadline_s))
                for planned in plans
            ]
            states = [x for images in running for x in await images.finished()]
        return to_uint8(np.stack(states))

    def _find(self, call: Call) -> tuple[str, ServedModel]:
        name = call.request.path_params["name"]
        model = self._service.models.get(name.removesuffix(_TEXT_SUFFIX))
        if model is None:
            served = [item for each in self._service.models for item in (each, each + _TEXT_SUFFIX)]
            raise HttpError(404, f"model {name[:60]!r} is not served; it has {', '.join(served)}")
        return name, model


def _strings(inputs: Sequence[Any], name: str) -> list[str]:
    """The strings of the tensor of that name, or of the only one."""
    tensors = [item for item in inputs if isinstance(item, dict)]
    tensor = next((item for item in tensors if item.get("name") == name), None)
    if tensor is None:
        raise HttpError(400, f"inputs must have a tensor named {name}", param="inputs")
    data, shape = tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list) or not data or not all(isinstance(item, str) for item in data):
        raise HttpError(400, f"data of {name} must be a list of strings", param="inputs")
    if tensor.get("datatype", "BYTES") != "BYTES":
        raise HttpError(400, f"datatype of {name} must be BYTES", param="inputs")
    is_shape = isinstance(shape, list) and all(isinstance(size, int) for size in shape)
    if shape is not None and not (is_shape and math.prod(shape) == len(data)):
        raise HttpError(400, f"shape of {name} must be [{len(data)}]", param="inputs")
    return data


def _tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    datatype = {"float32": "FP32", "uint8": "UINT8"}[str(values.dtype)]
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(values.shape),
        "data": values.reshape(-1).tolist(),
    }
