"""An answer of server-sent events, whose work ends with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from minit2i_deploy.serving.http.errors import CLIENT_LEFT, describe_and_log, openai_form


class EventStream(StreamingResponse):
    """Events as they come, and an error as the last one: the status is sent already.

    Args:
        events: name and JSON members of each.
        close: ends the work behind them; called once in any case, also where the client leaves
            before the first event.
        headers: of the answer.
    """

    def __init__(
        self,
        events: AsyncIterator[tuple[str, Mapping[str, Any]]],
        close: Callable[[], None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(self._lines(events), media_type="text/event-stream", headers=headers)
        self._close = close
        # Status of what happened: 200, that of an error in the stream, or CLIENT_LEFT.
        self.outcome = CLIENT_LEFT
        self._last = self.status_code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()

    async def stream_response(self, send: Send) -> None:
        await super().stream_response(send)
        # Not reached where the client leaves.
        self.outcome = self._last

    async def _lines(
        self, events: AsyncIterator[tuple[str, Mapping[str, Any]]]
    ) -> AsyncIterator[bytes]:
        try:
            async for name, members in events:
                yield _line(name, members)
        except Exception as error:
            failure = describe_and_log(error)
            self._last = failure.status
            yield _line("error", {"type": "error", **openai_form(failure)})


def _line(name: str, members: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(members)}\n\n".encode("ascii")
