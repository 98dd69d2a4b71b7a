"""Options that a session is opened with, for each provider in its own words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.bundle.manifest import GraphInfo
from minit2i_deploy.errors import UsageError
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS, Provider, plugin_device

# Least, most usual and largest size of a free axis. TensorRT builds an engine for these sizes
# once; without them each new size builds another one, in the middle of an image.
_SIZES: Final[Mapping[str, tuple[int, int, int]]] = {
    "batch": (1, 1, 16),
    "branches": (1, 2, 3),
    "n": (1, 2, 48),
    "sequences": (1, 2, 48),
    "tokens": (1, 64, 512),
}
_OTHER_SIZES: Final = (1, 2, 48)
_TENSORRT_TYPES: Final = ("fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderSettings:
    """What a session's provider is set to.

    Args:
        precision: what it is to compute in, one of ``provider.computes``; None: as the graph.
        threads: that it may use, where it has threads of its own; 0: as many as it likes.
        cache: folder for compiled models, for those that keep any.
        capture: let the session record CUDA graphs, for a provider that can.
        device: index of the GPU, for those that run on one.
        tf32: let products of float32 on an NVIDIA GPU round their factors to 10 bits.
        info: of the bundle's graph: sizes and types for providers that compile; None for a toy.
        free: least, usual and greatest size of further free axes, by name.
    """

    precision: str | None = None
    threads: int = 0
    cache: Path | None = None
    capture: bool = False
    device: int = 0
    tf32: bool = False
    info: GraphInfo | None = None
    free: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


def attach(ort: Any, provider: Provider, options: Any, settings: ProviderSettings) -> list[Any]:
    """Set a provider in session options.

    Args:
        ort: the onnxruntime module.
        provider: one that is present.
        options: SessionOptions, which a plugin is added to.
        settings: of the provider.

    Returns:
        the ``providers`` argument of InferenceSession; empty where the options say all.

    Raises:
        UsageError: a precision that the provider does not offer, or no such device.
    """
    precision = settings.precision
    if precision is not None and precision not in provider.computes:
        offers = ", ".join(provider.computes) or "none: it computes as the graph says"
        raise UsageError(
            f"provider {provider.name} cannot be asked for precision {precision}; it has {offers}"
        )
    if provider.plugin is None:
        return _BUILT_IN[provider.name](settings)
    device = plugin_device(ort, provider, settings.device)
    options.add_provider_for_devices([device], plugin_options(provider, settings))
    return []


def _cpu(settings: ProviderSettings) -> list[Any]:
    return [(PROVIDERS["cpu"].ep, {})]


def _cuda(settings: ProviderSettings) -> list[Any]:
    provider = PROVIDERS["cuda"]
    recording = {provider.records: "1"} if settings.capture and provider.records else {}
    values = {
        "device_id": str(settings.device),
        # The default doubles the arena at each growth, which can take twice what is needed.
        "arena_extend_strategy": "kSameAsRequested",
        # On by default, which makes an fp32 text encoder wrong by 1e-3.
        "use_tf32": str(int(settings.tf32)),
    }
    return [(provider.ep, values | recording)]


def _tensorrt(settings: ProviderSettings) -> list[Any]:
    values = {"device_id": str(settings.device)}
    if settings.cache is not None:
        values |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(settings.cache)}
    if settings.info is not None:
        # onnxruntime's networks are weakly typed: what is not allowed is computed in float32.
        types = {settings.info.precision} & set(_TENSORRT_TYPES)
        values |= {f"trt_{name}_enable": "1" for name in types}
        values |= _profile("trt", settings.info, settings.free)
    # No trt_cuda_graph_enable: it replays one graph on the first addresses, and states swap.
    # What TensorRT leaves goes to CUDA, where it would else go to the CPU.
    return [(PROVIDERS["tensorrt"].ep, values), *_cuda(settings)]


_BUILT_IN: Final = {"cpu": _cpu, "cuda": _cuda, "tensorrt": _tensorrt}


def _profile(
    prefix: str, graph: GraphInfo, free: Mapping[str, tuple[int, int, int]]
) -> dict[str, str]:
    """The sizes of all inputs, as ``name:1x3x64x64,...``."""
    result, sizes = {}, {**_SIZES, **free}
    for index, kind in enumerate(("min", "opt", "max")):
        shapes = [
            f"{name}:" + "x".join(str(_size(axis, sizes)[index]) for axis in info.shape)
            for name, info in graph.inputs.items()
        ]
        result[f"{prefix}_profile_{kind}_shapes"] = ",".join(shapes)
    return result


def _size(axis: int | str, sizes: Mapping[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    return (axis,) * 3 if isinstance(axis, int) else sizes.get(axis, _OTHER_SIZES)


def plugin_options(provider: Provider, settings: ProviderSettings) -> dict[str, str]:
    """Options of a plugin, in its own words."""
    cache = settings.cache
    if provider.name == "tensorrt-rtx":
        kept = {} if cache is None else {"nv_runtime_cache_path": str(cache)}
        return kept | (
            {} if settings.info is None else _profile("nv", settings.info, settings.free)
        )
    # Unasked, OpenVINO computes in bf16 wherever the processor can.
    cpu = {"INFERENCE_PRECISION_HINT": "bf16" if settings.precision == "bf16" else "f32"}
    if settings.threads:
        cpu["INFERENCE_NUM_THREADS"] = str(settings.threads)
    if cache is not None:
        cpu["CACHE_DIR"] = str(cache)
    return {"load_config": json.dumps({"CPU": cpu})}
