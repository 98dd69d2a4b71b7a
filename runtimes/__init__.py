"""Runtimes: the three graphs of a bundle on one engine, behind one protocol."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.step_switch import SwitchRuntime, bundle_after_switch
from minit2i_deploy.errors import RuntimeFailure, UsageError, require
from minit2i_deploy.protocol import Runtime, Trajectory

# Name on the command line -> "module:class"; each module imports one engine library.
RUNTIMES: Final[Mapping[str, str]] = {
    "onnxruntime": "minit2i_deploy.runtimes.onnxruntime.runtime:OnnxRuntime",
    "openvino": "minit2i_deploy.runtimes.openvino:OpenVinoRuntime",
    "torch": "minit2i_deploy.runtimes.torch.runtime:TorchRuntime",
    "tensorrt": "minit2i_deploy.runtimes.tensorrt.runtime:TensorRtRuntime",
    "tensorrt-rtx": "minit2i_deploy.runtimes.tensorrt.runtime:TensorRtRtxRuntime",
    "fake": "minit2i_deploy.runtimes.fake:FakeRuntime",
}
# Engines that their module imports at its top -> the extra that brings them.
_IMPORTED_AT_TOP: Final = {"torch": "export"}
# Those that are tried with a bundle whose late rows have a step graph of their own.
_SPLITTING: Final = ("onnxruntime", "openvino", "fake")


def open_runtime(bundle: Bundle, name: str = "onnxruntime", **options: Any) -> Runtime:
    """Open a bundle's graphs on an engine; use it in a ``with`` block.

    Args:
        bundle: an open bundle.
        name: one of RUNTIMES.
        options: of the runtime, for example ``threads=2``.

    Raises:
        UsageError: an unknown runtime or option; the choices are listed.
        MissingDependencyError: the engine is not installed; the text names the pip line.
        RuntimeFailure: the engine cannot open the bundle's graphs.
    """
    opener = _opener(name)
    known = runtime_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        choices = ", ".join(known) or "none"
        raise UsageError(f"runtime {name} has no option {', '.join(unknown)}; it has {choices}")
    late = bundle.manifest.switch
    if late is not None and name not in _SPLITTING:
        raise RuntimeFailure(
            f"{bundle.path}: has another step graph from t={late.t:g} on, which runtime {name} does"
            f" not switch to; choose one of {', '.join(_SPLITTING)}"
        )
    runtime: Runtime = opener(bundle, **options)
    if late is None:
        return runtime
    return SwitchRuntime(runtime, opener(bundle_after_switch(bundle), **options), late.t)


def runtime_options(name: str) -> list[str]:
    """Names of the options that a runtime takes beside the bundle.

    Raises:
        UsageError: an unknown runtime; the choices are listed.
        MissingDependencyError: the engine is not installed; the text names the pip line.
    """
    return [key for key in inspect.signature(_opener(name)).parameters if key != "bundle"]


def _opener(name: str) -> Callable[..., Runtime]:
    if name not in RUNTIMES:
        raise UsageError(f"runtime {name!r} is unknown; choose one of {', '.join(RUNTIMES)}")
    if name in _IMPORTED_AT_TOP:
        require(name, _IMPORTED_AT_TOP[name])
    module, attribute = RUNTIMES[name].split(":")
    opener: Callable[..., Runtime] = getattr(importlib.import_module(module), attribute)
    return opener


def prove_engines() -> dict[str, Callable[[], float]]:
    """A proof for every engine that this package knows: it runs a toy of ten rows.

    Returns:
        runtime, or runtime:provider, or runtime::precision, to a call that gives the toy's
        relative error, or raises MissingDependencyError or RuntimeFailure.
    """
    from minit2i_deploy.runtimes import openvino
    from minit2i_deploy.runtimes.onnxruntime import providers as onnxruntime_providers
    from minit2i_deploy.runtimes.onnxruntime import session as onnxruntime_session
    from minit2i_deploy.runtimes.tensorrt import probe as tensorrt_probe

    library = "onnxruntime"

    def of_provider(provider: onnxruntime_providers.Provider) -> float:
        return onnxruntime_session.prove(require(library, provider.extra), provider)

    def of_torch(device: str) -> float:
        for engine, extra in _IMPORTED_AT_TOP.items():
            require(engine, extra)
        probe = importlib.import_module("minit2i_deploy.runtimes.torch.probe")
        error: float = probe.prove(device)
        return error

    engines: dict[str, Callable[[], float]] = {
        f"onnxruntime:{name}": functools.partial(of_provider, provider)
        for name, provider in onnxruntime_providers.PROVIDERS.items()
    }
    for precision in ("fp32", "bf16"):
        engines[f"openvino::{precision}"] = functools.partial(openvino.prove, precision)
    for name in ("tensorrt", "tensorrt-rtx"):
        engines[name] = functools.partial(tensorrt_probe.prove, name.replace("-", "_"))
    for device in ("cpu", "cuda"):
        engines[f"torch ({device})"] = functools.partial(of_torch, device)
    return engines


__all__ = ["RUNTIMES", "Runtime", "Trajectory", "open_runtime", "prove_engines", "runtime_options"]
