"""OpenAI's list of models: GET /v1/models."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from minit2i_deploy.serving.engine.served_model import ServedModel
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.service import Service
from minit2i_deploy.solvers.methods import SOLVERS


class OpenAiModels:
    """The endpoints.

    Args:
        service: knows the bundles.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        """Of this dialect."""
        return [
            Endpoint(
                method="GET", path="/v1/models", answer=self._list, summary="The served bundles"
            ),
            Endpoint(
                method="GET",
                path="/v1/models/{name}",
                answer=self._one,
                summary="One of the served bundles",
            ),
        ]

    async def _list(self, call: Call) -> Response:
        data = [self._describe(model) for model in self._service.models.values()]
        return JSONResponse({"object": "list", "data": data})

    async def _one(self, call: Call) -> Response:
        name = call.request.path_params["name"]
        if name not in self._service.models:
            served = ", ".join(self._service.models)
            raise HttpError(404, f"model {name[:60]!r} is not served; choose one of {served}")
        return JSONResponse(self._describe(self._service.models[name]))

    def _describe(self, model: ServedModel) -> dict[str, Any]:
        manifest, config = model.bundle.manifest, model.bundle.config
        return {
            "id": model.name,
            "object": "model",
            "created": int(self._service.started_s),
            "owned_by": "minit2i-deploy",
            "bundle": model.bundle.digest,
            "size": model.size,
            "side_bounds": manifest.side_bounds and list(manifest.side_bounds),
            "kind": "student" if model.is_student else "base",
            "precision": manifest.graphs["transformer"].precision,
            "runtime": self._service.engine.runtime_name(model.name),
            "tables": list(manifest.tables),
            "solvers": [
                name for name, solver in SOLVERS.items() if solver.conditioned == model.is_student
            ],
            "presets": {
                name: {"table": preset.table, "guidance_scale": preset.guidance}
                for name, preset in manifest.presets.items()
            },
            "default_preset": manifest.default_preset,
            "a_min": manifest.flavour.a_min,
            "prompt_length": config.prompt_length,
            "embedding_width": config.txt_input_size,
        }
