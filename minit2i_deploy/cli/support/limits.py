"""Bounds on counts that a command takes, so that it can finish."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.errors import UsageError

# Six kinds of this many images know a share to 0.4 percentage points.
MAX_PER_KIND: Final = 10_000
# A median of more calls does not move, and all of them are held in memory.
MAX_REPEATS: Final = 100_000
# Texts of the embed stage, all different and all held in memory.
MAX_TEXTS: Final = 100_000


def check_least(option: str, value: float, least: int) -> None:
    """Refuse a number below ``least``.

    Raises:
        UsageError: it is.
    """
    if not value >= least:
        raise UsageError(f"{option}: expected at least {least}, got {value}")


def check_count(option: str, value: int, most: int, why: str, *, least: int = 1) -> None:
    """Refuse a count that is too small, or so large that the command would not finish.

    Args:
        option: its name on the command line.
        value: as given.
        most: the largest that is accepted.
        why: the reason against more.
        least: the smallest that is accepted.

    Raises:
        UsageError: the value is outside both.
    """
    check_least(option, value, least)
    if value > most:
        raise UsageError(f"{option}: expected at most {most}, got {value}; {why}")


def check_per_kind(option: str, value: int) -> None:
    """Refuse a number of captions per kind.

    Raises:
        UsageError: below 1 or above MAX_PER_KIND.
    """
    check_count(option, value, MAX_PER_KIND, "that many know the score to 0.4 percentage points")


def check_repeats(option: str, value: int, *, least: int = 1) -> None:
    """Refuse a number of timed calls.

    Raises:
        UsageError: below ``least`` or above MAX_REPEATS.
    """
    check_count(option, value, MAX_REPEATS, "a median gains nothing from more", least=least)
