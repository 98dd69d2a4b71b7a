"""Runtimes: the three graphs of a bundle on one engine, behind one protocol.

Importing this module loads no engine, not even numpy, so that help texts can name the runtimes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.protocol import Runtime
    from minit2i_deploy.runtimes.base import BaseRuntime

DEFAULT_RUNTIME: Final = "onnxruntime"
# Name on the command line -> "module:class". A module imports its engine in the constructor, so
# that a class can be asked for its options where the engine is not installed.
RUNTIMES: Final[dict[str, str]] = {
    "onnxruntime": "minit2i_deploy.runtimes.onnxruntime.runtime:OnnxRuntime",
    "openvino": "minit2i_deploy.runtimes.openvino:OpenVinoRuntime",
    "torch": "minit2i_deploy.runtimes.torch.runtime:TorchRuntime",
    "tensorrt": "minit2i_deploy.runtimes.tensorrt.runtime:TensorRtRuntime",
    "tensorrt-rtx": "minit2i_deploy.runtimes.tensorrt.runtime:TensorRtRtxRuntime",
    "fake": "minit2i_deploy.runtimes.fake:FakeRuntime",
}


def open_runtime(bundle: Bundle, name: str = DEFAULT_RUNTIME, **options: Any) -> Runtime:
    """Open a bundle's graphs on an engine; use it in a ``with`` block.

    Calls from several threads are taken one after another; those of tensorrt and tensorrt-rtx must
    all come from the thread that opened it. After a fork, open a runtime in the child.

    Args:
        bundle: an open bundle.
        name: "onnxruntime", "openvino", "torch", "tensorrt", "tensorrt-rtx" or "fake".
        options: of the runtime; what they mean stands with its class.

            onnxruntime: provider: str = 'cpu', precision: str | None = None, threads: int = 0,
            arena: bool = True, lean: bool = False, cache: str | os.PathLike[str] | None = None,
            cuda_graph: str = 'auto', device: int = 0, tf32: bool = False

            openvino: precision: str = 'fp32', threads: int = 0, lean: bool = False,
            cache: str | os.PathLike[str] | None = None

            torch: device: str = 'cpu', precision: str | None = None, compile: bool = False,
            one_graph: bool = False

            tensorrt, tensorrt-rtx: device: int = 0, graphs: str = 'trajectory',
            debug: bool = False, keep_prompts: bool = True

    Raises:
        UsageError: an unknown runtime or option; the choices are listed.
        MissingDependencyError: the engine is not installed; the text names the pip line.
        RuntimeFailure: the engine cannot open the bundle's graphs.
    """
    kind = runtime_class(name)
    unknown = sorted(set(options) - set(kind.options()))
    if unknown:
        choices = ", ".join(kind.options()) or "none"
        raise UsageError(f"runtime {name} has no option {', '.join(unknown)}; it has {choices}")
    switch = bundle.manifest.switch
    if switch is None:
        return kind(bundle, **options)
    if not kind.switches_step_graph:
        choices = ", ".join(item for item in RUNTIMES if runtime_class(item).switches_step_graph)
        raise RuntimeFailure(
            f"{bundle.path}: has another step graph from t={switch.t:g} on, which runtime {name} "
            f"does not switch to; choose one of {choices}"
        )
    from minit2i_deploy.bundle.step_switch import SwitchRuntime, bundle_after_switch

    after = kind(bundle_after_switch(bundle), **options)
    return SwitchRuntime(kind(bundle, **options), after, switch.t)


def runtime_class(name: str) -> type[BaseRuntime]:
    """The class of a runtime, which declares its options and what it can do.

    Raises:
        UsageError: an unknown runtime; the choices are listed.
    """
    if name not in RUNTIMES:
        raise UsageError(f"runtime {name!r} is unknown; choose one of {', '.join(RUNTIMES)}")
    module, attribute = RUNTIMES[name].split(":")
    kind: type[BaseRuntime] = getattr(importlib.import_module(module), attribute)
    return kind


__all__ = ["DEFAULT_RUNTIME", "RUNTIMES", "open_runtime", "runtime_class"]
