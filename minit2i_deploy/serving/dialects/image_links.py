"""Images under addresses that cannot be guessed, in memory and for a while."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from starlette.responses import Response

from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.errors import HttpError

_PATH: Final = "v1/images/files/"
_KEY_BYTES: Final = 24


class ImageLinks:
    """Finished images by a random name.

    Args:
        max_bytes: of all of them; the oldest go first.
        max_seconds: each is there.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 64 * 2**20,
        max_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes, self._max_seconds, self._clock = max_bytes, max_seconds, clock
        self._files: OrderedDict[str, tuple[float, str, bytes]] = OrderedDict()
        self._num_bytes = 0

    def endpoints(self) -> list[Endpoint]:
        """The images' own path, without a key: who has the name was given it."""
        return [
            Endpoint(
                method="GET",
                path=f"/{_PATH}{{name}}",
                answer=self._read,
                summary="An image that was asked for with response_format url",
                is_open=True,
            )
        ]

    def add(self, data: bytes, media_type: str) -> str:
        """Keep a file, and return its path without the first slash."""
        name = secrets.token_urlsafe(_KEY_BYTES)
        self._files[name] = (self._clock() + self._max_seconds, media_type, data)
        self._num_bytes += len(data)
        self._drop()
        return _PATH + name

    async def _read(self, call: Call) -> Response:
        self._drop()
        file = self._files.get(call.request.path_params["name"])
        if file is None:
            minutes = self._max_seconds / 60
            raise HttpError(404, f"no such image; it was kept for {minutes:g} minutes")
        return Response(file[2], media_type=file[1], headers={"Cache-Control": "no-store"})

    def _drop(self) -> None:
        now = self._clock()
        while self._files:
            name, (until, _, data) = next(iter(self._files.items()))
            if until > now and self._num_bytes <= self._max_bytes:
                return
            del self._files[name]
            self._num_bytes -= len(data)
