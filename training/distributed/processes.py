"""The device and the processes of a run, and which images of the global batch each one takes.

Process r of n takes the images r, r + n, r + 2n, ... of every batch, and cuts its part into
micro-batches the same way. Everything random belongs to an image's position in the global batch,
so any number of processes trains on the same batch with the same noise.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from minit2i_deploy.errors import TrainingError, UsageError

# The other processes wait while the first one samples, scores and writes a checkpoint.
_TIMEOUT: Final = timedelta(hours=2)


def select_device(name: str) -> torch.device:
    """The device of a recipe's "auto", "cpu" or "cuda".

    Raises:
        TrainingError: "cuda" is requested and torch finds no CUDA device.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise TrainingError(
            f"device is 'cuda', but torch {torch.__version__} finds no CUDA device; set "
            "device=cpu or install a CUDA build of torch"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


class Processes:
    """The processes that torchrun or accelerate launch started, or this process alone.

    accelerate finds the device, joins the processes and reduces over them. Its loader, optimizer
    wrapper and mixed precision stay unused: they split and round in their own ways, and a run must
    not depend on the number of its processes. Nor does it shard on a CPU, where the tests shard,
    or replicate there without a warning; torch does both.

    Args:
        device: a recipe's "auto", "cpu" or "cuda".

    Raises:
        TrainingError: "cuda" is requested and torch finds no CUDA device.
    """

    def __init__(self, device: str) -> None:
        on_cpu = select_device(device).type == "cpu"
        if not torch.distributed.is_initialized():
            # accelerate keeps one state a program; one program may make several runs.
            AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)],
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
        """Whether this is the process that writes, samples and reports."""
        return self.accelerator.is_main_process

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over all processes."""
        if self.count == 1:
            return value
        mean: Tensor = self.accelerator.reduce(value.detach(), reduction="mean")
        return mean

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must call it."""
        if self.count == 1:
            return flag
        return float(self.mean(torch.tensor(float(flag), device=self.device))) > 0

    def positions(self, batch: int, accumulate: int) -> range:
        """Positions in the global batch that this process takes.

        Raises:
            UsageError: the batch does not divide into equal parts.
        """
        num_parts = self.count * accumulate
        if batch % num_parts:
            raise UsageError(
                f"recipe: batch is {batch}, but {self.count} processes with accumulate "
                f"{accumulate} need a multiple of {num_parts}; set batch or accumulate"
            )
        return range(self.index, batch, self.count)
