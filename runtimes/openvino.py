"""OpenVINO: the bundle's graphs in the library itself, on processors of any maker.

ONNX Runtime's OpenVINO plugin finds devices of Intel only; this runtime is for the others, and for
bf16 on those that have AVX-512 BF16 instructions.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.compatibility import require_engine_fits
from minit2i_deploy.bundle.fields import INT8_OPENVINO
from minit2i_deploy.errors import RuntimeFailure, UsageError, install_hint, require
from minit2i_deploy.protocol import check_threads
from minit2i_deploy.runtimes import int8_probe
from minit2i_deploy.runtimes.base import GraphRuntime, SelfTest
from minit2i_deploy.runtimes.compiled_cache import cache_folder, cache_key, device_name
from minit2i_deploy.runtimes.graph_files import graph_without_links
from minit2i_deploy.runtimes.guard import Guard, guarded
from minit2i_deploy.runtimes.int8_probe import STATIC, warn_of_saturation
from minit2i_deploy.runtimes.signal_stack import preserved_signal_stack
from minit2i_deploy.runtimes.toy_graph import (
    RATE_SIZE,
    TOY_SIZE,
    TOY_STEPS,
    best_rate,
    matmul_model,
    rate_arrays,
    toy_arrays,
    toy_error,
)
from minit2i_deploy.solvers.row import Known, Row
from minit2i_deploy.solvers.step_inputs import StepInputs

# Ours -> OpenVINO's, and what the processor must offer for it.
_PRECISIONS: Final = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16")}
_RUNS: Final = ("fp32", "fp16", "int8", "fp8")
_DEVICE: Final = "CPU"
# The first with Attention and RMSNormalization of opset 23; 2025.4 runs graphs of opset 18.
_MIN_VERSION: Final = (2026, 3)


class OpenVinoRuntime(GraphRuntime):
    """The three graphs in OpenVINO on the CPU.

    Args:
        bundle: an open bundle.
        precision: what to compute in: "fp32", or "bf16" on processors that have it.
        threads: threads to use; 0 leaves it to OpenVINO.
        lean: free the text encoder when the denoiser is opened; new texts open it again. OpenVINO
            holds weights twice, as they are in the file and as its kernels want them.
        cache: folder for compiled graphs, which spares the compilation next time; None keeps none.

    Raises:
        UsageError: an unknown precision, one that the processor lacks, or more threads than
            ``MAX_THREADS``.
        MissingDependencyError: openvino is not installed.
        RuntimeFailure: the bundle is for another engine alone.
    """

    name = "openvino"
    switches_step_graph = True

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        threads: int = 0,
        lean: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if precision not in _PRECISIONS:
            raise UsageError(
                f"precision {precision!r} is unknown; choose one of {', '.join(_PRECISIONS)}"
            )
        check_threads(threads)
        require_engine_fits(bundle, "runtime openvino")
        super().__init__(bundle)
        self._library = require("openvino", "openvino")
        self._core = self._library.Core()
        hint, capability = _PRECISIONS[precision]
        offered = _capabilities(self._core)
        if capability not in offered:
            raise UsageError(
                f"precision {precision} is not offered by this processor "
                f"({', '.join(sorted(offered))}); choose fp32"
            )
        self._settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._precision, self._cache = precision, cache
        self._graphs: dict[str, Any] = {}
        self._lean = lean

    @classmethod
    def self_tests(cls) -> list[SelfTest]:
        """One for each precision."""
        return [
            SelfTest(
                label=f"{cls.name}::{precision}",
                options={"precision": precision},
                run=partial(run_toy, precision),
                int8_saturates=_int8_saturates if precision == "fp32" else None,
            )
            for precision in _PRECISIONS
        ]

    def runs_precision(self, precision: str) -> bool:
        """Whether OpenVINO runs graphs of this precision."""
        return precision in _RUNS

    def _start(
        self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None
    ) -> OpenVinoTrajectory:
        if self._lean:
            self._graphs.pop("text_encoder", None)
        request = self._compiled("transformer").create_infer_request()
        inputs = self._step_inputs(x, tokens, known)
        return OpenVinoTrajectory(request, self._library.Tensor, x, inputs, self._guard)

    @guarded
    def matrix_rate(self) -> float:
        """FLOP a second of large matrix products in this precision, measured now."""
        a, weights = rate_arrays()
        model = self._core.read_model(matmul_model(RATE_SIZE, RATE_SIZE, RATE_SIZE, weights))
        compiled = self._core.compile_model(model, _DEVICE, self._settings)
        return best_rate(lambda: compiled({"a": a}))

    def _compiled(self, graph: str) -> Any:
        if graph not in self._graphs:
            path = self.bundle.graph_path(graph)
            self._check_precision(graph)
            self._require_vnni(graph)
            warn_of_saturation(self.bundle, graph, self.name, _saturating_forms)
            settings = self._settings | self._cache_setting(graph)
            try:
                with graph_without_links(path) as plain:
                    self._graphs[graph] = self._core.compile_model(plain, _DEVICE, settings)
            except RuntimeError as error:
                reason = _reason(error, path)
                version = str(self._library.__version__).partition("-")[0]
                if tuple(map(int, version.split(".")[:2])) < _MIN_VERSION:
                    reason = (
                        f"openvino {version} is too old; graphs of opset 23 need 2026.3 or later, "
                        f"{install_hint('openvino')} ({reason})"
                    )
                raise RuntimeFailure(f"{path}: openvino cannot open it: {reason}") from error
        return self._graphs[graph]

    def _cache_setting(self, graph: str) -> dict[str, str]:
        if self._cache is None:
            return {}
        key = cache_key(
            self.bundle,
            graph,
            library=self.name,
            version=str(self._library.__version__),
            device=device_name("cpu"),
            precision=self._precision,
        )
        return {"CACHE_DIR": str(cache_folder(self._cache, key))}

    def _check_precision(self, graph: str) -> None:
        precision = self.bundle.manifest.graphs[graph].precision
        if not self.runs_precision(precision):
            raise RuntimeFailure(
                f"{self.bundle.path}: graph {graph} is {precision}, but runtime openvino takes "
                f"{', '.join(_RUNS)}; export in fp32 and ask for precision bf16"
            )

    def _require_vnni(self, graph: str) -> None:
        """Refuse int8-openvino where it gains nothing (docs/measurements/performance.md)."""
        quantization = self.bundle.manifest.quantization
        if graph != "transformer" or quantization is None or quantization.scheme != INT8_OPENVINO:
            return
        if STATIC in _saturating_forms():
            raise RuntimeFailure(
                f"{self.bundle.path}: scheme {INT8_OPENVINO} needs a processor with VNNI, which "
                "this one lacks; quantize the source by int8-cpu instead, or use the source"
            )

    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        return self._outputs(graph, inputs)[0]

    def _run_step(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        x, h = self._outputs("transformer", inputs)
        return x, h

    def _outputs(self, graph: str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        compiled = self._compiled(graph)
        try:
            outputs = compiled(dict(inputs))
        except RuntimeError as error:
            path = self.bundle.graph_path(graph)
            raise RuntimeFailure(f"openvino failed in {graph}: {_reason(error, path)}") from error
        names = self.bundle.manifest.graphs[graph].outputs
        # The request's own memory, which the next call writes to.
        arrays = [np.array(outputs[index], dtype=np.float32) for index in range(len(names))]
        if not all(array.size for array in arrays):
            # Seen of 8-bit graphs under ONEDNN_MAX_CPU_ISA=AVX2 on a processor with AVX-512.
            raise RuntimeFailure(
                f"{self.bundle.path}: openvino gave an empty output of {graph}; unset "
                "ONEDNN_MAX_CPU_ISA if it is set, or choose runtime onnxruntime"
            )
        return arrays

    def _free(self) -> None:
        self._graphs.clear()


class OpenVinoTrajectory:
    """State of one batch: two pairs (x, h) of buffers, read from one and written to the other."""

    def __init__(
        self, request: Any, tensor: Any, x: np.ndarray, inputs: StepInputs, guard: Guard
    ) -> None:
        self._request, self._tensor, self._guard = request, tensor, guard
        self._inputs = inputs
        self._fixed: dict[int, dict[str, np.ndarray]] = {}
        self._now = (x.copy(order="C"), np.zeros(x.shape, x.dtype))
        self._next = (np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype))

    @guarded
    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        if noise is not None:
            self._now[1][...] = noise
        branches = len(row.weights)
        if branches not in self._fixed:
            self._fixed[branches] = self._inputs.fixed(branches)
        inputs = dict(zip(("x", "h"), self._now, strict=True))
        inputs |= self._fixed[branches] | self._inputs.of_row(row)
        outputs = dict(zip(("x_next", "h_next"), self._next, strict=True))
        try:
            for name, array in (inputs | outputs).items():
                self._request.set_tensor(name, self._tensor(array, shared_memory=True))
            self._request.infer()
        except RuntimeError as error:
            raise RuntimeFailure(f"openvino failed in transformer: {_reason(error)}") from error
        self._now, self._next = self._next, self._now

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        return self._now[0].copy(), self._now[1].copy()


def _capabilities(core: Any) -> list[str]:
    # The first question loads the plugin.
    with preserved_signal_stack():
        return list(core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"))


@functools.cache
def _saturating_forms() -> frozenset[str]:
    core = require("openvino", "openvino").Core()

    def run(model: bytes, a: np.ndarray) -> np.ndarray:
        compiled = core.compile_model(core.read_model(model), _DEVICE, {})
        output: np.ndarray = compiled({"a": a})[0]
        return output

    with preserved_signal_stack():
        return int8_probe.saturating_forms(run)


def _int8_saturates() -> bool:
    return bool(_saturating_forms())


def run_toy(precision: str = "fp32") -> float:
    """Multiply a state with a matrix ten times.

    Args:
        precision: "fp32" or "bf16".

    Returns:
        largest difference from numpy, relative to the largest value.

    Raises:
        MissingDependencyError: openvino is not installed.
        RuntimeFailure: it cannot run the toy, the processor lacks the precision, or the values
            are wrong.
    """
    core = require("openvino", "openvino").Core()
    hint, capability = _PRECISIONS[precision]
    if capability not in _capabilities(core):
        raise RuntimeFailure(f"precision {precision} is not offered by this processor")
    state, turn = toy_arrays()
    model = core.read_model(matmul_model(TOY_SIZE, TOY_SIZE, TOY_SIZE))
    compiled = core.compile_model(model, _DEVICE, {"INFERENCE_PRECISION_HINT": hint})
    try:
        for _ in range(TOY_STEPS):
            state = compiled({"a": state, "b": turn})[0].copy()
    except RuntimeError as error:
        raise RuntimeFailure(f"openvino cannot run a toy graph: {_reason(error)}") from error
    return toy_error(f"openvino in {precision}", state)


def _reason(error: Exception, path: Path | None = None) -> str:
    """The last line that says something; those before it name places in the library's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return reason if path is None else reason.replace(f"{path}: ", "")
