"""The body of a request, JSON or a form, within bounds of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from minit2i_deploy.io.strict_json import parse_json
from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.http.fields import Field
from minit2i_deploy.serving.http.form import form_values, read_form


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyLimits:
    """Bounds of a request's body.

    Args:
        max_bytes: of the body.
        max_seconds: from its first byte to its last.
    """

    max_bytes: int = 8 * 2**20
    max_seconds: float = 20.0


async def read_json(request: Request, limits: BodyLimits) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        HttpError: 408 too slow, 413 too large, 400 no JSON object; NaN is none.
        ClientDisconnect: the client left.
    """
    data = await _read_all(request, limits)
    try:
        body = parse_json(data) if data else {}
    except ValueError as error:
        raise HttpError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise HttpError(400, f"the body must be a JSON object, got {type(body).__name__}")
    return body


async def read_files(
    request: Request, limits: BodyLimits, fields: Sequence[Field]
) -> dict[str, Any]:
    """Read a form with files as a JSON object would have its values; files are lists of bytes.

    Raises:
        HttpError: 408 too slow, 413 too large, 415 no form, 400 a broken one.
        ClientDisconnect: the client left.
    """
    data = await _read_all(request, limits)
    return form_values(read_form(data, request.headers.get("content-type", "")), fields)


async def _read_all(request: Request, limits: BodyLimits) -> bytes:
    try:
        async with asyncio.timeout(limits.max_seconds):
            return await _read(request, limits.max_bytes)
    except TimeoutError:
        raise HttpError(
            408,
            f"the body did not arrive within {limits.max_seconds:g} s",
            headers={"Connection": "close"},
        ) from None


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = HttpError(
        413, f"the body is larger than {max_bytes} bytes", headers={"Connection": "close"}
    )
    # Before its bytes are taken; a length that lies is seen below.
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    return bytes(data)


__all__ = ["BodyLimits", "ClientDisconnect", "read_files", "read_json"]
