"""The processes of a run, and which pictures of the global batch each of them takes.

Process r of n takes the pictures r, r + n, r + 2n, ... of every batch, and cuts its own into
micro-batches in the same way. Everything random belongs to a picture's place in the global batch,
so any number of processes sees the same batch with the same noise.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from minit2i_deploy.errors import UsageError
from minit2i_deploy.training.distributed.device import pick_device

# The others wait while the first process paints, judges and writes a checkpoint.
_PATIENCE: Final = timedelta(hours=2)


class Processes:
    """What torchrun or accelerate launch started, or this process alone.

    accelerate finds the device, joins the processes and reduces over them. Its loader, optimizer
    wrapper and mixed precision stay unused: they split and round in their own ways, and a run must
    not depend on the number of its processes. Nor does it shard on a CPU, where the tests shard,
    or replicate there without a warning; torch does both.

    Args:
        device: a recipe's "auto", "cpu" or "cuda".

    Raises:
        TrainingError: "cuda" was asked for and torch finds no such device.
    """

    def __init__(self, device: str) -> None:
        on_cpu = pick_device(device).type == "cpu"
        if not torch.distributed.is_initialized():
            # accelerate keeps one state a program; one program may make several runs.
            AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def count(self) -> int:
        return self.accelerator.num_processes

    @property
    def index(self) -> int:
        return self.accelerator.process_index

    @property
    def is_first(self) -> bool:
        """The process that writes, paints and reports."""
        return self.accelerator.is_main_process

    def mean(self, value: Tensor) -> Tensor:
        """Of a scalar over all processes."""
        if self.count == 1:
            return value
        mean: Tensor = self.accelerator.reduce(value.detach(), reduction="mean")
        return mean

    def rows(self, batch: int, accumulate: int) -> range:
        """Places in the global batch that this process takes.

        Raises:
            UsageError: the batch cannot be cut into equal parts.
        """
        parts = self.count * accumulate
        if batch % parts:
            raise UsageError(
                f"recipe: batch is {batch}, but {self.count} processes with accumulate "
                f"{accumulate} take a multiple of {parts}; set batch or accumulate"
            )
        return range(self.index, batch, self.count)
