"""Steps as CUDA graphs: a step's kernels are launched once by the host, not one by one.

A graph replays what it recorded on the very memory it recorded, so all that a step reads or writes
lies in fixed places: two pairs of states that swap, the row, and for each number of branches the
tokens and the weights. One session serves them all; each place has a graph of its own, identified
by the number that ONNX Runtime stores it under. Places outlive a trajectory and serve the next one
of the same shape, because ONNX Runtime never frees a graph.

No graph is trusted unchecked. Its first replays are computed by plain runs as well.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import CudaGraphWarning, RuntimeFailure, UsageError
from minit2i_deploy.protocol import FreshNoise
from minit2i_deploy.runtimes.cuda.capture_gate import CAPTURE_GATE, drop_beside_recordings
from minit2i_deploy.runtimes.guard import Guard, guarded
from minit2i_deploy.runtimes.onnxruntime.trajectory import failing_in
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.step_inputs import StepInputs

CUDA_GRAPHS: Final = ("off", "on", "auto")
# The first replay follows a recording with another row, the second one another state: what a graph
# holds on to instead of reading it shows in one of them.
CHECKED_REPLAYS: Final = 2
# Kernels that add up in no fixed order differ by far less, even in half precision; a stale state
# by far more.
MAX_DIFFERENCE: Final = 2e-3
# Rows of a table that stay on the device, each with a graph of its own, and their branches; a table
# with more of either runs row by row.
MAX_ROWS: Final = 128
MAX_BRANCHES: Final = 4
_FLOAT_BYTES: Final = 4
# Inputs that change from row to row.
_ROW_INPUTS: Final = ("row", "weights")
# Those that are mostly the same from image to image, and are sent where they differ.
_STEADY_INPUTS: Final = ("image", "sequence", "known", "known_mask")
# ONNX Runtime's name for a run that returns while the device computes.
_NO_WAIT_ENTRY: Final = "disable_synchronize_execution_providers"
# ONNX Runtime's name for the number of a graph, and the number that means a plain run.
_ID_ENTRY: Final = "gpu_graph_id"
_PLAIN: Final = -1


def check_mode(mode: str, provider: str, capturing: bool) -> None:
    """Refuse an unknown mode, and graphs from a provider that records none.

    Raises:
        UsageError: one of the two.
    """
    if mode not in CUDA_GRAPHS:
        choices = ", ".join(CUDA_GRAPHS)
        raise UsageError(f"cuda_graph is {mode!r}; choose one of {choices}")
    if mode == "on" and not capturing:
        raise UsageError(f"provider {provider} records no CUDA graph; cuda_graph=on is for cuda")


class Place:
    """Memory on the device for trajectories of one shape, and the graphs recorded on it."""

    def __init__(self, graphs: StepGraphs, inputs: StepInputs) -> None:
        self.graphs = graphs
        empty = np.zeros(inputs.image_shape, np.float32)
        # Read one pair, write the other.
        self.pairs = tuple(tuple(graphs.put(empty) for _ in range(2)) for _ in range(2))
        # By the number of branches, and within by the name of the input.
        self._inputs: dict[int, dict[str, Any]] = {}
        self._sent: dict[tuple[int, str], np.ndarray] = {}
        self._steps: dict[tuple[int, int], tuple[int, Any]] = {}
        self._table = RowTable(graphs, inputs)
        self._resident: dict[tuple[int, int, int], tuple[int, Any]] = {}

    def __del__(self) -> None:
        drop_beside_recordings(self)

    def write_rows(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Put all rows and weights of a table in their places."""
        self._table.write(rows)

    def step_resident(self, reading: int, index: int, branches: int, wait: bool) -> None:
        """From one pair to the other, by a row that is in its place; a graph for each row."""
        key = (reading, index, branches)
        if key not in self._resident:
            binding = self._bind_states(reading, branches)
            self._table.bind(binding, index, branches)
            self._resident[key] = (self.graphs.new_number(), binding)
        number, binding = self._resident[key]
        self.graphs.run_resident(number, binding, wait)

    def write(self, branches: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Put inputs of steps of so many branches in their places."""
        places = self._inputs.setdefault(branches, {})
        for name, array in arrays.items():
            # Most images have the same lists of places and know no pixel.
            if name in _STEADY_INPUTS:
                sent = self._sent.get((branches, name))
                if sent is not None and np.array_equal(sent, array):
                    continue
                self._sent[branches, name] = array.copy()
            if name in places:
                places[name].update_inplace(array)
            else:
                places[name] = self.graphs.put(array)

    def step(self, reading: int, branches: int, row: np.ndarray) -> None:
        """From one pair to the other, with the other inputs as they were written."""
        if "row" not in self._inputs[branches]:
            self.write(branches, {"row": row})
        places = self._inputs[branches]
        if (reading, branches) not in self._steps:
            binding = self._bind_states(reading, branches)
            for name in _ROW_INPUTS:
                binding.bind_ortvalue_input(name, places[name])
            self._steps[reading, branches] = (self.graphs.new_number(), binding)
        number, binding = self._steps[reading, branches]
        self.graphs.run(number, binding, places["row"], row, self.pairs[1 - reading])

    def _bind_states(self, reading: int, branches: int) -> Any:
        """A binding of all but the row and its weights."""
        binding = self.graphs.session.io_binding()
        states = dict(zip(("x", "h"), self.pairs[reading], strict=True))
        for name, value in (states | self._inputs[branches]).items():
            if name not in _ROW_INPUTS:
                binding.bind_ortvalue_input(name, value)
        for name, value in zip(("x_next", "h_next"), self.pairs[1 - reading], strict=True):
            binding.bind_ortvalue_output(name, value)
        return binding


class RowTable:
    """Rows of a table on the device, each before its weights, for rows known beforehand."""

    def __init__(self, graphs: StepGraphs, inputs: StepInputs) -> None:
        self._device = graphs.device
        self._shapes = {count: inputs.shapes(count) for count in range(1, len(inputs.tokens) + 1)}
        shapes = self._shapes[1]
        self._row_size = math.prod(shapes["row"])
        self._width = self._row_size + MAX_BRANCHES * math.prod(shapes["weights"])
        self._values = graphs.put(self._empty())

    def write(self, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Put the inputs of all rows in their places."""
        table = self._empty()
        for place, row in zip(table, rows, strict=False):
            place[: self._row_size] = row["row"].ravel()
            place[self._row_size :][: row["weights"].size] = row["weights"].ravel()
        self._values.update_inplace(table)

    def bind(self, binding: Any, index: int, branches: int) -> None:
        """Let a binding read one row."""
        address = self._values.data_ptr() + index * self._width * _FLOAT_BYTES
        for name, column in (("row", 0), ("weights", self._row_size)):
            shape = list(self._shapes[branches][name])
            place = address + column * _FLOAT_BYTES
            binding.bind_input(name, "cuda", self._device, np.float32, shape, place)

    def _empty(self) -> np.ndarray:
        return np.zeros((MAX_ROWS, self._width), np.float32)


class StepGraphs:
    """The recorded steps of one session.

    Args:
        session: of the step graph, opened for recording.
        ort: the onnxruntime module.
        must: True makes a graph that differs from a plain run an error; False a warning, after
            which all runs are plain.
        device: index of the GPU.
    """

    def __init__(self, session: Any, ort: Any, must: bool, device: int = 0) -> None:
        self.session, self._ort, self._must, self.device = session, ort, must, device
        self.used = True
        self._numbers = itertools.count(1)
        self._checks: dict[int, int] = {}
        self._recorded: set[int] = set()
        self._free: dict[tuple[tuple[int, ...], ...], list[Place]] = {}

    def __del__(self) -> None:
        # The last trajectory of a closed runtime frees the session.
        drop_beside_recordings(self)

    def start(self, x: np.ndarray, inputs: StepInputs, guard: Guard) -> CapturedTrajectory:
        """A trajectory in a place that no living one uses."""
        shapes = (x.shape, inputs.tokens.shape)
        free = self._free.setdefault(shapes, [])
        place = free.pop() if free else Place(self, inputs)
        state = CapturedTrajectory(place, x, inputs, guard)
        weakref.finalize(state, free.append, place)
        return state

    def put(self, array: np.ndarray) -> Any:
        """A copy on the device."""
        return self._ort.OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(array), "cuda", self.device
        )

    def new_number(self) -> int:
        """A number that no graph has."""
        return next(self._numbers)

    def run(
        self, number: int, binding: Any, place: Any, row: np.ndarray, written: tuple[Any, ...]
    ) -> None:
        """Replay a graph, recording it first where it is new, and check its first replays."""
        if not self.used:
            place.update_inplace(row)
            self._run(_PLAIN, binding)
            return
        checks = self._checks.get(number, 0)
        if checks == 0 and not self._record(number, binding, place, row):
            return
        place.update_inplace(row)
        self._run(number, binding)
        if checks < CHECKED_REPLAYS:
            self._check(number, binding, written)
            self._checks[number] = checks + 1

    def run_resident(self, number: int, binding: Any, wait: bool) -> None:
        """Record a graph, or replay it and wait for its end only where that is asked for."""
        if not self.used:
            self._run(_PLAIN, binding, wait)
            return
        is_new = number not in self._recorded
        try:
            self._run(number, binding, wait or is_new, records=is_new)
        except RuntimeFailure as error:
            if self._must or not is_new:
                raise
            self._give_up(str(error))
            self._run(_PLAIN, binding)
        self._recorded.add(number)

    def _record(self, number: int, binding: Any, place: Any, row: np.ndarray) -> bool:
        """Record a step; False where it failed and a plain run took its place."""
        # Another row: one that the graph keeps would show in the replay.
        place.update_inplace(row * np.float32(0.5) + np.float32(0.125))
        try:
            self._run(number, binding, records=True)
        except RuntimeFailure as error:
            if self._must:
                raise
            self._give_up(str(error))
            place.update_inplace(row)
            self._run(_PLAIN, binding)
            return False
        return True

    def _check(self, number: int, binding: Any, written: tuple[Any, ...]) -> None:
        actual = [value.numpy().copy() for value in written]
        # The plain run writes the same memory, so what stands there afterwards is right anyway.
        self._run(_PLAIN, binding)
        expected = [value.numpy().copy() for value in written]
        worst = max(map(_difference, actual, expected))
        if worst <= MAX_DIFFERENCE:
            return
        reason = f"a CUDA graph of the step is off by {worst:.2g} from a plain run"
        if self._must:
            raise RuntimeFailure(f"onnxruntime: {reason}; choose cuda_graph=off")
        self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        warnings.warn(f"{reason}; running without CUDA graphs", CudaGraphWarning, stacklevel=2)
        self.used = False

    @property
    def is_trusted(self) -> bool:
        """Whether some graph has passed its checks, and none has failed."""
        return self.used and any(count >= CHECKED_REPLAYS for count in self._checks.values())

    def plain_options(self) -> Any:
        """Options of a run that records and replays nothing."""
        return self._options(_PLAIN)

    def _options(self, number: int) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry(_ID_ENTRY, str(number))
        return options

    def _run(self, number: int, binding: Any, wait: bool = True, *, records: bool = False) -> None:
        options = self._options(number)
        if not wait:
            options.add_run_config_entry(_NO_WAIT_ENTRY, "1")
        remedy = "" if number == _PLAIN else "; cuda_graph=off runs without CUDA graphs"
        recording = CAPTURE_GATE.alone() if records else contextlib.nullcontext()
        with failing_in("transformer", remedy), recording:
            self.session.run_with_iobinding(binding, options)


