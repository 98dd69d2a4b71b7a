"""The state of one batch in ONNX Runtime's memory, on the CPU or on a device.

Two pairs (x, h) of buffers, read from one and written to the other. On a device, only the row and
the branches' weights go there in a step, some forty bytes an image, and nothing comes back.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import Minit2iError, RuntimeFailure
from minit2i_deploy.runtimes.guard import Guard, guarded
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.step_inputs import StepInputs

# Of the arenas of its CPU and CUDA providers.
_ALLOCATION: Final = re.compile(r"Failed to allocate memory for requested buffer of size (\d+)")
_FREE_MEMORY: Final = "use a smaller batch, or free some"
_MAX_CHARACTERS: Final = 400
# Between templates of C++ and a path of its sources.
_CUDA_FAILURE: Final = re.compile(r"CU(DA|BLAS|DNN) failure \d+: [^;]*[^; ]")


class OnnxTrajectory:
    """State of one batch.

    Args:
        session: of the step graph.
        ort: the onnxruntime module.
        x: float32 [batch, 3, H, W].
        inputs: of the step graph besides the state.
        device: "cpu" or "cuda", and its index.
        guard: of the runtime; None makes one.
    """

    def __init__(
        self,
        session: Any,
        ort: Any,
        x: np.ndarray,
        inputs: StepInputs,
        device: tuple[str, int] = ("cpu", 0),
        guard: Guard | None = None,
    ) -> None:
        self._session, self._ort, self._device = session, ort, device
        self._guard = guard or Guard("onnxruntime", self)
        self._inputs = inputs
        # On the device, by the number of branches.
        self._fixed: dict[int, dict[str, Any]] = {}
        # A value on the CPU lies on its array's memory: own arrays, in C order whatever the
        # caller's.
        self._now = (self._put(x.copy(order="C")), self._put(np.zeros(x.shape, x.dtype)))
        self._next = (self._empty(x), self._empty(x))

    @guarded
    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        with failing_in("transformer"):
            self._run(row, noise)
        self._now, self._next = self._next, self._now

    def _run(self, row: Row, noise: np.ndarray | None) -> None:
        if noise is not None:
            self._now[1].update_inplace(np.ascontiguousarray(noise))
        binding = self._session.io_binding()
        for name, value in zip(("x", "h"), self._now, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in self._fixed_values(len(row.weights)).items():
            binding.bind_ortvalue_input(name, value)
        for name, array in self._inputs.of_row(row).items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(("x_next", "h_next"), self._next, strict=True):
            binding.bind_ortvalue_output(name, value)
        self._session.run_with_iobinding(binding)

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        with self._guard.beside_recordings(), failing_in("transformer"):
            x, h = (value.numpy().copy() for value in self._now)
        return x, h

    def __del__(self) -> None:
        # The last trajectory of a closed runtime frees the session.
        if guard := self.__dict__.get("_guard"):
            guard.drop(self)

    def _fixed_values(self, branches: int) -> dict[str, Any]:
        if branches not in self._fixed:
            arrays = self._inputs.fixed(branches)
            self._fixed[branches] = {name: self._put(array) for name, array in arrays.items()}
        return self._fixed[branches]

    def _put(self, array: np.ndarray) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(array, *self._device)

    def _empty(self, like: np.ndarray) -> Any:
        if self._device[0] == "cpu":
            return self._put(np.empty(like.shape, like.dtype))
        return self._ort.OrtValue.ortvalue_from_shape_and_type(
            list(like.shape), np.float32, *self._device
        )


@contextlib.contextmanager
def failing_in(graph: str, remedy: str = "") -> Iterator[None]:
    """Explain errors of the library, also of memory on the device, in one line.

    Args:
        graph: that runs.
        remedy: end of the line.

    Raises:
        RuntimeFailure: in their place; it names the graph.
    """
    try:
        yield
    except (Minit2iError, MemoryError):
        # The latter is of the host, and the caller's to explain.
        raise
    except Exception as error:  # the library's errors share no base
        raise RuntimeFailure(
            f"onnxruntime failed in {graph}: {first_line(error)}{remedy}"
        ) from error


def first_line(error: Exception) -> str:
    """What a library's error says first; of a failure in CUDA, CUDA's own words alone."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    allocation = _ALLOCATION.search(text)
    if allocation is not None:
        megabytes = max(1, round(int(allocation[1]) / 1e6))
        return f"out of memory, {megabytes} MB more were needed; {_FREE_MEMORY}"
    failure = _CUDA_FAILURE.search(text)
    if failure is None:
        return _shorten(text)
    return f"{failure[0]}; {_FREE_MEMORY}" if "out of memory" in failure[0] else failure[0]


def _shorten(text: str) -> str:
    """The first part of a long text: of a graph that fails, cuDNN prints every tensor."""
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} ..."
