"""TensorRT and TensorRT-RTX: the engines of a bundle's cache, without torch.

The state stays on the GPU from the first row to the last, and all rows are one CUDA graph where
nobody looks in between. An engine that does not fit is refused with the reason, never rebuilt.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.compatibility import require_engine_fits
from minit2i_deploy.engines.cache import Device, require_engine
from minit2i_deploy.engines.key import TENSORRT, TENSORRT_RTX
from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.io.files import atomic_write_bytes
from minit2i_deploy.runtimes.base import GraphRuntime, SelfTest
from minit2i_deploy.runtimes.guard import guarded
from minit2i_deploy.runtimes.tensorrt.engine import JIT_CACHE_FILE, Engine, Gpu, HostCall
from minit2i_deploy.runtimes.tensorrt.library import RuntimeLibrary
from minit2i_deploy.runtimes.tensorrt.rows import GRAPHS, RowQueue
from minit2i_deploy.runtimes.tensorrt.toy import run_toy
from minit2i_deploy.runtimes.tensorrt.trajectory import TensorRtTrajectory, Workspaces
from minit2i_deploy.solvers.row import Known

# Bytes of adapted tokens that are cached by prompt; the core caches embeddings.
_CACHE_BYTES: Final = 64 * 2**20


class TensorRtRuntime(GraphRuntime):
    """The three graphs as TensorRT engines. Bound to the thread that opens it.

    Args:
        bundle: an open bundle whose engines ``minit2i build`` made on this machine.
        device: index of the GPU.
        graphs: what is captured in CUDA graphs at most: "trajectory" (all rows of an image),
            "step" (one row) or "none"; ``.graphs`` says what was in use last.
        debug: wait after each row, so that an error is met where it happens; slower.
        keep_prompts: adapt each prompt only once; without it, each time.

    Raises:
        UsageError: an unknown GPU or choice of graphs.
        MissingDependencyError: the library or cuda-python is not installed.
        RuntimeFailure: there is no driver, it is too old, or the bundle is for another engine
            alone.
    """

    name = "tensorrt"
    library = TENSORRT

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: int = 0,
        graphs: str = "trajectory",
        debug: bool = False,
        keep_prompts: bool = True,
    ) -> None:
        if graphs not in GRAPHS:
            raise UsageError(f"graphs is {graphs!r}; choose one of {', '.join(GRAPHS)}")
        require_engine_fits(bundle, f"runtime {self.name}")
        super().__init__(bundle)
        self._guard.uses_cuda = True
        self._settings = (graphs, debug)
        with self._guard.beside_recordings():
            self._gpu = Gpu(RuntimeLibrary.open(self.library), device)
        self._device = Device(capability=self._gpu.driver.capability, name=self._gpu.driver.name)
        self._engines: dict[str, list[Engine]] = {}
        self._calls: dict[Engine, HostCall] = {}
        self._queues: dict[Engine, tuple[RowQueue, Workspaces]] = {}
        self._last: RowQueue | None = None
        self._tokens = _Cache(_CACHE_BYTES if keep_prompts else 0)

    @classmethod
    def self_tests(cls) -> list[SelfTest]:
        """One, on the first GPU."""
        return [SelfTest(label=cls.name, options={}, run=partial(run_toy, cls.library))]

    @property
    def graphs(self) -> str:
        """What the last rows ran from: "trajectory", "step" or "none"."""
        return "none" if self._last is None else self._last.last_used

    @property
    def graph_refusals(self) -> dict[str, str]:
        """Kind of graph -> why it is not used."""
        return {} if self._last is None else dict(self._last.reasons)

    @property
    def replay_error(self) -> float | None:
        """Difference of the last graph that was checked, relative to the largest value."""
        return None if self._last is None else self._last.replay_error

    @property
    def device_name(self) -> str:
        """The GPU, as the driver calls it, with its compute capability."""
        return str(self._device)

    @property
    def host_copies(self) -> dict[str, int]:
        """Copies so far, ``to_device`` and ``to_host``.

        Those that a graph replays, the four bytes a row that count what is done, are not among
        them.
        """
        return dict(self._gpu.driver.copies)

    @guarded
    def device_memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU's memory, whoever uses it."""
        self._enter()
        return self._gpu.driver.memory()

    def _adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        """One prompt at a time, and each only once.

        A prompt that was met before, and no prompt at all, cost nothing, and a cached result is
        bit for bit that of a fresh run.
        """
        self._enter()
        results = []
        for index in range(len(context)):
            one = slice(index, index + 1)
            further = {} if conditions is None else {"conditions": conditions[one]}
            results.append(self._adapted({"context": context[one], "mask": mask[one], **further}))
        return np.concatenate(results)

    def _start(
        self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None
    ) -> TensorRtTrajectory:
        """Lend a workspace; RuntimeFailure if no engine fits or the GPU has too little memory."""
        self._enter()
        sizes = {"batch": len(x), "branches": len(tokens)}
        if self.bundle.manifest.can_edit:
            sizes["sequences"] = len(x) * len(tokens)
        sizes |= self._free_sizes(x)
        engine = self._engine("transformer", sizes)
        if engine not in self._queues:
            queue = RowQueue(self._gpu, engine, *self._settings, str(self.bundle.path))
            self._queues[engine] = (queue, Workspaces(queue))
        queue, spaces = self._queues[engine]
        self._last = queue
        inputs = self._step_inputs(x, tokens, known)
        return TensorRtTrajectory(queue, spaces.lend(inputs), x, inputs, self._guard)

    def _adapted(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        # A few values of the context find the entry, all of them decide.
        few = inputs["context"].reshape(-1)[:: max(1, inputs["context"].size // 64)]
        key = few.tobytes() + inputs["mask"].tobytes()
        tokens = self._tokens.get(key, inputs)
        if tokens is None:
            tokens = self._run("text_adapter", **inputs)
            self._tokens.put(key, inputs, tokens)
        return tokens

    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        self._enter()
        first = next(iter(inputs.values()))
        sizes = {"n": len(first)}
        if graph == "text_encoder":
            sizes["tokens"] = first.shape[1]
        (output,) = self._host_call(self._engine(graph, sizes))(inputs).values()
        return output

    def _run_step(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        self._enter()
        branches, batch = inputs["sequence"].shape
        sizes = {"batch": batch, "branches": branches, "sequences": len(inputs["image"])}
        sizes |= self._free_sizes(inputs["x"])
        outputs = self._host_call(self._engine("transformer", sizes))(inputs)
        return outputs["x_next"], outputs["h_next"]

    def _free_sizes(self, x: np.ndarray) -> dict[str, int]:
        """Height and width, in a bundle where they are free."""
        axes = self.bundle.manifest.free_axes
        return dict(zip(axes, x.shape[2:], strict=True)) if axes else {}

    def _host_call(self, engine: Engine) -> HostCall:
        if engine not in self._calls:
            self._calls[engine] = HostCall(engine)
        return self._calls[engine]

    def _engine(self, graph: str, sizes: dict[str, int]) -> Engine:
        opened = self._engines.setdefault(graph, [])
        for engine in opened:
            if engine.takes(sizes):
                return engine
        request = self._gpu.library.engine_request(self._device, sizes)
        opened.append(Engine(self._gpu, self.bundle, require_engine(self.bundle, graph, request)))
        return opened[-1]

    def close(self) -> None:
        """Free the engines' memory, in the thread that opened them. Closing twice is allowed.

        Raises:
            RuntimeFailure: the thread is another one.
        """
        if self.is_open and not self._guard.is_inherited:
            self._gpu.driver.check_thread()
        super().close()

    def _enter(self) -> None:
        self._gpu.use()

    def _free(self) -> None:
        self._gpu.settle()
        for _, spaces in self._queues.values():
            spaces.close()
        for engine in (engine for opened in self._engines.values() for engine in opened):
            _store_kernels(engine)
        # Contexts go before their engines, and both before the memory that they use.
        self._last = None
        self._queues.clear()
        self._calls.clear()
        self._engines.clear()
        self._gpu.close()


class TensorRtRtxRuntime(TensorRtRuntime):
    """The three graphs as TensorRT-RTX engines; arguments and errors as of ``TensorRtRuntime``."""

    name = "tensorrt-rtx"
    library = TENSORRT_RTX


class _Cache:
    """Results by their inputs, those used longest ago dropped first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[dict[str, np.ndarray], np.ndarray]] = OrderedDict()

    def get(self, key: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray | None:
        entry = self._entries.get(key)
        if entry is None or not all(np.array_equal(entry[0][k], v) for k, v in inputs.items()):
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: bytes, inputs: dict[str, np.ndarray], result: np.ndarray) -> None:
        self._entries[key] = ({name: array.copy() for name, array in inputs.items()}, result)
        while self._num_bytes() > self._max_bytes and self._entries:
            self._entries.popitem(last=False)

    def _num_bytes(self) -> int:
        return sum(
            result.nbytes + sum(array.nbytes for array in inputs.values())
            for inputs, result in self._entries.values()
        )


def _store_kernels(engine: Engine) -> None:
    """Store what TensorRT-RTX compiled for this GPU beside the engine, for the next start."""
    if engine.jit_cache is None:
        return
    path = engine.cached.folder / JIT_CACHE_FILE
    serialized = engine.jit_cache.serialize()
    if serialized is None:  # nothing was compiled
        return
    compiled = bytes(serialized)
    if path.is_file() and path.read_bytes() == compiled:
        return
    try:
        atomic_write_bytes(path, compiled)
    except Minit2iError as error:
        warnings.warn(f"compiled kernels are not stored: {error}", stacklevel=3)
