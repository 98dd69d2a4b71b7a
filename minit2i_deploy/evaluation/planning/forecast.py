"""What a job of many items takes, from the rate of one device and what opening it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy.errors import UsageError

# Share of a shard's time that opening the engine may be.
_OPENING_SHARE: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one device did for about a second.

    Args:
        items_per_s: texts or images.
        opening_s: seconds to open the bundle and the engine, and to run the first batch.
        item_bytes: on disk.
        memory_bytes: peak of the process.
    """

    items_per_s: float
    opening_s: float
    item_bytes: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a job takes.

    Args:
        measured: of one device.
        num_items: texts or images.
        num_blocks: fixed blocks of the job, which bound the number of shards.
        price: of a device hour, or None.
    """

    measured: Measured
    num_items: int
    num_blocks: int
    price: float | None = None

    def __post_init__(self) -> None:
        if self.num_items < 1 or self.num_blocks < 1:
            raise UsageError(f"expected at least 1 item and block, got {self.num_items}")

    @property
    def work_s(self) -> float:
        """Seconds of one device for all items, without opening."""
        return self.num_items / self.measured.items_per_s

    @property
    def best_shards(self) -> int:
        """The most shards of which opening the engine is 5% of the time at most."""
        # opening <= share * (opening + work / n)
        opening = max(self.measured.opening_s, 1e-9)
        most = self.work_s * _OPENING_SHARE / ((1 - _OPENING_SHARE) * opening)
        return max(1, min(int(most), self.num_blocks))

    def wall_s(self, num_shards: int) -> float:
        """Seconds until the shard with the most blocks ends, all running at once."""
        blocks = math.ceil(self.num_blocks / num_shards)
        return self.measured.opening_s + self.work_s * blocks / self.num_blocks

    def device_hours(self, num_shards: int) -> float:
        """Hours of all devices together."""
        return (self.work_s + num_shards * self.measured.opening_s) / 3600

    def shard_counts(self) -> list[int]:
        """Powers of eight up to the best number, and that number."""
        best, counts = self.best_shards, [1]
        while counts[-1] * 8 < best:
            counts.append(counts[-1] * 8)
        return sorted({*counts, best})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        runs = []
        for count in self.shard_counts():
            hours = self.device_hours(count)
            cost = None if self.price is None else hours * self.price
            runs.append(
                {
                    "shards": count,
                    "wall_s": self.wall_s(count),
                    "device_hours": hours,
                    "cost": cost,
                }
            )
        return {
            "items": self.num_items,
            "blocks": self.num_blocks,
            "items_per_s": self.measured.items_per_s,
            "opening_s": self.measured.opening_s,
            "disk_bytes": round(self.num_items * self.measured.item_bytes),
            "memory_bytes": self.measured.memory_bytes,
            "best_shards": self.best_shards,
            "runs": runs,
        }
