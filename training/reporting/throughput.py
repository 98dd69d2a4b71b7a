"""Throughput of a run: images a second, and model FLOPs utilization (MFU)."""

from __future__ import annotations

import time
from typing import Final

import torch

# The weight of a step halves after this many more.
_HALF_STEPS: Final = 20
_REPEATS: Final = 3


class Throughput:
    """A moving average over steps; time between them, such as sampling, is excluded.

    Args:
        batch: images of one step, over all processes.
        image_flops: floating-point operations of one of them.
        machine_rate: FLOP a second of large matrix products, over all processes.
    """

    def __init__(self, batch: int, image_flops: float, machine_rate: float) -> None:
        self.batch, self.image_flops, self.machine_rate = batch, image_flops, machine_rate
        self._seconds = self._weight = 0.0

    def add(self, seconds: float) -> None:
        """Add one step, waiting for data included."""
        decay = 0.5 ** (1 / _HALF_STEPS)
        self._seconds = decay * self._seconds + (1 - decay) * seconds
        self._weight = decay * self._weight + (1 - decay)

    def figures(self) -> dict[str, float]:
        """``images_s``, and ``mfu``, the share of the machine's rate, 0 to 1."""
        rate = self.batch * self._weight / self._seconds
        return {"images_s": rate, "mfu": rate * self.image_flops / self.machine_rate}


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP a second of one large matrix product, the best of a few.

    Args:
        device: where it is computed.
        precision: "bf16" or "fp32".
    """
    size = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(size, size, device=device, dtype=kind)
    best = float("inf")
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        product = matrix @ matrix
        # Reading one value waits for the device.
        product[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
