"""`RuntimeLibrary`: how TensorRT and TensorRT-RTX, and their versions, are run."""

from __future__ import annotations

import mmap
from typing import Any, Final

from minit2i_deploy.engines.cache import Device, EngineRequest
from minit2i_deploy.engines.library import Library
from minit2i_deploy.errors import RuntimeFailure

_MAX_LINES: Final = 8


class RuntimeLibrary(Library):
    """A library with what a run needs, and a logger of its own."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module)
        self._lines: list[str] = []
        self.logger = _new_logger(module, self._lines)

    def engine_request(self, device: Device, sizes: dict[str, int]) -> EngineRequest:
        """What an engine must be made for, to be run by this library."""
        return EngineRequest(
            library=self.name, library_version=self.version, device=device, sizes=sizes
        )

    def failure(self, what: str) -> RuntimeFailure:
        """An error with the first thing that the library logged; those after it are its echo."""
        reason = " ".join(self._lines[0].split()) if self._lines else "it gives no reason"
        self._lines.clear()
        return RuntimeFailure(f"{what}: {reason}")

    def forget_lines(self) -> None:
        """Begin a new piece of work: older lines are not its reasons."""
        self._lines.clear()

    def why_invalid(self, runtime: Any, plan: bytes | mmap.mmap) -> str | None:
        """What keeps a plan from this machine, where the library can tell."""
        if not hasattr(runtime, "get_engine_validity"):
            return None
        trt = self.module
        _, flags = runtime.get_engine_validity(plan)
        kinds = trt.EngineInvalidityDiagnostics
        reasons = {
            "VERSION_MISMATCH": "it was built by another version of the library",
            "UNSUPPORTED_CC": "it was not built for this GPU",
            "OLD_CUDA_DRIVER": "the NVIDIA driver is too old; install a newer one",
            "OLD_CUDA_RUNTIME": "the CUDA runtime is too old; install a newer one",
            "INSUFFICIENT_GPU_MEMORY": "the GPU's memory is too small for it",
            "MALFORMED_ENGINE": "it is no engine of this library",
        }
        present = [text for name, text in reasons.items() if int(getattr(kinds, name)) & int(flags)]
        return "; ".join(present) or None

    def new_context(self, engine: Any, *, specialize: bool, jit_cache: Any = None) -> Any:
        """An execution context without scratch memory of its own.

        Args:
            engine: deserialized.
            specialize: TensorRT-RTX only: compile kernels for the very shapes, and do it before
                they run, so that a graph that is captured holds what later runs would use too.
            jit_cache: of ``new_jit_cache``, or None.

        Raises:
            RuntimeFailure: the library makes none.
        """
        self.forget_lines()
        trt = self.module
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(engine, "create_runtime_config"):
            context = engine.create_execution_context(strategy)
        else:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
                kinds = trt.DynamicShapesKernelSpecializationStrategy
                config.dynamic_shapes_kernel_specialization_strategy = (
                    kinds.EAGER if specialize else kinds.NONE
                )
            if jit_cache is not None:
                config.set_runtime_cache(jit_cache)
            context = engine.create_execution_context(config)
        if context is None:
            raise self.failure(f"{self.name} makes no execution context")
        return context

    def new_jit_cache(self, engine: Any, stored: bytes | None) -> Any:
        """TensorRT-RTX's cache of compiled kernels, filled if ``stored`` suits; else None."""
        if not hasattr(engine, "create_runtime_config"):
            return None
        config = engine.create_runtime_config()
        if not hasattr(config, "create_runtime_cache"):
            return None
        cache = config.create_runtime_cache()
        if stored:
            # Refused when GPU or driver changed; it is then compiled anew.
            cache.deserialize(stored)
        return cache


def _new_logger(trt: Any, lines: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for the one line that is raised; says nothing itself."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR) and len(lines) < _MAX_LINES:
                lines.append(message)

    return Logger()
