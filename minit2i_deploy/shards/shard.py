"""One process's share of the blocks of a job: shard K of N."""

from __future__ import annotations

import re
from dataclasses import dataclass

from minit2i_deploy.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Shard ``index`` of ``count``, counted from 0.

    Raises:
        UsageError: the index is not below the count, or one of them is negative.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"shard {self.index}/{self.count}: expected K/N with K from 0 to N - 1; the last "
                f"of N shards is N - 1"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``K/N``.

        Raises:
            UsageError: another form, or a shard beyond the last.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise UsageError(f"shard {text!r}: expected K/N, such as 0/4 for the first of four")
        return cls(index=int(match[1]), count=int(match[2]))

    def within(self, outer: Shard) -> Shard:
        """This shard of an outer one: process 1 of 8 in job 2 of 4 is shard 17 of 32."""
        return Shard(index=outer.index * self.count + self.index, count=outer.count * self.count)

    def blocks(self, num_blocks: int) -> range:
        """The blocks of this shard, every ``count``-th, so that all shards get alike many."""
        return range(self.index, num_blocks, self.count)
