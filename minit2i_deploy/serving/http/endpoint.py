"""One path of an API: what it reads, what answers it and the form of its errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from minit2i_deploy.serving.http.errors import Failure, openai_form
from minit2i_deploy.serving.http.fields import Field


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Call:
    """A request that was read.

    Args:
        request: Starlette's.
        values: of the endpoint's fields.
        body: the complete JSON object, or the values of a form.
    """

    request: Request
    values: Mapping[str, Any]
    body: Mapping[str, Any]

    @property
    def client(self) -> Hashable:
        """Who asks: the address and the key. Behind a proxy all have its address."""
        peer, headers = self.request.client, self.request.headers
        keys = (headers.get("authorization"), headers.get("x-api-key"))
        return (peer.host if peer else None, *keys)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Endpoint:
    """One path and method.

    Args:
        method: GET or POST.
        path: with parameters as Starlette writes them.
        answer: called with the request; may raise anything.
        summary: one line for /openapi.json.
        fields: of the body.
        takes_files: whether the body is a form with files, and not JSON.
        error_form: the JSON of an error.
        is_open: whether it needs no API key.
        is_listed: whether /openapi.json has it.
    """

    method: str
    path: str
    answer: Callable[[Call], Awaitable[Response]]
    summary: str
    fields: Sequence[Field] = field(default=())
    takes_files: bool = False
    error_form: Callable[[Failure], dict[str, Any]] = openai_form
    is_open: bool = False
    is_listed: bool = True
