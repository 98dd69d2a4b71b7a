"""/openapi.json, from the endpoints themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from minit2i_deploy._version import __version__
from minit2i_deploy.serving.http.endpoint import Endpoint
from minit2i_deploy.serving.http.form import MEDIA_TYPE


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the endpoints that are listed."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        if endpoint.is_listed:
            path = re.sub(r":\w+}", "}", endpoint.path)
            paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "minit2i serve", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(endpoint: Endpoint, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": re.sub(r"\W+", "_", f"{endpoint.method.lower()}{path}").strip("_"),
        "responses": {
            "200": {"description": "done"},
            "default": {"description": "an error: one line that says what to do"},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    if parameters:
        operation["parameters"] = parameters
    if not endpoint.is_open:
        operation["security"] = [{"key": []}, {}]
    if endpoint.fields:
        schema = {
            "type": "object",
            "properties": {field.name: field.schema() for field in endpoint.fields},
            "required": [field.name for field in endpoint.fields if field.required],
        }
        media_type = MEDIA_TYPE if endpoint.takes_files else "application/json"
        operation["requestBody"] = {"content": {media_type: {"schema": schema}}}
    return operation
