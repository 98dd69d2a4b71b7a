"""What a call costs by its size, learned from the calls themselves.

On a GPU a call of eight sequences costs little more than a call of one. On a CPU it costs eight
times as much, and a larger batch only makes every image in it wait for the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

# Sizes whose costs of a sequence differ by less than this share cost the same: measured seconds
# say no more, and a larger call must make its sequences cheaper by more to be worth the wait.
_ALIKE: Final = 0.02
# In a crowd, after so many calls a larger size is tried again: what slowed it may be over.
_RETRY_AFTER: Final = 32
# Weight of the newest call in the mean.
_SMOOTHING: Final = 0.2
_FIRST_GUESS_S: Final = 0.01
# Other work on the machine only ever makes a call slower, so sizes are compared by the fast quarter
# of their latest calls, as many of each: that of more calls would be the faster for it.
_RECENT: Final = 24
_FAST_SHARE: Final = 0.25
# The first call of a size allocates, so fewer calls say nothing of it.
_ENOUGH: Final = 3


@dataclass(slots=True)
class _SizeCost:
    """Seconds of a sequence in calls of one size: a running mean, and the latest calls."""

    mean_s: float
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def learn(self, seconds: float) -> None:
        self.mean_s += _SMOOTHING * (seconds - self.mean_s)
        self.recent_s.append(seconds)

    @property
    def is_known(self) -> bool:
        return len(self.recent_s) >= _ENOUGH

    def fast_s(self, num_calls: int) -> float:
        """Of the latest calls, at most so many."""
        latest = sorted(list(self.recent_s)[-num_calls:])
        return latest[int(_FAST_SHARE * len(latest))]


class CostModel:
    """Seconds of a sequence by the size of its call, for each kind of job (``Job.kind``).

    Sizes are counted in powers of two: 1, 2, 3 to 4, 5 to 8 and so on.
    """

    def __init__(self) -> None:
        self._costs: defaultdict[Hashable, dict[int, _SizeCost]] = defaultdict(dict)
        self._num_calls: Counter[Hashable] = Counter()

    def learn(self, kind: Hashable, num_sequences: int, seconds: float) -> None:
        """Count a call.

        Args:
            kind: of the jobs in a call.
            num_sequences: in the call, at least 1.
            seconds: it took.
        """
        cost = seconds / num_sequences
        size = self._costs[kind].setdefault(_size(num_sequences), _SizeCost(cost))
        size.learn(cost)
        self._num_calls[kind] += 1

    def sequence_s(self, kind: Hashable) -> float:
        """Mean seconds of a sequence at the cheapest size; a guess before the first call."""
        means = (cost.mean_s for cost in self._costs[kind].values())
        return min(means, default=_FIRST_GUESS_S)

    def efficient_size(self, kind: Hashable, *, crowded: bool = False) -> int:
        """Most sequences that a call should have.

        The smallest of the sizes that are nearly the cheapest of those tried; in a crowd the
        largest, because a call has costs beside its sequences. Where that is the largest one tried,
        the next larger size, so that it is tried as soon as there is work for it.

        Args:
            kind: of the jobs in a call.
            crowded: whether more images wait than a call takes.
        """
        tried = self._costs[kind]
        known = {size: cost for size, cost in tried.items() if cost.is_known}
        if not known:
            return max(tried, default=1)
        num_calls = min(len(cost.recent_s) for cost in known.values())
        costs = {size: cost.fast_s(num_calls) for size, cost in known.items()}
        best = min(costs.values())
        alike = [size for size, cost in costs.items() if cost * (1 - _ALIKE) <= best]
        size = max(alike) if crowded else min(alike)
        is_tried_again = crowded and self._num_calls[kind] % _RETRY_AFTER == 0
        return 2 * size if size == max(costs) or is_tried_again else size


def _size(num_sequences: int) -> int:
    return 1 << (num_sequences - 1).bit_length()
