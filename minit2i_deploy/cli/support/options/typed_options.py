"""From argparse's namespace to the frozen dataclass of options that a command takes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def options_type(run: Callable[[Any], None]) -> type[Any]:
    """The dataclass that a command's ``run(options)`` is annotated with."""
    (options,) = inspect.signature(run, eval_str=True).parameters.values()
    kind: type[Any] = options.annotation
    return kind


def read_options(kind: type[T], values: Mapping[str, object]) -> T:
    """Fill a dataclass from parsed arguments of the same names.

    A field that is itself a dataclass stands for a group of arguments that several commands share
    and is filled from the same values. Lists become tuples, so that the result is frozen.

    Args:
        kind: keyword-only dataclass; its fields have the names of the arguments.
        values: name of an argument -> its value.

    Raises:
        KeyError: a field that no argument fills.
    """
    filled: dict[str, Any] = {}
    for name, group in _groups(kind).items():
        filled[name] = read_options(group, values)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in filled:
            value = values[field.name]
            filled[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**filled)


def argument_names(kind: type[Any]) -> Iterator[str]:
    """Names of the arguments that fill a dataclass, those of its groups included."""
    groups = _groups(kind)
    for field in dataclasses.fields(kind):
        if field.name in groups:
            yield from argument_names(groups[field.name])
        else:
            yield field.name


def _groups(kind: type[Any]) -> dict[str, type[Any]]:
    hints: dict[str, type[Any]] = get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
