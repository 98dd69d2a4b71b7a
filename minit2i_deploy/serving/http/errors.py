"""Errors to HTTP: one table for every API, and the forms that clients read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from minit2i_deploy.errors import Minit2iError, RuntimeFailure, UsageError
from minit2i_deploy.serving.engine.orders import DeadlineExceeded, Stopping
from minit2i_deploy.serving.scheduling.scheduler import QueueFull
from minit2i_deploy.serving.service import UnknownModel

# nginx's status of a request whose client left; nobody reads it.
CLIENT_LEFT: Final = 499
LOG: Final = logging.getLogger("minit2i.serve")
_MAX_LOGGED_ERROR: Final = 500
_INTERNAL: Final = "internal error of the server; its log has a line about it"


class HttpError(Exception):
    """An answer other than success.

    Args:
        status: of HTTP.
        message: one line.
        param: name of the field that is wrong, or None.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.headers = status, param, dict(headers or {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An error as it is answered.

    Args:
        status: of HTTP.
        message: one line.
        kind: OpenAI's word for it.
        param: name of the field that is wrong, or None.
        code: OpenAI's short name of the cause, or None.
        headers: of the answer.
        is_ours: whether it is the server's fault, so that the log says more.
    """

    status: int
    message: str
    kind: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False


# Status -> OpenAI's word. Source: https://platform.openai.com/docs/guides/error-codes
_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
_TEI_KINDS: Final = {422: "tokenizer", 424: "backend", 429: "overloaded", 503: "unhealthy"}


def describe(error: Exception) -> Failure:
    """What is answered to an error."""
    if isinstance(error, HttpError):
        return _failure(error.status, error, param=error.param, headers=error.headers)
    if isinstance(error, QueueFull):
        headers = {"Retry-After": str(error.retry_after_s)}
        return _failure(429, error, code="queue_full", headers=headers)
    if isinstance(error, UnknownModel):
        return _failure(404, error, param="model", code="model_not_found")
    if isinstance(error, UsageError):
        return _failure(400, error)
    if isinstance(error, DeadlineExceeded):
        # A client that tries again would only wait as long again.
        return _failure(504, error, code="deadline", headers={"x-should-retry": "false"})
    if isinstance(error, Stopping):
        return _failure(503, error, code="stopping", headers={"Retry-After": "5"})
    if isinstance(error, RuntimeFailure):
        return _failure(500, error, headers={"x-should-retry": "false"}, is_ours=True)
    message = str(error) if isinstance(error, Minit2iError) else _INTERNAL
    return Failure(status=500, message=message, kind=_KINDS[500], is_ours=True)


def describe_and_log(error: Exception) -> Failure:
    """What is answered to an error; the log says more of what is the server's own fault."""
    failure = describe(error)
    if failure.is_ours:
        text = " ".join(str(error).split())[:_MAX_LOGGED_ERROR]
        LOG.error("%s: %s", type(error).__name__, text)
        LOG.debug("where it came from", exc_info=error)
    return failure


def openai_form(failure: Failure) -> dict[str, Any]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": failure.message,
            "type": failure.kind,
            "param": failure.param,
            "code": failure.code,
        }
    }


def tei_form(failure: Failure) -> dict[str, Any]:
    """The error of text-embeddings-inference."""
    kind = _TEI_KINDS.get(failure.status, "validation" if failure.status < 500 else "backend")
    return {"error": failure.message, "error_type": kind}


def text_form(failure: Failure) -> dict[str, Any]:
    """The error of KServe's protocol."""
    return {"error": failure.message}


def web_ui_form(failure: Failure) -> dict[str, Any]:
    """The error of AUTOMATIC1111's web UI."""
    return {"error": failure.kind, "detail": failure.message, "errors": failure.message}


def _failure(status: int, error: Exception, **fields: Any) -> Failure:
    kind = _KINDS.get(status, "invalid_request_error")
    line = " ".join(str(error).split())
    return Failure(status=status, message=line, kind=kind, **fields)
