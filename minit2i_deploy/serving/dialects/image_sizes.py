"""Sizes that clients ask for, against those that a bundle has."""

from __future__ import annotations

import re

from minit2i_deploy.errors import UsageError
from minit2i_deploy.serving.engine.served_model import ServedModel
from minit2i_deploy.serving.http.errors import HttpError


def model_at_size(
    model: ServedModel, size: str | None, *, strict: bool
) -> tuple[ServedModel, tuple[str, ...]]:
    """The model for images of a size such as ``1024x1024``, and what to say of it.

    A size that the bundle does not have is answered with its own, with a notice; nothing is said
    of ``auto``.

    Raises:
        HttpError: 400, no size; under ``strict``, one that the bundle does not have.
    """
    if size is None or size == "auto":
        return model, ()
    if not re.fullmatch(r"[0-9]{1,5}x[0-9]{1,5}", size):
        raise HttpError(400, f"size must be auto or WIDTHxHEIGHT, got {size[:40]!r}", param="size")
    width, height = map(int, size.split("x"))
    try:
        return model.at_size(width, height), ()
    except UsageError as error:
        bounds = model.bundle.manifest.side_bounds
        reason = "" if bounds is None else f" ({error})"
        text = f"{model.name} generates {model.size}, not {size}{reason}"
        if strict:
            raise HttpError(400, f"{text}; ask for that or for auto", param="size") from error
    return model, (text,)
