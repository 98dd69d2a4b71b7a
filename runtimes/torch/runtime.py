"""Runtime of PyTorch: the bundle's weights in the network of ``minit2i_deploy.model``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError, require
from minit2i_deploy.runtimes.base import BaseRuntime, SelfTest
from minit2i_deploy.solvers.row import Known
from minit2i_deploy.solvers.step_inputs import StepBatch, StepInputs

if TYPE_CHECKING:
    from minit2i_deploy.runtimes.torch.trajectory import TorchTrajectory

# The extra of this distribution that brings torch.
_EXTRA: Final = "export"
PRECISIONS: Final = ("fp32", "bf16", "fp16")


class TorchRuntime(BaseRuntime):
    """The bundle in PyTorch, eager or compiled.

    Args:
        bundle: an open bundle.
        device: a torch device, for example "cpu" or "cuda:0".
        precision: "fp32", "bf16" or "fp16" of adapter and denoiser; None is the bundle's. The
            text encoder and the state stay fp32.
        compile: compile the step at its first use, once for each number of branches and batch; on
            a GPU it is replayed as a CUDA graph.
        one_graph: record all rows of an image as one CUDA graph, in place of one a row; the first
            two images of a table and shape are computed row by row as well and compared. Not
            measured on a GPU yet.

    Raises:
        UsageError: the device is not there or records no CUDA graph, or an unknown precision.
        MissingDependencyError: torch is not installed.
        RuntimeFailure: the weights cannot be read.
    """

    name = "torch"

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        precision: str | None = None,
        compile: bool = False,
        one_graph: bool = False,
    ) -> None:
        if precision is not None and precision not in PRECISIONS:
            raise UsageError(
                f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}"
            )
        require("torch", _EXTRA)
        from minit2i_deploy.runtimes.torch.network import TorchNetwork

        super().__init__(bundle)
        self._guard.uses_cuda = device.startswith("cuda")
        with self._guard.beside_recordings():
            self._network = TorchNetwork(bundle, device, precision, compile, one_graph)

    @classmethod
    def self_tests(cls) -> list[SelfTest]:
        """One for the CPU and one for the first GPU."""
        return [
            SelfTest(
                label=f"{cls.name} ({device})",
                options={"device": device},
                run=partial(_self_test, device),
            )
            for device in ("cpu", "cuda")
        ]

    def runs_precision(self, precision: str) -> bool:
        """Whether PyTorch runs graphs of this precision."""
        return precision in PRECISIONS

    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._network.encode(ids, mask)

    def _adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        return self._network.adapt(context, mask, conditions)

    def _start(
        self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None
    ) -> TorchTrajectory:
        # The network is built from the weights, so its step is of this package's form.
        inputs = StepInputs(image_shape=x.shape, tokens=tokens, known=known, per_image=True)
        return self._network.start(x, inputs, self._guard)

    def _step_batch(self, batch: StepBatch) -> tuple[np.ndarray, np.ndarray]:
        return self._network.step_batch(batch.inputs())

    def _free(self) -> None:
        del self._network


def _self_test(device: str) -> float:
    require("torch", _EXTRA)
    from minit2i_deploy.runtimes.torch.toy import run_toy

    return run_toy(device)
