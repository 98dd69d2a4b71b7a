"""Arguments that several commands share, and the types of values that arguments take."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

RANDOM: Final = "random"
# Short enough for file names; seeds may have 64 bits.
_RANDOM_SEED_BITS: Final = 32


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """BUNDLE."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that minit2i export made")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def integer(text: str) -> int:
    """An integer.

    Raises:
        ArgumentTypeError: the text is none.
    """
    return _parsed(text, int, "an integer")


def number(text: str) -> float:
    """A number.

    Raises:
        ArgumentTypeError: the text is none.
    """
    return _parsed(text, float, "a number")


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated integers.

    Raises:
        ArgumentTypeError: one of them is none.
    """
    return _parsed(text, _list_of(int), "comma-separated integers")


def numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers.

    Raises:
        ArgumentTypeError: one of them is none.
    """
    return _parsed(text, _list_of(float), "comma-separated numbers")


def seeds(text: str) -> tuple[int, ...]:
    """Comma-separated seeds; ``random`` draws one.

    Raises:
        ArgumentTypeError: one of them is neither.
    """
    return _parsed(text, _list_of(_seed), f"comma-separated integers or {RANDOM}")


def _seed(text: str) -> int:
    return secrets.randbits(_RANDOM_SEED_BITS) if text == RANDOM else int(text)


def _list_of(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(kind(part) for part in text.split(","))


def _parsed(text: str, kind: Callable[[str], T], expected: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None
