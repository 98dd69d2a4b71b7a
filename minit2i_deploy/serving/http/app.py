"""The ASGI application: endpoints behind access rules, limits, metrics and one form of errors."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from minit2i_deploy.serving.http.access import Access
from minit2i_deploy.serving.http.body import BodyLimits, ClientDisconnect, read_files, read_json
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.errors import (
    CLIENT_LEFT,
    LOG,
    Failure,
    HttpError,
    describe,
    describe_and_log,
    openai_form,
)
from minit2i_deploy.serving.http.event_stream import EventStream
from minit2i_deploy.serving.http.fields import read_fields
from minit2i_deploy.serving.http.metrics import Metrics

_SAFE_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_USUAL_NAMES: Final = "authorization, content-type, x-api-key"
# Of the answers, those that scripts of other sites may read.
_READ_NAMES: Final = "Retry-After, X-MiniT2I-Model, x-should-retry"
_NAMES: Final = re.compile(r"[\w-]+(, ?[\w-]+)*", re.ASCII)
_MAX_LOGGED_PATH: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rules:
    """What holds for every endpoint."""

    access: Access
    body: BodyLimits
    metrics: Metrics


def create_app(endpoints: Sequence[Endpoint], rules: Rules) -> Starlette:
    """The application.

    Args:
        endpoints: of every API.
        rules: for all of them.
    """
    paths: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    routes = [Route(path, _dispatch(path, methods, rules)) for path, methods in paths.items()]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_RefuseTwoLengths)],
        exception_handlers={HTTPException: _answer_unrouted},
    )


class _RefuseTwoLengths:
    """Refuses a body of two lengths, and ends the connection: what follows may be a request.

    h11 takes the chunks, and a proxy in front may have taken the length. Source: RFC 9112, 6.1.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if "transfer-encoding" not in headers or "content-length" not in headers:
            await self._app(scope, receive, send)
            return
        error = HttpError(
            400,
            "a request may have Content-Length or Transfer-Encoding, not both",
            headers={"Connection": "close"},
        )
        await _failed(describe(error), openai_form)(scope, receive, send)


def _dispatch(
    path: str, endpoints: Mapping[str, Endpoint], rules: Rules
) -> Callable[..., Awaitable[None]]:
    """Answers one path. An ASGI application, because Starlette limits functions to GET."""
    allowed = ", ".join([*endpoints, "OPTIONS"])

    class Path:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            request, began = Request(scope, receive, send), time.perf_counter()
            method = "GET" if request.method == "HEAD" else request.method
            endpoint = endpoints.get(method)
            if request.method == "OPTIONS":
                response = _preflight(request, rules, allowed)
            elif endpoint is None:
                error = HttpError(405, f"{path} takes {allowed}", headers={"Allow": allowed})
                response = _failed(describe(error), openai_form)
            else:
                response = await _answer(endpoint, request, rules)
            _add_headers(request, response, rules)
            await response(scope, receive, send)
            seconds, status = time.perf_counter() - began, response.status_code
            if isinstance(response, EventStream):
                status = response.outcome
                if status == CLIENT_LEFT:
                    rules.metrics.disconnected.inc()
            rules.metrics.request_done(path, status, seconds)
            _log(request, status, seconds)

    return Path()


async def _answer(endpoint: Endpoint, request: Request, rules: Rules) -> Response:
    """The response of an endpoint, or of the error it raised."""
    try:
        rules.access.check(request.headers, is_open=endpoint.is_open)
        body = await _read_body(endpoint, request, rules.body)
        values = read_fields(body, endpoint.fields)
        call = Call(request=request, values=values, body=body)
        return await _until_disconnect(request, endpoint.answer(call))
    except ClientDisconnect:
        rules.metrics.disconnected.inc()
        return Response(status_code=CLIENT_LEFT)
    except Exception as error:  # every error is answered, and none ends the server
        return _failed(describe_and_log(error), endpoint.error_form)


async def _read_body(endpoint: Endpoint, request: Request, limits: BodyLimits) -> dict[str, Any]:
    if endpoint.method != "POST":
        return {}
    if endpoint.takes_files:
        return await read_files(request, limits, endpoint.fields)
    return await read_json(request, limits)


async def _until_disconnect(request: Request, answer: Awaitable[Response]) -> Response:
    """Wait for an answer; if the client leaves first, cancel it.

    Raises:
        ClientDisconnect: it left.
    """
    work = asyncio.ensure_future(answer)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientDisconnect
    finally:
        for task in (work, watch):
            task.cancel()
        # Let the order behind it be cancelled before anything else happens.
        await asyncio.gather(work, watch, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _preflight(request: Request, rules: Rules, allowed: str) -> Response:
    """A browser's question before a request of another site's page."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is None or not rules.access.allows_origin(origin, host):
        return Response(status_code=204, headers={"Allow": allowed})
    # Clients add further headers: OpenAI's a dozen that begin with x-stainless.
    names = request.headers.get("access-control-request-headers", "")
    headers = {
        "Allow": allowed,
        "Access-Control-Allow-Methods": allowed,
        "Access-Control-Allow-Headers": names if _NAMES.fullmatch(names) else _USUAL_NAMES,
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=headers)


def _add_headers(request: Request, response: Response, rules: Rules) -> None:
    for name, value in _SAFE_HEADERS.items():
        response.headers[name] = value
    origin = request.headers.get("origin")
    if origin is not None and rules.access.allows_origin(origin, ""):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _READ_NAMES
        response.headers["Vary"] = "Origin"


def _failed(failure: Failure, form: Callable[[Failure], dict[str, Any]]) -> Response:
    return JSONResponse(form(failure), failure.status, dict(failure.headers))


async def _answer_unrouted(request: Request, error: Exception) -> Response:
    """No such path."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    failure = describe(HttpError(status, "no such path; GET /openapi.json lists them"))
    _log(request, failure.status, 0.0)
    return _failed(failure, openai_form)


def _log(request: Request, status: int, seconds: float) -> None:
    # A path may hold line ends, and a query keys.
    path = quote(request.scope["path"])[:_MAX_LOGGED_PATH]
    LOG.info("%s %s %d %.3f s", quote(request.method), path, status, seconds)
