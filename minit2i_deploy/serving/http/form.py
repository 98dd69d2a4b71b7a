"""multipart/form-data: the body of a request that sends files.

Source: RFC 7578 and RFC 2046, 5.1.1. The body is complete and bounded before it comes here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any, Final

from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.http.fields import Field

MEDIA_TYPE: Final = "multipart/form-data"
MAX_PARTS: Final = 64
_MAX_HEAD_BYTES: Final = 4096
_MAX_BOUNDARY: Final = 70
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One value of a form."""

    name: str
    data: bytes


def read_form(data: bytes, content_type: str) -> list[Part]:
    """The parts of a body, in order.

    Args:
        data: the body.
        content_type: the request's header, which names the boundary.

    Raises:
        HttpError: 415 another type, 400 a body that is no such form.
    """
    boundary = _boundary(content_type)
    # The first delimiter has no line end before it.
    pieces = (b"\r\n" + data).split(b"\r\n--" + boundary, MAX_PARTS + 2)
    if len(pieces) > MAX_PARTS + 2:
        raise HttpError(400, f"the form has more than {MAX_PARTS} parts; send fewer")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise HttpError(400, "the form does not end with its boundary; send the complete body")
    return [_part(piece) for piece in pieces[1:-1]]


def form_values(parts: Sequence[Part], fields: Sequence[Field]) -> dict[str, Any]:
    """Values of a form as a JSON body would have them; files are lists of bytes.

    A name may end in ``[]``, as clients write lists. A text that is no value of its field's type is
    left as it is, for the field to refuse.

    Raises:
        HttpError: 400, a text that is not UTF-8.
    """
    kinds = {field.name: field.kind for field in fields}
    values: dict[str, Any] = {}
    for part in parts:
        name = part.name.removesuffix("[]")
        kind = kinds.get(name)
        if kind == "file":
            values.setdefault(name, []).append(part.data)
        elif kind is not None:
            values[name] = _value(_text(name, part.data), kind)
    return values


def _boundary(content_type: str) -> bytes:
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_param("boundary")
    if head.get_content_type() != MEDIA_TYPE or not isinstance(boundary, str):
        raise HttpError(
            415, f"the body must be {MEDIA_TYPE} with a boundary, got {content_type[:60]!r}"
        )
    if not 0 < len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
        raise HttpError(400, f"the boundary must be 1 to {_MAX_BOUNDARY} ASCII characters")
    return boundary.encode("ascii")


def _part(piece: bytes) -> Part:
    # After the delimiter: perhaps spaces, a line end, the headers, an empty line, the data.
    head, separator, data = piece.partition(b"\r\n\r\n")
    name = _name(head) if separator and len(head) <= _MAX_HEAD_BYTES else None
    if name is None:
        raise HttpError(400, "a part of the form has no Content-Disposition: form-data with a name")
    return Part(name=name, data=data)


def _name(head: bytes) -> str | None:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition":
            message = Message()
            message["content-disposition"] = value.strip()
            name = message.get_param("name", header="content-disposition")
            return None if name is None else collapse_rfc2231_value(name)
    return None


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HttpError(400, f"{name} is not UTF-8", param=name) from error


def _value(text: str, kind: str) -> Any:
    if kind == "boolean":
        return _BOOLEANS.get(text.strip().lower(), text)
    try:
        if kind == "integer":
            return int(text)
        if kind == "number" and math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    return text
