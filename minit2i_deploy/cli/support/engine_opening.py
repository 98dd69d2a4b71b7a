"""Opens the engine that a command's options ask for, or with ``auto`` the fastest that works."""

from __future__ import annotations

import ctypes.util
import dataclasses
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from minit2i_deploy.cli.support.options.engine_options import AUTO, SETTINGS, EngineOptions
from minit2i_deploy.errors import (
    MissingDependencyError,
    RuntimeFailure,
    SettingIgnoredWarning,
    UsageError,
)

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.protocol import Runtime

_TENSORRT: Final = ("tensorrt", "tensorrt-rtx")


class Wishes(TypedDict, total=False):
    """Options that the runtimes which have them get.

    Args:
        lean: free the text encoder when the denoiser is opened.
        keep_prompts: keep what was computed of a prompt; without it, it can be timed.
        arena: keep freed memory for the next run.
    """

    lean: bool
    keep_prompts: bool
    arena: bool


def open_engine(bundle: Bundle, engine: EngineOptions, **wishes: Unpack[Wishes]) -> Runtime:
    """Open the engine that is asked for; use it in a ``with`` block.

    Args:
        bundle: to run.
        engine: as given on the command line.
        wishes: options that not every runtime has.

    Raises:
        UsageError: an unknown runtime, or a setting for one that does not have it.
        MissingDependencyError: its library is not installed.
        RuntimeFailure: no device is found.
    """
    if engine.device == AUTO:
        return _open_fastest(bundle, engine, wishes)
    return _open_named(bundle, engine, wishes)


def opened_spec(engine: EngineOptions, runtime: Runtime) -> str:
    """The short form of an engine that was opened, also where ``auto`` chose it."""
    if engine.device != AUTO:
        return engine.spec
    return f"{runtime.name}:{getattr(runtime, 'provider', '')}".rstrip(":")


def _open_named(bundle: Bundle, engine: EngineOptions, wishes: Wishes) -> Runtime:
    """Open one engine by its name; arguments and errors as for ``open_engine``."""
    from minit2i_deploy.runtimes import open_runtime, runtime_class

    known = runtime_class(engine.name).options()
    values = {name: getattr(engine, name) for name in SETTINGS}
    settings = {name: value for name, value in values.items() if value is not None}
    if unknown := [name for name in settings if name not in known]:
        choices = ", ".join(f"--{name}" for name in SETTINGS if name in known)
        choices = choices or "none of these options"
        raise UsageError(f"runtime {engine.name} has no --{unknown[0]}; it takes {choices}")
    if "device" in settings and isinstance(known["device"].default, int):
        settings["device"] = _gpu_index(engine.name, settings["device"])
    settings |= {name: value for name, value in wishes.items() if name in known}
    runtime = open_runtime(bundle, engine.name, **settings)
    if engine.provider == AUTO:
        provider = getattr(runtime, "provider", "")
        sys.stderr.write(f"minit2i: provider {provider} (chosen by auto)\n")
    return runtime


def _gpu_index(runtime: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"--device: expected the index of a GPU for runtime {runtime}, or auto, got {text!r}"
        ) from None


def _open_fastest(bundle: Bundle, engine: EngineOptions, wishes: Wishes) -> Runtime:
    """Open the first engine that works, in the order of their speed; its name goes to stderr.

    TensorRT is tried where the bundle has engines, other GPU engines where there is an NVIDIA
    driver, then the CPU: OpenVINO, which is faster there, and ONNX Runtime.

    Args:
        bundle: to run.
        engine: settings that every engine tried gets, where it has them.
        wishes: as for ``open_engine``.

    Raises:
        UsageError: a runtime or provider is named beside auto.
        RuntimeFailure: no engine opens the bundle; the reasons are listed.
    """
    for name in ("runtime", "provider", "precision", "compile"):
        if getattr(engine, name) is not None:
            raise UsageError(f"--device auto and --{name} are mutually exclusive")
    reasons = []
    for candidate in _candidates(bundle, engine):
        try:
            runtime = _open_named(bundle, candidate, wishes)
            _check_precisions(bundle, runtime)
        except (MissingDependencyError, RuntimeFailure) as error:
            reasons.append(f"{candidate.spec}: {error}")
            continue
        sys.stderr.write(f"minit2i: device auto: {candidate.spec}\n")
        if engine.cache is not None and candidate.cache is None:
            text = f"{candidate.spec}, chosen by auto, gets no cache; --cache has no effect"
            warnings.warn(text, SettingIgnoredWarning, stacklevel=2)
        return runtime
    raise RuntimeFailure(f"no engine opens {bundle.path}: {'; '.join(reasons)}")


def _check_precisions(bundle: Bundle, runtime: Runtime) -> None:
    """Close a runtime that has no kernels for a graph: it would fail at its first use.

    Raises:
        RuntimeFailure: it has none.
    """
    runs_precision = getattr(runtime, "runs_precision", None)
    for name, graph in bundle.manifest.graphs.items():
        if runs_precision is not None and not runs_precision(graph.precision):
            runtime.close()
            raise RuntimeFailure(f"{name} is {graph.precision}, which it does not run")


def _candidates(bundle: Bundle, engine: EngineOptions) -> Iterator[EngineOptions]:
    from minit2i_deploy.engines.cache import CachedEngine, cached_engines

    plain = dataclasses.replace(engine, device=None, threads=None, cache=None)
    if has_nvidia_driver():
        built = {
            item.record.key.library
            for item in cached_engines(bundle)
            if isinstance(item, CachedEngine)
        }
        for runtime in _TENSORRT:
            if runtime.replace("-", "_") in built:
                yield dataclasses.replace(plain, runtime=runtime)
        yield dataclasses.replace(plain, runtime="onnxruntime", provider="cuda")
        yield dataclasses.replace(plain, runtime="torch", device="cuda:0")
    for runtime in ("openvino", "onnxruntime"):
        yield dataclasses.replace(
            plain, runtime=runtime, threads=engine.threads, cache=engine.cache
        )


def has_nvidia_driver() -> bool:
    """Whether CUDA's driver library is installed, without loading an engine to find out."""
    return any(ctypes.util.find_library(name) is not None for name in ("cuda", "nvcuda"))
