"""Fields of a request's JSON body: read, checked and documented from one line each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy.serving.http.errors import HttpError

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    # Of a form: the bytes of each file of that name.
    "file": (list,),
}
_ARTICLES: Final = {"integer": "an integer", "object": "an object", "array": "an array"}
_SHOWN: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field of a JSON object.

    Args:
        name: of the field.
        kind: JSON type, "any", or "file".
        help: one line.
        required: whether it must be there and not null.
        default: its value where it is missing or null.
        low: least value of a number.
        high: greatest value of a number.
        choices: the values it may have.
        max_length: of a string, in characters.
    """

    name: str
    kind: str
    help: str
    required: bool = False
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: Sequence[str] = ()
    max_length: int | None = None

    def read(self, body: Mapping[str, Any]) -> Any:
        """Its value in a body.

        Raises:
            HttpError: 400, another type or a value outside the bounds.
        """
        value = body.get(self.name)
        if value is None:
            if self.required:
                raise self._error(f"{self.name} is required: {self.help}")
            return self.default
        if self.kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)
        if self.kind != "any" and not self._is_typed(value):
            article = _ARTICLES.get(self.kind, f"a {self.kind}")
            raise self._error(f"{self.name} must be {article}, got {_brief(value)}")
        self._check(value)
        # 2 and 2.0 are one number, and one record in an image's file.
        return float(value) if self.kind == "number" else value

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        values: dict[str, Any] = {
            "type": None if self.kind == "any" else self.kind,
            "description": self.help,
            "default": self.default,
            "minimum": self.low,
            "maximum": self.high,
            "enum": list(self.choices) or None,
            "maxLength": self.max_length,
        }
        if self.kind == "file":
            values |= {"type": "string", "format": "binary"}
        return {key: value for key, value in values.items() if value is not None}

    def _is_typed(self, value: Any) -> bool:
        # bool is a subclass of int.
        is_bool = isinstance(value, bool)
        return isinstance(value, _TYPES[self.kind]) and (is_bool == (self.kind == "boolean"))

    def _check(self, value: Any) -> None:
        if self.kind in ("integer", "number"):
            # An integer of any size is JSON; a float64 ends here.
            low = -sys.float_info.max if self.low is None else self.low
            high = sys.float_info.max if self.high is None else self.high
            if not low <= value <= high:
                raise self._error(f"{self.name} must be {self._range()}, got {_brief(value)}")
        if self.choices and value not in self.choices:
            choices = ", ".join(self.choices)
            raise self._error(f"{self.name} must be one of {choices}, got {_brief(value)}")
        if self.max_length is not None and len(value) > self.max_length:
            raise self._error(
                f"{self.name} has {len(value)} characters; at most {self.max_length} are taken"
            )

    def _range(self) -> str:
        if self.low is None and self.high is None:
            return "a number that a float64 holds"
        if self.high is None:
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.low is None else f"{self.low:g} to {self.high:g}"

    def _error(self, message: str) -> HttpError:
        return HttpError(400, message, param=self.name)


def read_fields(body: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """Every field of a body by name; fields of other names are ignored, as OpenAI does.

    Raises:
        HttpError: 400, of the first that is wrong.
    """
    return {field.name: field.read(body) for field in fields}


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 2]}.."
