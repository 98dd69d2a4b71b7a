"""Sizes that clients ask for, against the one that a bundle has."""

from __future__ import annotations

import re

from minit2i_deploy.serving.engine.served_model import ServedModel
from minit2i_deploy.serving.http.errors import HttpError


def size_notices(model: ServedModel, size: str | None, *, strict: bool) -> tuple[str, ...]:
    """What to say of a size such as ``1024x1024``; nothing of ``auto`` and of the bundle's own.

    Raises:
        HttpError: 400, no size; under ``strict``, another size than the bundle's.
    """
    if size is None or size == "auto":
        return ()
    if not re.fullmatch(r"[0-9]{1,5}x[0-9]{1,5}", size):
        raise HttpError(400, f"size must be auto or WIDTHxHEIGHT, got {size[:40]!r}", param="size")
    if size == model.size:
        return ()
    text = f"{model.name} generates {model.size}, not {size}"
    if strict:
        raise HttpError(400, f"{text}; ask for that or for auto", param="size")
    return (text,)
