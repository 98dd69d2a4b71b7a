"""How many threads an engine may be asked for."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.errors import UsageError

# More than any one machine has cores; an engine starts as many as it is told, and many more than
# that keep the system busy for hours.
MAX_THREADS: Final = 4096


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no machine has.

    Raises:
        UsageError: it is not in 0..MAX_THREADS.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise UsageError(
            f"threads is {threads}, but 0 (the engine's choice) to {MAX_THREADS} is needed; more "
            "than the machine's cores gains nothing"
        )
