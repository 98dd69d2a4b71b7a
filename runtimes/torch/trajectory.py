"""The state of one batch as torch tensors on the device, and the compiled step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.model.step import Step
from minit2i_deploy.protocol import FreshNoise
from minit2i_deploy.runtimes.guard import Guard, guarded
from minit2i_deploy.runtimes.torch.gpu import on_device
from minit2i_deploy.runtimes.torch.row_graphs import RowGraphs, RowInputs, StepCall
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.step_inputs import StepInputs

# Numbers of branches and batches that one process compiles the step for.
_MAX_SIZES: Final = 64


class TorchTrajectory:
    """State of one batch as tensors on the device.

    Args:
        step: the step graph's inputs to the next x and h.
        x: float32 [batch, 3, H, W].
        inputs: of the step graph besides the state.
        guard: of the runtime; None makes one.
        graphs: that record all rows of ``run_rows`` as one; None runs them one by one.
    """

    def __init__(
        self,
        step: StepCall,
        x: Tensor,
        inputs: StepInputs,
        guard: Guard | None = None,
        graphs: RowGraphs | None = None,
    ) -> None:
        self._step, self._x, self._inputs, self._graphs = step, x, inputs, graphs
        # On the device, by the number of branches.
        self._fixed: dict[int, dict[str, Tensor]] = {}
        self._h = torch.zeros_like(x)
        self._num_rows = 0
        self._guard = guard or Guard("torch", self)

    @guarded
    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        row_inputs = self._inputs.of_row(row)
        self._advance({name: self._put(array) for name, array in row_inputs.items()}, noise)

    @guarded
    def run_rows(
        self,
        rows: Sequence[Row],
        fresh_noise: FreshNoise,
        on_row: Callable[[int], None] | None = None,
    ) -> Mapping[str, float]:
        """Advance by all rows; arguments as in ``protocol.RowsTrajectory``.

        Nothing is waited for but the end, and the rows go to the device in one piece, so a GPU
        never runs out of work between rows. ``on_row`` then counts rows that are queued, not done;
        of a recording of all rows it hears once.
        """
        if on_row is not None:
            on_row = self._guard.outside_shares(on_row)
        every = [self._inputs.of_row(row) for row in rows]
        values = self._put(np.stack([each["row"] for each in every]))
        weights = self._put(np.concatenate([each["weights"] for each in every]))
        parts = weights.split([len(row.weights) for row in rows])
        noise: Iterable[np.ndarray | None] = map(fresh_noise, rows)
        if self._graphs is not None:
            noise = list(noise)
        if not self._run_graph(parts, values, noise):
            for done, (weight, value, fresh) in enumerate(
                zip(parts, values, noise, strict=True), start=1
            ):
                self._advance({"weights": weight, "row": value}, fresh)
                if on_row is not None:
                    on_row(done)
        elif on_row is not None:
            on_row(len(rows))
        if self._x.device.type == "cuda":
            torch.cuda.synchronize(self._x.device)
        return {}

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        with self._guard.beside_recordings():
            return to_numpy(self._x).copy(), to_numpy(self._h).copy()

    def _run_graph(
        self, weights: Sequence[Tensor], values: Tensor, noise: Iterable[np.ndarray | None]
    ) -> bool:
        """Advance by all rows as one graph; False if there is none."""
        if self._graphs is None:
            return False
        with on_device(self._x.device, "computed all rows"):
            inputs = RowInputs(
                x=self._x,
                h=self._h,
                fixed={size: self._fixed_tensors(size) for size in {*map(len, weights)}},
                weights=weights,
                values=values.unbind(),
                noise=[None if array is None else self._put(array) for array in noise],
            )
            state = self._graphs.run(inputs)
        if state is None:
            return False
        self._num_rows += len(weights)
        self._x, self._h = state
        return True

    @torch.no_grad()
    def _advance(self, row_inputs: Mapping[str, Tensor], noise: np.ndarray | None) -> None:
        self._num_rows += 1
        with on_device(self._x.device, f"computed row {self._num_rows}"):
            h = self._h if noise is None else self._put(noise)
            fixed = self._fixed_tensors(len(row_inputs["weights"]))
            known = (fixed["known"], fixed["known_mask"])
            places = (fixed["tokens"], fixed["image"], fixed["sequence"])
            self._x, self._h = self._step(
                self._x, h, *places, row_inputs["weights"], row_inputs["row"], *known
            )

    def _fixed_tensors(self, branches: int) -> Mapping[str, Tensor]:
        if branches not in self._fixed:
            arrays = self._inputs.fixed(branches)
            self._fixed[branches] = {name: self._put(array) for name, array in arrays.items()}
        return self._fixed[branches]

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self._x.device)


def step_call(
    step: Step, device: torch.device, *, records: bool = True, **settings: Any
) -> StepCall:
    """A compiled step; rows are tensors, so their values never compile it anew.

    Args:
        step: the module.
        device: that it runs on.
        records: on a GPU, replay the compiled step as a CUDA graph.
        settings: of ``torch.compile``, in place of these.

    Returns:
        a call that gives tensors of their own, which the next call leaves alone.
    """
    on_gpu = device.type == "cuda"
    mode = {"mode": "max-autotune" if records else "max-autotune-no-cudagraphs"} if on_gpu else {}
    # Sizes are fixed while a batch runs: kernels made for them are the fastest.
    compiled = torch.compile(step, dynamic=False, fullgraph=True, **{**mode, **settings})

    def call(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        # torch's own limit is 8 sizes, and the ninth would be an error.
        limit = torch._dynamo.config.patch(recompile_limit=_MAX_SIZES)
        try:
            with limit, warnings.catch_warnings():
                # TF32 would round what a float32 graph asks for.
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
                if not on_gpu or not records:
                    after = compiled(*inputs)
                    return after[0], after[1]
                # A replay writes where the last one did, so what it gives is copied first.
                torch.compiler.cudagraph_mark_step_begin()
                x_next, h_next = compiled(*inputs)
                return x_next.clone(), h_next.clone()
        except (
            torch._dynamo.exc.TorchDynamoException,
            torch._dynamo.exc.FailOnRecompileLimitHit,
        ) as error:
            reason = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())
            raise RuntimeFailure(
                f"torch cannot compile the step: {reason}; run it with compile=False"
            ) from error

    return call


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Float32 values on the host."""
    array: np.ndarray = tensor.to(device="cpu", dtype=torch.float32).numpy()
    return array
