"""The loop of Looped-DiT: which double blocks run, and in what order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minit2i_deploy.errors import CheckpointError, UsageError

_SWITCHES = ("use_xsa", "use_attn_gate")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Double blocks in three groups: ``pre`` once, ``core`` several times, ``post`` once.

    Args:
        pre: blocks before the loop.
        core: blocks that one pass of the loop runs.
        post: blocks after the loop.
        num_loops: passes of the loop, where a caller asks for no other number.
        num_copies: sets of core weights; 1 is one set for every pass, otherwise pass k has set k.
        use_xsa: whether core blocks remove from each token's attention its part along the token's
            own value (exclusive self-attention).
        use_attn_gate: whether core blocks scale each head of the attention by a sigmoid gate.

    Raises:
        CheckpointError: a number is not positive, or there are fewer copies than passes.

    Source: Looped-DiT, arXiv 2609.40305.
    """

    pre: int
    core: int
    post: int
    num_loops: int
    num_copies: int = 1
    use_xsa: bool = True
    use_attn_gate: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_switch = field.name in _SWITCHES
            if isinstance(value, bool) != is_switch or (
                not is_switch and (not isinstance(value, int) or value < 1)
            ):
                expected = "true or false" if is_switch else "a positive integer"
                raise CheckpointError(
                    f"config: loop.{field.name} must be {expected}, got {value!r}; fix the "
                    "configuration"
                )
        if 1 < self.num_copies < self.num_loops:
            raise CheckpointError(
                f"config: loop.num_loops is {self.num_loops}, but the core has {self.num_copies} "
                "sets of weights, one a pass; fix the configuration"
            )

    @property
    def num_blocks(self) -> int:
        """Double blocks that have weights of their own."""
        return self.pre + self.core * self.num_copies + self.post

    def is_core(self, index: int) -> bool:
        """Whether the double block of this index is inside the loop."""
        return self.pre <= index < self.num_blocks - self.post

    def order(self, num_loops: int | None = None) -> tuple[int, ...]:
        """Indices of the double blocks in the order in which they run.

        Args:
            num_loops: passes of the loop; None is the configuration's.

        Raises:
            UsageError: the loop cannot run that often.
        """
        passes = self.num_loops if num_loops is None else self.check_loops(num_loops)
        stride = self.core if self.num_copies > 1 else 0
        cores = (
            index
            for number in range(passes)
            for index in range(self.pre + number * stride, self.pre + number * stride + self.core)
        )
        first, last = range(self.pre), range(self.num_blocks - self.post, self.num_blocks)
        return (*first, *cores, *last)

    def check_loops(self, num_loops: int) -> int:
        """The number itself.

        Raises:
            UsageError: it is not a positive integer, or above the sets of weights of a core that
                has one for each pass.
        """
        if type(num_loops) is not int or num_loops < 1:
            raise UsageError(f"loops: expected a positive integer, got {num_loops!r}")
        if 1 < self.num_copies < num_loops:
            raise UsageError(
                f"loops is {num_loops}, but this network has weights for {self.num_copies} passes "
                f"of its core; choose 1 to {self.num_copies}"
            )
        return num_loops

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoopConfig:
        """Build from plain values; every field must be there and no other.

        Raises:
            CheckpointError: fields are missing or unknown, or values do not fit together.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or values.keys() != names:
            raise CheckpointError(f"config: loop is {values!r}, expected {sorted(names)}")
        return cls(**values)
