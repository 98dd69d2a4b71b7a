"""What a call costs by its size, learned from the calls themselves.

On a GPU a call of eight sequences costs little more than a call of one. On a CPU it costs eight
times as much, and a larger batch only makes every image in it wait for the others.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

# A larger call must make each sequence cheaper by this share to be worth the wait.
WORTH: Final = 0.04
# Weight of the newest call in the mean.
_SMOOTHING: Final = 0.2
_FIRST_GUESS_S: Final = 0.01


class CostModel:
    """Seconds of a sequence by the size of its call, per bundle.

    Sizes are counted in powers of two: 1, 2, 3 to 4, 5 to 8 and so on.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, dict[int, float]] = defaultdict(dict)

    def learn(self, model: str, num_sequences: int, seconds: float) -> None:
        """Count a call.

        Args:
            model: name of the bundle.
            num_sequences: in the call, at least 1.
            seconds: it took.
        """
        size, cost = _size(num_sequences), seconds / num_sequences
        before = self._seconds[model].get(size, cost)
        self._seconds[model][size] = before + _SMOOTHING * (cost - before)

    def sequence_s(self, model: str) -> float:
        """Seconds of a sequence at the cheapest size; a guess before the first call."""
        return min(self._seconds[model].values(), default=_FIRST_GUESS_S)

    def efficient_size(self, model: str, *, worth: float = WORTH) -> int:
        """Most sequences that a call should have.

        The smallest size that is nearly the cheapest of those tried. Where that is the largest one
        tried, the next larger size, so that it is tried as soon as there is work for it.

        Args:
            model: name of the bundle.
            worth: by what share a larger call must make each sequence cheaper.
        """
        costs = self._seconds[model]
        if not costs:
            return 1
        best = min(costs.values())
        size = min(size for size, cost in costs.items() if cost * (1 - worth) <= best)
        return 2 * size if size == max(costs) else size


def _size(num_sequences: int) -> int:
    return 1 << (num_sequences - 1).bit_length()
