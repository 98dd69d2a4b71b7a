"""Answers of many numbers, which are written on another thread than the one that serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import JSONResponse

# About a microsecond a number as text; fewer are written at once.
_MANY_NUMBERS: Final = 20_000


async def json_response(build: Callable[[], Any], num_numbers: int) -> JSONResponse:
    """An answer that does not hold up others.

    Args:
        build: returns what it holds; called once, on any thread.
        num_numbers: about how many are in it.
    """
    if num_numbers < _MANY_NUMBERS:
        return JSONResponse(build())
    return await asyncio.to_thread(lambda: JSONResponse(build()))
