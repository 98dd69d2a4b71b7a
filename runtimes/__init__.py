"""Runtimes: the three graphs of a bundle on one engine, behind one protocol."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.bundle import Bundle
from minit2i_deploy.errors import UsageError, require
from minit2i_deploy.protocol import Runtime, Trajectory

# Name on the command line -> "module:class"; each module imports one engine library.
RUNTIMES: Final[Mapping[str, str]] = {
    "onnxruntime": "minit2i_deploy.runtimes.onnxruntime:OnnxRuntime",
    "torch": "minit2i_deploy.runtimes.torch:TorchRuntime",
    "fake": "minit2i_deploy.runtimes.fake:FakeRuntime",
}
# Engines that their module imports at its top -> the extra that brings them.
_IMPORTED_AT_TOP: Final = {"torch": "export"}


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
    if name not in RUNTIMES:
        raise UsageError(f"runtime {name!r} is unknown; choose one of {', '.join(RUNTIMES)}")
    if name in _IMPORTED_AT_TOP:
        require(name, _IMPORTED_AT_TOP[name])
    module, attribute = RUNTIMES[name].split(":")
    opener = getattr(importlib.import_module(module), attribute)
    known = [key for key in inspect.signature(opener).parameters if key != "bundle"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        choices = ", ".join(known) or "none"
        raise UsageError(f"runtime {name} has no option {', '.join(unknown)}; it has {choices}")
    runtime: Runtime = opener(bundle, **options)
    return runtime


__all__ = ["RUNTIMES", "Runtime", "Trajectory", "open_runtime"]
