"""Check the types of a request's arguments."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any, cast

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.guidance import has_requested_interval
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.prompts import Mix, Prompt


def as_prompts(prompts: object) -> list[Prompt]:
    """One prompt or several, as a list.

    Raises:
        UsageError: another type, or an empty list.
    """
    if isinstance(prompts, str | Mix):
        return [prompts]
    items = list(prompts) if isinstance(prompts, Iterable) else None
    if items is None or not all(isinstance(item, str | Mix) for item in items):
        raise UsageError(
            f"prompts must be a string, a Mix or a list of them, got {_brief(prompts)}"
        )
    if not items:
        raise UsageError("expected at least one prompt (it may be empty), got none")
    return items


def as_seeds(seed: object, count: int) -> tuple[int, ...]:
    """One seed for each of ``count`` prompts.

    Raises:
        UsageError: neither an integer nor a list of integers, or another number of seeds.
    """
    several = isinstance(seed, Iterable) and not isinstance(seed, str)
    items: list[Any] = list(cast("Iterable[Any]", seed)) if several else [seed]
    try:
        seeds = tuple(_index(item) for item in items)
    except TypeError as error:
        raise UsageError(
            f"seed must be an integer, or one for each prompt, got {_brief(seed)}"
        ) from error
    if several and len(seeds) != count:
        raise UsageError(f"expected one seed, or one for each of {count} prompts, got {len(seeds)}")
    return seeds if several else seeds * count


def check_settings(table: object, guidance: object, negative: object, noise: object) -> None:
    """Refuse settings of another type; each may be None.

    Raises:
        UsageError: names the first of them.
    """
    rules: tuple[tuple[str, object, Any, str], ...] = (
        ("table", table, Table, "a Table of solver_table or Bundle.table"),
        ("guidance", guidance, Real | np.floating | np.integer, "a number"),
        ("negative", negative, str, "a string"),
        ("noise", noise, np.ndarray, "a float32 numpy array"),
    )
    for name, value, kind, description in rules:
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"{name} must be {description}, got {_brief(value)}")


def check_one_pass(
    bundle: Path, scale: float, table: Table, guidance: float, negative: str | None
) -> None:
    """Refuse what weights that give the guided estimate in one branch cannot do.

    Args:
        bundle: of these weights, for the text.
        scale: of the guidance that is part of them.
        table: solver, perhaps narrowed to an interval.
        guidance: what was asked for.
        negative: prompt in place of the unconditional branch, or None.

    Raises:
        UsageError: another scale, a negative prompt, or an interval for a table that guides no row.
    """
    # The words are those of the C++ and JavaScript clients.
    part = f"guidance {scale:g} is part of the weights of {bundle} (one-pass adapter)"
    if not math.isclose(guidance, scale, rel_tol=1e-6):
        raise UsageError(f"{part}, got {guidance:g}; omit it")
    if negative is not None:
        raise UsageError(f"{part}, which has no branch for a negative prompt; omit it")
    # The rows of these weights' own tables cannot show that an interval was requested.
    if has_requested_interval(table) and not table.column("share").any():
        raise UsageError(f"{part}; omit the interval")


def _index(value: Any) -> int:
    # operator.index takes True for 1.
    if isinstance(value, bool | np.bool_):
        raise TypeError
    return operator.index(value)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