class CapturedTrajectory:
    """State of one batch on recorded steps; arguments as in ``OnnxTrajectory``."""

    def __init__(self, place: Place, x: np.ndarray, inputs: StepInputs, guard: Guard) -> None:
        self._place, self._inputs, self._guard = place, inputs, guard
        self._reading = 0
        self._written: set[int] = set()
        start, history = place.pairs[0]
        start.update_inplace(np.ascontiguousarray(x))
        history.update_inplace(np.zeros_like(x))

    @guarded
    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        with failing_in("transformer"):
            self._step(row, noise)

    def _step(self, row: Row, noise: np.ndarray | None) -> None:
        if noise is not None:
            self._place.pairs[self._reading][1].update_inplace(np.ascontiguousarray(noise))
        count, row_inputs = len(row.weights), self._inputs.of_row(row)
        self._write_fixed(count)
        # The row is written where a graph is recorded or replayed.
        self._place.write(count, {"weights": row_inputs["weights"]})
        self._place.step(self._reading, count, row_inputs["row"])
        self._reading = 1 - self._reading

    def _write_fixed(self, branches: int) -> None:
        if branches not in self._written:
            self._place.write(branches, self._inputs.fixed(branches))
            self._written.add(branches)

    @guarded
    def run_rows(
        self,
        rows: Sequence[Row],
        fresh_noise: FreshNoise,
        on_row: Callable[[int], None] | None = None,
    ) -> Mapping[str, float]:
        """Advance by all rows; arguments as in ``protocol.RowsTrajectory``.

        Rows and weights go to the device in one piece, and nothing is waited for but the end, once
        graphs have passed their checks. ``on_row`` then counts rows that are queued, not done.
        """
        if on_row is not None:
            on_row = self._guard.outside_shares(on_row)
        if not self._may_be_resident(rows):
            for done, row in enumerate(rows, start=1):
                noise = fresh_noise(row)
                with failing_in("transformer"):
                    self._step(row, noise)
                if on_row is not None:
                    on_row(done)
            return {}
        with failing_in("transformer"):
            self._place.write_rows([self._inputs.of_row(row) for row in rows])
            for count in {len(row.weights) for row in rows}:
                self._write_fixed(count)
        for index, row in enumerate(rows):
            is_last = index == len(rows) - 1
            self._place.step_resident(self._reading, index, len(row.weights), wait=is_last)
            self._reading = 1 - self._reading
            if on_row is not None:
                on_row(index + 1)
        return {}

    def _may_be_resident(self, rows: Sequence[Row]) -> bool:
        return (
            self._place.graphs.is_trusted
            and len(rows) <= MAX_ROWS
            and all(len(row.weights) <= MAX_BRANCHES for row in rows)
            and not any(row.draws_noise for row in rows)
        )

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        with self._guard.beside_recordings(), failing_in("transformer"):
            x, h = (value.numpy().copy() for value in self._place.pairs[self._reading])
        return x, h


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    scale = float(np.abs(expected).max())
    worst = float(np.abs(actual - expected).max())
    # NaN is no match, and two states of zeros are one.
    return 0.0 if worst == 0 else worst / scale if scale > 0 else float("inf")
