"""Parsing of a recipe's values: types, unknown keys, sections, overrides."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from minit2i_deploy.errors import UsageError

_Section = TypeVar("_Section")


def parse_section(kind: type[_Section], name: str, values: object) -> _Section | None:
    """Build one of the recipe's parts with keys of its own, such as ``distill``.

    Args:
        kind: the part's dataclass.
        name: of its key.
        values: as in YAML; None where the recipe has no such part.

    Raises:
        UsageError: a key is unknown or missing, or a value is outside its range.
    """
    if values is None or isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise UsageError(f"recipe: {name} is {values!r}, but it must be a mapping of its own keys")
    check_keys(f"{name}.", values, dataclasses.fields(kind))  # type: ignore[arg-type]
    return kind(**{key: parse_number(kind, key, value) for key, value in values.items()})


def check_keys(
    prefix: str, values: Mapping[str, Any], fields: Iterable[dataclasses.Field[Any]]
) -> None:
    """Compare the keys of a mapping with the fields they fill.

    Args:
        prefix: of the keys in messages, for example "data.".
        values: the recipe's mapping.
        fields: of the dataclass.

    Raises:
        UsageError: a key is unknown, with the nearest name, or one without a default is missing.
    """
    names = {item.name: item for item in fields}
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise UsageError(f"recipe: unknown key {f'{prefix}{key}'!r}; {hint}")
    for key, item in names.items():
        optional = {item.default, item.default_factory} != {dataclasses.MISSING}
        if key not in values and not optional:
            raise UsageError(f"recipe: {prefix}{key} is missing; add it")


def parse_number(kind: type, name: str, value: Any) -> Any:
    """A value of a dataclass's key as a float where it is one: YAML 1.1 reads 1e-3 as text."""
    types = {item.name: item.type for item in dataclasses.fields(kind)}
    if not isinstance(value, str) or types.get(name) != "float":
        return value
    try:
        return float(value)
    except ValueError:
        return value


def check_type(name: str, annotation: str, value: object) -> None:
    """Check a value of a plain type; values of other types are not checked.

    Args:
        name: of the key.
        annotation: of its field: "str", "bool", "int" or "float".
        value: the recipe's.

    Raises:
        UsageError: the value has another type, or is not finite.
    """
    types: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "bool": (bool,),
        "int": (int,),
        "float": (int, float),
    }
    if annotation not in types:
        return
    labels = {"str": "a string", "bool": "true or false", "int": "an integer", "float": "a number"}
    is_bool = isinstance(value, bool)
    valid = isinstance(value, types[annotation]) and is_bool == (annotation == "bool")
    if not valid or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"recipe: {name} is {value!r}, but it must be {labels[annotation]}")


def set_override(values: dict[str, Any], keys: list[str], value: object) -> None:
    """Set ``values[keys[0]][keys[1]]...``, creating mappings on the way.

    Raises:
        UsageError: a key on the way holds a plain value.
    """
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UsageError(f"override {'.'.join(keys)}: {key} holds a plain value, not a mapping")
    values[keys[-1]] = value
