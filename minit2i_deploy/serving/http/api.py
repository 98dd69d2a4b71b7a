"""Every endpoint of the server."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from minit2i_deploy.serving.dialects.image_links import ImageLinks
from minit2i_deploy.serving.dialects.kserve import KServe
from minit2i_deploy.serving.dialects.openai_embeddings import OpenAiEmbeddings
from minit2i_deploy.serving.dialects.openai_images import OpenAiImages
from minit2i_deploy.serving.dialects.openai_models import OpenAiModels
from minit2i_deploy.serving.dialects.tei import Tei
from minit2i_deploy.serving.dialects.web_ui import WebUi
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.metrics import Metrics
from minit2i_deploy.serving.http.openapi import document
from minit2i_deploy.serving.http.page_files import page_endpoints
from minit2i_deploy.serving.service import Service


def all_endpoints(service: Service, metrics: Metrics) -> list[Endpoint]:
    """Of every API and the page."""
    links = ImageLinks()
    endpoints = [
        *OpenAiImages(service, links).endpoints(),
        *links.endpoints(),
        *OpenAiEmbeddings(service).endpoints(),
        *OpenAiModels(service).endpoints(),
        *Tei(service, metrics).endpoints(),
        *WebUi(service).endpoints(),
        *KServe(service).endpoints(),
        *page_endpoints(),
    ]
    contents: dict[str, Any] = document(endpoints)

    async def answer(call: Call) -> Response:
        return JSONResponse(contents)

    listed = Endpoint(
        method="GET",
        path="/openapi.json",
        answer=answer,
        summary="This document",
        is_open=True,
        is_listed=False,
    )
    return [*endpoints, listed]
