"""All rows of an image as one CUDA graph: the host starts one thing an image, not one a row.

A graph replays what it recorded on the very memory it recorded, so all that the rows read lies in
fixed places, which the next image is copied into. No graph is trusted unchecked: its first images
are computed row by row as well.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor

from minit2i_deploy.errors import CudaGraphWarning

# The inputs of ``model.step.Step``, in its order, to the next x and h.
StepCall: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
# Records a call, which reads and writes the same memory each time, and gives its replay.
Record: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]

# Tables and shapes that stay recorded; each holds memory for the activations of a step.
MAX_GRAPHS: Final = 8
CHECKED_IMAGES: Final = 2
# Kernels that add up in no fixed order differ by far less, even in half precision; a stale input
# by far more.
MAX_DIFFERENCE: Final = 2e-3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowInputs:
    """All that the rows of an image read, as tensors on one device.

    Args:
        x: float32 [batch, 3, H, W].
        h: float32, the same shape.
        fixed: by the number of branches, the step graph's inputs that no row changes, by name.
        weights: of each row, float32 [branches, batch].
        values: of each row, float32 [batch, 6].
        noise: of each row, float32 as x, or None where it draws none.
    """

    x: Tensor
    h: Tensor
    fixed: Mapping[int, Mapping[str, Tensor]]
    weights: Sequence[Tensor]
    values: Sequence[Tensor]
    noise: Sequence[Tensor | None]

    @property
    def form(self) -> tuple[object, ...]:
        """What a recording depends on: shape, branches of each row, rows that draw noise."""
        branches = tuple(len(weight) for weight in self.weights)
        return tuple(self.x.shape), branches, tuple(noise is not None for noise in self.noise)

    def tensors(self) -> list[Tensor]:
        """All tensors, in an order that depends on the form alone."""
        fixed = [tensor for size in sorted(self.fixed) for tensor in self.fixed[size].values()]
        noise = [tensor for tensor in self.noise if tensor is not None]
        return [self.x, self.h, *self.weights, *self.values, *noise, *fixed]

    def clone(self) -> RowInputs:
        """The same in memory of its own."""
        return RowInputs(
            x=self.x.clone(),
            h=self.h.clone(),
            fixed={
                size: {name: tensor.clone() for name, tensor in tensors.items()}
                for size, tensors in self.fixed.items()
            },
            weights=[tensor.clone() for tensor in self.weights],
            values=[tensor.clone() for tensor in self.values],
            noise=[None if tensor is None else tensor.clone() for tensor in self.noise],
        )


def states_of_rows(step: StepCall, inputs: RowInputs) -> Iterator[tuple[Tensor, Tensor]]:
    """x and h after each row."""
    x, h = inputs.x, inputs.h
    for weights, values, noise in zip(inputs.weights, inputs.values, inputs.noise, strict=True):
        fixed = inputs.fixed[len(weights)]
        places = (fixed["tokens"], fixed["image"], fixed["sequence"])
        known = (fixed["known"], fixed["known_mask"])
        x, h = step(x, h if noise is None else noise, *places, weights, values, *known)
        yield x, h


def record_cuda_graph(device: torch.device, work: Callable[[], None]) -> Callable[[], None]:
    """Run a call once, so that its kernels are chosen and compiled, and record it."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Calls of other threads go on, and do not end it.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
    return graph.replay


class RowGraphs:
    """The recordings of one network, of the last tables and shapes.

    Args:
        step: must record nothing itself.
        record: of the device.
    """

    def __init__(self, step: StepCall, record: Record) -> None:
        self._step, self._record = step, record
        self._recorded: OrderedDict[tuple[object, ...], _RecordedRows] = OrderedDict()
        self._works = True

    @torch.no_grad()
    def run(self, inputs: RowInputs) -> tuple[Tensor, Tensor] | None:
        """x and h after all rows, in memory of their own; None if they cannot be recorded.

        Warns:
            CudaGraphWarning: once, with the reason.
        """
        if not self._works or not inputs.weights:
            return None
        try:
            return self._of_form(inputs).run(inputs)
        # The library has no class of error of its own for what a recording forbids.
        except RuntimeError as error:
            self._works = False
            self._recorded.clear()
            reason = str(error).partition("\n")[0]
            text = f"torch records no CUDA graph of all rows ({reason}); running row by row"
            warnings.warn(text, CudaGraphWarning, stacklevel=2)
            return None

    def _of_form(self, inputs: RowInputs) -> _RecordedRows:
        form = inputs.form
        if form not in self._recorded:
            while len(self._recorded) >= MAX_GRAPHS:
                self._recorded.popitem(last=False)
            self._recorded[form] = _RecordedRows(self._step, self._record, inputs)
        self._recorded.move_to_end(form)
        return self._recorded[form]


class _RecordedRows:
    def __init__(self, step: StepCall, record: Record, inputs: RowInputs) -> None:
        self._step, self._places = step, inputs.clone()
        self._end = (torch.empty_like(inputs.x), torch.empty_like(inputs.h))
        self._num_images = 0
        self._replay = record(self._work)

    def run(self, inputs: RowInputs) -> tuple[Tensor, Tensor]:
        for place, tensor in zip(self._places.tensors(), inputs.tensors(), strict=True):
            place.copy_(tensor)
        self._replay()
        x, h = (tensor.clone() for tensor in self._end)
        if self._num_images < CHECKED_IMAGES:
            self._check(x)
        self._num_images += 1
        return x, h

    def _work(self) -> None:
        *_, (x, h) = states_of_rows(self._step, self._places)
        for place, tensor in zip(self._end, (x, h), strict=True):
            place.copy_(tensor)

    def _check(self, actual: Tensor) -> None:
        self._work()
        expected = self._end[0]
        difference = float((actual - expected).abs().max() / expected.abs().max())
        if not difference <= MAX_DIFFERENCE:
            raise RuntimeError(f"its image differs from that of single rows by {difference:.1e}")
