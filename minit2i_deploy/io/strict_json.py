"""Strict JSON: parsed into frozen dataclasses without unknown, missing or duplicate fields.

All functions raise ValueError with one line; callers wrap it in an error of their own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from minit2i_deploy.errors import Minit2iError


def parse_json(data: bytes) -> Any:
    """Parse UTF-8 JSON; refuse NaN, infinity, duplicate keys and excessive nesting.

    Raises:
        ValueError: the text is not such JSON; the message says what and where.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite_float,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def decode(kind: Any, value: Any, where: str) -> Any:
    """Build a value of a type from parsed JSON.

    Args:
        kind: str, int, float, bool, object (anything), a union of scalars, ``tuple[T, ...]``,
            ``Mapping[str, T]``, or a dataclass of such fields. A dataclass with ``from_dict`` is
            built by it. Defaults do not apply: every field must be present.
        value: from ``parse_json``.
        where: dotted path of the value, for the error.

    Raises:
        ValueError: the value is not of that type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return value
    if origin is types.UnionType:
        return _decode_union(arguments, value, where)
    if origin is tuple:
        items = _expect(list, value, where)
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is Mapping:
        entries = _expect(dict, value, where)
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in entries.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, _expect(dict, value, where), where)
    # From 2**53 on, not every integer is a float: the value would silently be another.
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    return _expect(kind, value, where)


def encode(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into what ``json.dumps`` takes; inverse of decode."""
    if hasattr(value, "to_dict"):
        return encode(value.to_dict())
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


_TYPE_NAMES: Mapping[Any, str] = {
    str: "text",
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _expect(kind: Any, value: Any, where: str) -> Any:
    # Not isinstance: in Python True is an int, in JSON it is no number.
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where}: expected {_TYPE_NAMES[kind]}, got {_brief(value)}")
    return value


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return decode(kind, value, where)
        except ValueError:
            continue
    expected = " or ".join(_TYPE_NAMES.get(kind, "an object") for kind in kinds)
    raise ValueError(f"{where}: expected {expected}, got {_brief(value)}")


def _decode_dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    if hasattr(kind, "from_dict"):
        try:
            return kind.from_dict(value)
        # Rules between fields divide: a size of 0 is a wrong value and not a fault of the rule.
        except (Minit2iError, TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"{where}: {error}") from error
    names = [field.name for field in dataclasses.fields(kind)]
    unknown, missing = sorted(set(value) - set(names)), sorted(set(names) - set(value))
    if unknown or missing:
        raise ValueError(f"{where}: unknown fields {unknown[:8]}, missing fields {missing}")
    hints = typing.get_type_hints(kind)
    fields = {name: decode(hints[name], value[name], f"{where}.{name}") for name in names}
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python takes the last of two equal keys. A reader that takes the first would see other data.
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {_brief(key)}")
        result[key] = value
    return result


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def _finite_float(text: str) -> float:
    # 1e999 is JSON, and Python reads it as infinity.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_brief(text)} is too large a number")
    return value
