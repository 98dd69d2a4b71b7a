"""ONNX Runtime: the bundle's graphs as they are.

Sessions are opened on first use, so embedding never loads the denoiser. One session serves any
number of branches: its weights are in memory once.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.compatibility import require_engine_fits
from minit2i_deploy.errors import (
    CudaGraphWarning,
    PrecisionWarning,
    RuntimeFailure,
    SettingIgnoredWarning,
    require,
)
from minit2i_deploy.protocol import check_threads
from minit2i_deploy.runtimes.base import GraphRuntime, SelfTest
from minit2i_deploy.runtimes.compiled_cache import cache_folder, cache_key, device_name
from minit2i_deploy.runtimes.cuda.capture_gate import CAPTURE_GATE
from minit2i_deploy.runtimes.guard import guarded
from minit2i_deploy.runtimes.int8_probe import warn_of_saturation
from minit2i_deploy.runtimes.onnxruntime.cuda_graphs import (
    CapturedTrajectory,
    StepGraphs,
    check_mode,
)
from minit2i_deploy.runtimes.onnxruntime.int8_probe import int8_products_saturate, saturating_forms
from minit2i_deploy.runtimes.onnxruntime.opening_ahead import OpeningAhead
from minit2i_deploy.runtimes.onnxruntime.packed_graphs import FORM, WAIT_S, open_packed
from minit2i_deploy.runtimes.onnxruntime.providers import (
    AUTO,
    PROVIDERS,
    Provider,
    check_present,
    lacks_kernels,
    provider_version,
)
from minit2i_deploy.runtimes.onnxruntime.session import (
    find_provider,
    matrix_rate,
    open_session,
    run_toy,
    session_options,
)
from minit2i_deploy.runtimes.onnxruntime.stored_sequences import StoredSequences
from minit2i_deploy.runtimes.onnxruntime.trajectory import OnnxTrajectory, failing_in, first_line
from minit2i_deploy.solvers.row import Known


class OnnxRuntime(GraphRuntime):
    """The three graphs on ONNX Runtime.

    Args:
        bundle: an open bundle.
        provider: "cpu", "openvino", "cuda", "tensorrt" or "tensorrt-rtx"; "auto" takes the
            fastest that is there and keeps the bundle's precision (``.provider`` says which).
        precision: what the provider is to compute in, where it offers that (openvino: "fp32",
            "bf16"); None: as the graphs say.
        threads: threads of one operator; 0 takes one for each core this process may use.
        arena: keep freed memory for the next run, which is faster and takes more.
        lean: free the text encoder when the denoiser is opened; new texts open it again. On
            provider cpu its weights are then not copied when it is opened, as a few texts do not
            pay for it; each text alone takes longer, so embed many without ``lean``. There the
            denoiser is opened beside the first run of the text adapter.
        cache: folder for what is compiled of the graphs, or None: cpu keeps packed weights there,
            twice the bytes of a graph (in fp16 four times), and with ``lean`` the encoded prompts,
            so that the same prompt needs no text encoder; openvino, tensorrt and tensorrt-rtx
            their models; cuda has none.
        device: index of the GPU, for cuda, tensorrt and tensorrt-rtx.
        tf32: let cuda round the factors of float32 products to 10 bits, which is faster; the text
            encoder of every bundle computes in float32.
        cuda_graph: "on" records each step as a CUDA graph, checked against plain runs, or fails;
            "auto" does so on provider cuda where it works, and warns where it does not; "off".

    Raises:
        UsageError: an unknown provider or precision, more threads than ``MAX_THREADS``, or no GPU
            of that index.
        MissingDependencyError: onnxruntime or the provider is not installed.
        RuntimeFailure: the provider finds no device of its kind, or the bundle is for another
            engine alone.
    """

    name = "onnxruntime"
    switches_step_graph = True

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: str = "cpu",
        precision: str | None = None,
        threads: int = 0,
        arena: bool = True,
        lean: bool = False,
        cache: str | os.PathLike[str] | None = None,
        cuda_graph: str = "auto",
        device: int = 0,
        tf32: bool = False,
    ) -> None:
        check_threads(threads)
        super().__init__(bundle)
        self.threads = threads or _usable_cores()
        if provider == AUTO:
            provider = bundle.manifest.only_for or AUTO
        known = PROVIDERS.get(provider)
        self._ort = require("onnxruntime", "cpu" if known is None else known.extra)
        precisions = [graph.precision for graph in bundle.manifest.graphs.values()]
        # Under auto, it runs a toy on the GPU.
        with CAPTURE_GATE.shared():
            self._provider = find_provider(
                self._ort,
                provider,
                precisions,
                precision,
                graph=bundle.graph_path("text_adapter"),
                device=device,
            )
            self._gpu = check_present(self._ort, self._provider, device)
        self._guard.uses_cuda = self._provider.device == "cuda"
        require_engine_fits(bundle, self.provider)
        check_mode(cuda_graph, self.provider, self._provider.records is not None)
        self._cuda_graph = cuda_graph
        self._step_graphs: StepGraphs | None = None
        self._settings: dict[str, Any] = {
            "precision": precision,
            "threads": self.threads,
            "arena": arena,
            "device": device,
            "tf32": tf32,
        }
        if cache is not None and self.provider == "cuda":
            text = "provider cuda compiles nothing of a graph, so cache has no effect"
            warnings.warn(text, SettingIgnoredWarning, stacklevel=2)
        self._cache = cache
        # Refuses a wrong precision before the first graph is read.
        session_options(self._ort, self._provider, **self._settings)
        self._sessions: dict[str, Any] = {}
        self._lean = lean
        self._ahead: OpeningAhead | None = None

    @classmethod
    def self_tests(cls) -> list[SelfTest]:
        """One for each provider."""
        return [
            SelfTest(
                label=f"{cls.name}:{name}",
                options={"provider": name},
                run=partial(_self_test, provider),
                int8_saturates=int8_products_saturate if name == "cpu" else None,
            )
            for name, provider in PROVIDERS.items()
        ]

    def runs_precision(self, precision: str) -> bool:
        """Whether the provider has kernels for graphs of this precision."""
        return lacks_kernels(self._ort, self._provider, precision, self._gpu) is None

    @property
    def provider(self) -> str:
        """Name of the provider in use, one of ``onnxruntime_providers.PROVIDERS``."""
        return self._provider.name

    def _start(
        self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None
    ) -> OnnxTrajectory | CapturedTrajectory:
        if self._lean:
            self._sessions.pop("text_encoder", None)
        session = self._session("transformer")
        inputs = self._step_inputs(x, tokens, known)
        device = (self._provider.device, int(self._settings["device"]))
        try:
            if self._step_graphs is not None:
                return self._step_graphs.start(x, inputs, self._guard)
            return OnnxTrajectory(session, self._ort, x, inputs, device, self._guard)
        except RuntimeError as error:  # of memory on the device
            raise RuntimeFailure(f"onnxruntime cannot start: {first_line(error)}") from error

    @guarded
    def matrix_rate(self) -> float:
        """FLOP a second of large matrix products on this provider, measured now."""
        return matrix_rate(self._ort, self._provider, **self._settings)

    def _stored(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
        values = None if self._sequences is None else self._sequences.read(ids, mask)
        if values is not None and "text_encoder" not in self._sessions:
            # As if it had been opened, which says what this processor computes wrong.
            self._warn_of("text_encoder")
        return values

    def _store(self, ids: np.ndarray, mask: np.ndarray, values: np.ndarray) -> None:
        if self._sequences is not None:
            self._sequences.write(ids, mask, values)

    @cached_property
    def _sequences(self) -> StoredSequences | None:
        if not self._lean or self.provider != "cpu":
            return None
        folder = self._cache_folder("text_encoder")
        if folder is None:
            return None
        # More threads may add in another order.
        place = folder / f"sequences-{self.threads}-threads"
        return StoredSequences(place, self.bundle.config.txt_input_size)

    def _adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        if self._lean and self.provider == "cpu":
            self._open_denoiser_ahead()
        return super()._adapt(context, mask, conditions)

    def _open_denoiser_ahead(self) -> None:
        """Open the denoiser on a thread; after the encoder, so that memory holds one of them."""
        if "transformer" in self._sessions or self._ahead is not None:
            return
        self._sessions.pop("text_encoder", None)
        # The thread waits for no other process: Ctrl-C could not interrupt it.
        opening = partial(self._opened, "transformer", wait_s=0.0)
        # Without a thread the denoiser is opened where it is used.
        with contextlib.suppress(RuntimeError):
            self._ahead = OpeningAhead(opening)

    def _session(self, graph: str) -> Any:
        if graph not in self._sessions:
            self._check_precision(graph)
            self._warn_of(graph)
            self._sessions[graph] = self._opened_ahead(graph) or self._opened(graph)
        return self._sessions[graph]

    def _warn_of(self, graph: str) -> None:
        if self._provider.device == "cpu":
            forms = partial(saturating_forms, self.provider)
            warn_of_saturation(self.bundle, graph, f"onnxruntime ({self.provider})", forms)
        elif self.provider == "cuda":
            self._warn_of_int8(graph)

    def _opened_ahead(self, graph: str) -> Any:
        if graph != "transformer" or self._ahead is None:
            return None
        session = self._ahead.session()
        self._ahead = None
        return session

    def _opened(self, graph: str, *, wait_s: float = WAIT_S) -> Any:
        place = self.bundle.graph_path(graph)
        prepack = not (self._lean and graph == "text_encoder" and self.provider == "cpu")
        settings = self._settings | {
            "cache": self._cache_folder(graph) if prepack else None,
            "info": self.bundle.manifest.graphs[graph],
            "free": self.bundle.manifest.free_axes,
            "prepack": prepack,
        }
        records = self._provider.records is not None and self._cuda_graph != "off"
        if graph == "transformer" and records:
            must = self._cuda_graph == "on"
            try:
                session = open_session(self._ort, place, self._provider, **settings, capture=True)
            except RuntimeFailure as error:
                if must:
                    raise
                text = f"{error}; running without CUDA graphs"
                warnings.warn(text, CudaGraphWarning, stacklevel=2)
            else:
                device = int(self._settings["device"])
                self._step_graphs = StepGraphs(session, self._ort, must, device)
                return session

        def opening(file: Path, **further: Any) -> Any:
            return open_session(self._ort, file, self._provider, **settings, **further)

        if self.provider == "cpu" and settings["cache"] is not None:
            return open_packed(opening, place, settings["cache"], wait_s=wait_s)
        return opening(place)

    def _warn_of_int8(self, graph: str) -> None:
        if self.bundle.manifest.graphs[graph].precision != "int8":
            return
        warnings.warn(
            f"{self.bundle.path}: {graph} is int8, which provider cuda runs slower than the bundle "
            "it was made from: it rounds in kernels of their own and multiplies in the source's "
            "precision; run the source bundle, or provider tensorrt",
            PrecisionWarning,
            stacklevel=2,
        )

    def _cache_folder(self, graph: str) -> Path | None:
        if self._cache is None:
            return None
        key = cache_key(
            self.bundle,
            graph,
            library=f"onnxruntime:{self.provider}",
            version=provider_version(self._ort, self._provider),
            device=self._device_name(),
            precision=self._settings["precision"] or "as the graph",
        )
        if self.provider == "cpu":
            key |= {"form": FORM}
        return cache_folder(self._cache, key)

    def _device_name(self) -> str:
        name = device_name(self._provider.device)
        gpu = self._gpu
        # What Linux tells is missing in some virtual machines, and counts all GPUs of a machine.
        return name if gpu is None else f"{name}; {gpu.name} sm{gpu.capability}"

    def _check_precision(self, graph: str) -> None:
        precision = self.bundle.manifest.graphs[graph].precision
        reason = lacks_kernels(self._ort, self._provider, precision, self._gpu)
        if reason is not None:
            raise RuntimeFailure(f"{self.bundle.path}: graph {graph} is {precision}, {reason}")

    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        return self._outputs(graph, inputs)[0]

    def _run_step(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        x, h = self._outputs("transformer", inputs)
        return x, h

    def _outputs(self, graph: str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        session = self._session(graph)
        with failing_in(graph):
            # A session that records CUDA graphs would record these arrays too.
            plain = self._plain_run() if graph == "transformer" else ()
            results: list[np.ndarray] = session.run(None, dict(inputs), *plain)
        return results

    def _plain_run(self) -> tuple[Any, ...]:
        return () if self._step_graphs is None else (self._step_graphs.plain_options(),)

    def _free(self) -> None:
        if self._ahead is not None:
            self._ahead.discard()
            self._ahead = None
        self._sessions.clear()
        self._step_graphs = None


def _self_test(provider: Provider) -> float:
    return run_toy(require(OnnxRuntime.name, provider.extra), provider)


def _usable_cores() -> int:
    # Containers and taskset narrow what the process may use; only Linux tells.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


__all__ = ["OnnxRuntime", "OnnxTrajectory", "open_session"]
