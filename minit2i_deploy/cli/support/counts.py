"""Numbers of things that a command is told to do, kept to what it can answer."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.errors import UsageError

# Six kinds of so many pictures know a share to 0.4 percentage points.
MAX_PER_KIND: Final = 10_000
# A median moves no more after so many, and all of them are kept.
MAX_REPEATS: Final = 100_000
# Texts of the embed stage, all different and all held.
MAX_TEXTS: Final = 100_000


def check_count(option: str, value: int, most: int, why: str, *, least: int = 1) -> None:
    """Refuse a number that is too small, or so large that no answer would come.

    Args:
        option: as it stands on the command line.
        value: what came.
        most: the largest that is taken.
        why: what speaks against more.
        least: the smallest that is taken.

    Raises:
        UsageError: the value is outside both.
    """
    if value < least:
        raise UsageError(f"{option} is {value}, but at least {least} is needed")
    if value > most:
        raise UsageError(f"{option} is {value}, but at most {most} is taken: {why}")


def check_per_kind(option: str, value: int) -> None:
    """Refuse a number of captions a kind.

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
