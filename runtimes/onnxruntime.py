"""ONNX Runtime: the bundle's graphs as they are.

Sessions are opened on first use, so embedding never loads the denoiser. The state lives in two
pairs of buffers that swap roles from row to row.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError, require
from minit2i_deploy.runtimes.base import ClosableRuntime, check_conditions, check_encoder

# Providers of this runtime -> ONNX Runtime's name and the extra that brings it.
PROVIDERS: Final = {"cpu": ("CPUExecutionProvider", "cpu")}


class OnnxRuntime(ClosableRuntime):
    """The three graphs on ONNX Runtime.

    Args:
        bundle: an open bundle.
        provider: "cpu".
        threads: threads of one operator; 0 takes one for each core this process may use.

    Raises:
        UsageError: an unknown provider or a negative number of threads.
        MissingDependencyError: onnxruntime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, *, provider: str = "cpu", threads: int = 0) -> None:
        if provider not in PROVIDERS:
            raise UsageError(
                f"provider {provider!r} is unknown; choose one of {', '.join(PROVIDERS)}"
            )
        if threads < 0:
            raise UsageError(f"threads is {threads}, but 0 (all cores) or more is needed")
        self.bundle = bundle
        self.provider, extra = PROVIDERS[provider]
        self.threads = threads or _usable_cores()
        self._ort = require("onnxruntime", extra)
        self._sessions: dict[str, Any] = {}
        self._encoder_is_checked = False

    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """Run the text encoder; arguments and result as in ``protocol.Runtime``."""
        if not self._encoder_is_checked:
            check_encoder(self.bundle.path, self.name, self._encode)
            self._encoder_is_checked = True
        return self._encode(input_ids, attention_mask)

    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._run("text_encoder", input_ids=ids, attention_mask=mask)

    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter; arguments and result as in ``protocol.Runtime``."""
        check_conditions(self.bundle.config, conditions)
        told = {} if conditions is None else {"conditions": conditions}
        return self._run("text_adapter", context=context, mask=mask, **told)

    def start(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
    ) -> OnnxTrajectory:
        """Put a start state and the branches' tokens into buffers; h is zero."""
        return OnnxTrajectory(self._session("transformer"), self._ort, x, tokens)

    def _session(self, graph: str) -> Any:
        self._check_open()
        if graph not in self._sessions:
            options = self._ort.SessionOptions()
            options.intra_op_num_threads = self.threads
            # Spinning threads cost other work on the machine more than they gain this one.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            path = self.bundle.graph_path(graph)
            self._sessions[graph] = open_session(self._ort, path, options, self.provider)
        return self._sessions[graph]

    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        session = self._session(graph)
        try:
            result: np.ndarray = session.run(None, inputs)[0]
        except Exception as error:  # the library's errors share no base
            raise RuntimeFailure(f"onnxruntime failed in {graph}: {_reason(error)}") from error
        return result

    def _free(self) -> None:
        self._sessions.clear()


class OnnxTrajectory:
    """State of one batch: two pairs (x, h) of buffers, read from one and written to the other."""

    def __init__(self, session: Any, ort: Any, x: np.ndarray, tokens: np.ndarray) -> None:
        self._session, self._ort = session, ort
        self._tokens = tokens
        self._branches: dict[int, Any] = {}
        value = ort.OrtValue.ortvalue_from_numpy
        # A value lies on its array's memory: own arrays, in C order whatever the caller's.
        self._now = (value(x.copy(order="C")), value(np.zeros(x.shape, x.dtype)))
        self._next = (value(np.empty(x.shape, x.dtype)), value(np.empty(x.shape, x.dtype)))

    def step(
        self,
        row: Float32[np.ndarray, " 6"],
        weights: Float32[np.ndarray, " branches"],
        noise: Float32[np.ndarray, "batch 3 height width"] | None = None,
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        if noise is not None:
            self._now[1].update_inplace(np.ascontiguousarray(noise))
        binding = self._session.io_binding()
        for name, value in zip(("x", "h"), self._now, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_input("tokens", self._first_branches(len(weights)))
        binding.bind_cpu_input("weights", weights)
        binding.bind_cpu_input("row", row)
        for name, value in zip(("x_next", "h_next"), self._next, strict=True):
            binding.bind_ortvalue_output(name, value)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the library's errors share no base
            raise RuntimeFailure(f"onnxruntime failed in transformer: {_reason(error)}") from error
        self._now, self._next = self._next, self._now

    def _first_branches(self, count: int) -> Any:
        if count not in self._branches:
            tokens = np.ascontiguousarray(self._tokens[:count])
            self._branches[count] = self._ort.OrtValue.ortvalue_from_numpy(tokens)
        return self._branches[count]

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        x, h = (value.numpy().copy() for value in self._now)
        return x, h


def open_session(ort: Any, path: Path, options: Any, provider: str) -> Any:
    """Open one graph on one provider.

    Raises:
        RuntimeFailure: the library cannot open it; its first line says why.
    """
    try:
        return ort.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # the library's errors share no base
        raise RuntimeFailure(f"{path}: onnxruntime cannot open it: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _usable_cores() -> int:
    # Containers and taskset narrow what the process may use; only Linux tells.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
