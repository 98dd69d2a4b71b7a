"""How fast a run goes: pictures a second, and its share of what the machine multiplies."""

from __future__ import annotations

import time
from typing import Final

import torch

# A step counts half as much after so many more.
_HALF_STEPS: Final = 20
_REPEATS: Final = 3


class Throughput:
    """A moving average over steps; time between them, as for samples, is left out.

    Args:
        batch: pictures of one step, over all processes.
        picture_flops: floating-point operations of one of them.
        machine_rate: FLOP a second of large matrix products, over all processes.
    """

    def __init__(self, batch: int, picture_flops: float, machine_rate: float) -> None:
        self.batch, self.picture_flops, self.machine_rate = batch, picture_flops, machine_rate
        self._seconds = self._weight = 0.0

    def add(self, seconds: float) -> None:
        """Count one step, waiting for data included."""
        keep = 0.5 ** (1 / _HALF_STEPS)
        self._seconds = keep * self._seconds + (1 - keep) * seconds
        self._weight = keep * self._weight + (1 - keep)

    def figures(self) -> dict[str, float]:
        """``pictures_s``, and ``mfu``, the share of the machine's rate, 0 to 1."""
        rate = self.batch * self._weight / self._seconds
        return {"pictures_s": rate, "mfu": rate * self.picture_flops / self.machine_rate}


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP a second of one large matrix product, the best of a few.

    Args:
        device: where it is done.
        precision: "bf16" or "fp32".
    """
    size = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.ones(size, size, device=device, dtype=kind)
    best = float("inf")
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        product = left @ left
        # Reading one value waits for the device.
        product[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
