"""Whether what was asked to be painted is of the types that painting takes."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any, cast

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.prompts import Mix, Prompt


def as_prompts(prompts: object) -> list[Prompt]:
    """One prompt or several, as a list.

    Raises:
        UsageError: something else, or none.
    """
    if isinstance(prompts, str | Mix):
        return [prompts]
    wanted = list(prompts) if isinstance(prompts, Iterable) else None
    if wanted is None or not all(isinstance(item, str | Mix) for item in wanted):
        raise UsageError(
            f"prompts are {_words(prompts)}, but a text, a Mix or a list of them is needed"
        )
    if not wanted:
        raise UsageError("no prompt came; give at least one (it may be empty)")
    return wanted


def as_seeds(seed: object, count: int) -> tuple[int, ...]:
    """One seed for each of ``count`` prompts.

    Raises:
        UsageError: no whole number and no list of them, or another number of seeds.
    """
    several = isinstance(seed, Iterable) and not isinstance(seed, str)
    given: list[Any] = list(cast("Iterable[Any]", seed)) if several else [seed]
    try:
        # True counts as 1 there.
        truths = any(isinstance(item, bool | np.bool_) for item in given)
        seeds = () if truths else tuple(operator.index(item) for item in given)
    except TypeError:
        truths = True
    if truths:
        raise UsageError(
            f"seed is {_words(seed)}, but a whole number, or one for each prompt, is needed"
        )
    if several and len(seeds) != count:
        raise UsageError(f"{len(seeds)} seeds came for {count} prompts; give one, or one for each")
    return seeds if several else seeds * count


def check_settings(table: object, guidance: object, negative: object, noise: object) -> None:
    """Refuse settings of another type; None, for what was left open, is right for each.

    Raises:
        UsageError: names the first of them.
    """
    wanted: tuple[tuple[str, object, Any, str], ...] = (
        ("table", table, Table, "a Table, as solver_table or Bundle.table gives it,"),
        ("guidance", guidance, Real | np.floating | np.integer, "a number"),
        ("negative", negative, str, "a text"),
        ("noise", noise, np.ndarray, "a float32 numpy array"),
    )
    for name, value, kind, words in wanted:
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"{name} is {_words(value)}, but {words} is needed")


def _words(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
