"""Execution providers of ONNX Runtime: what each is called, needs and computes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure, UsageError, require

AUTO: Final = "auto"
# The least that runs INT8 graphs of opset 23, and the first with plugins. 1.23 runs fp32 ones of
# opset 23, and 1.17 those of opset 18 (each really installed and run).
MIN_VERSION: Final = "1.24"
# First version whose CPU kernels run graphs of a precision, where that is not MIN_VERSION.
_CPU_SINCE: Final = {"fp8": "1.32"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One execution provider.

    Args:
        name: on our command line.
        ep: ONNX Runtime's name.
        extra: extra of this distribution that brings it.
        plugin: module that holds it as a plugin, or None where it is part of ONNX Runtime.
        device: where the state lives: "cpu" or "cuda".
        runs: precisions of the graphs it has kernels for.
        records: its option that makes a session record CUDA graphs, or None.
        computes: precisions it may be asked to compute in, whatever the graph's; most have none.
        who: whose devices it finds, for the error where it finds none.
        instead: what to do there.
        remedy: what to do where it has no kernels for some operators of a graph.
    """

    name: str
    ep: str
    extra: str
    plugin: str | None = None
    device: str = "cpu"
    runs: tuple[str, ...] = ("fp32", "fp16", "int8")
    records: str | None = None
    computes: tuple[str, ...] = ()
    who: str = "any"
    instead: str = "choose another provider; minit2i doctor lists those that work"
    remedy: str = "a bundle of another precision"


_NVIDIA_RUNS: Final = ("fp32", "bf16", "fp16", "int8", "fp8")

PROVIDERS: Final = {
    provider.name: provider
    for provider in (
        # FP8 is rounded to and computed with in fp32: exact, and no faster.
        Provider(
            name="cpu",
            ep="CPUExecutionProvider",
            extra="cpu",
            runs=("fp32", "fp16", "int8", "fp8"),
        ),
        Provider(
            name="openvino",
            ep="OpenVINOExecutionProvider",
            extra="openvino",
            plugin="onnxruntime_ep_openvino",
            computes=("fp32", "bf16"),
            who="Intel",
            instead="runtime openvino runs on any processor, provider cpu as well",
            # The plugin (1.8.1) leaves Attention of opset 23 to the CPU; OpenVINO itself runs it.
            remedy="runtime openvino in its place",
        ),
        Provider(
            name="cuda",
            ep="CUDAExecutionProvider",
            extra="cuda",
            device="cuda",
            runs=("fp32", "bf16", "fp16", "int8"),
            records="enable_cuda_graph",
            who="NVIDIA",
        ),
        Provider(
            name="tensorrt",
            ep="TensorrtExecutionProvider",
            extra="cuda",
            device="cuda",
            runs=_NVIDIA_RUNS,
            who="NVIDIA",
        ),
        Provider(
            name="tensorrt-rtx",
            ep="NvTensorRTRTXExecutionProvider",
            extra="ort-rtx",
            plugin="onnxruntime_ep_nv_tensorrt_rtx",
            device="cuda",
            runs=_NVIDIA_RUNS,
            who="NVIDIA RTX",
        ),
    )
}
# What auto tries, in this order. TensorRT is not among them: it builds for minutes at first use.
AUTO_ORDER: Final = ("cuda", "openvino", "cpu")


def named_provider(name: str) -> Provider:
    """A provider by name.

    Raises:
        UsageError: an unknown name; the choices are listed.
    """
    if name not in PROVIDERS:
        choices = ", ".join([AUTO, *PROVIDERS])
        raise UsageError(f"provider {name!r} is unknown; choose one of {choices}")
    return PROVIDERS[name]


def is_too_old(ort: Any, version: str = MIN_VERSION) -> bool:
    """Whether the library is older than a version."""
    return _version(str(ort.__version__)) < _version(version)


def upgrade_line(provider: Provider) -> str:
    """The pip command that brings a version of the library that is new enough."""
    return f"pip install -U 'minit2i-deploy[{provider.extra}]'"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def check_present(ort: Any, provider: Provider) -> None:
    """Check that a provider is installed and, as a plugin, has a device.

    Raises:
        MissingDependencyError: it is not installed; the text names the pip line.
        RuntimeFailure: it finds no device of its kind.
    """
    if provider.name != "cpu" and is_too_old(ort):
        raise MissingDependencyError(
            f"provider {provider.name} needs onnxruntime {MIN_VERSION} or later, and "
            f"{ort.__version__} is installed; run: {upgrade_line(provider)}"
        )
    if provider.plugin is not None:
        plugin_devices(ort, provider)
    elif provider.ep not in ort.get_available_providers():
        raise MissingDependencyError(
            f"provider {provider.name}: this onnxruntime has no {provider.ep}; run: "
            f"pip install 'minit2i-deploy[{provider.extra}]'"
        )


def plugin_devices(ort: Any, provider: Provider) -> list[Any]:
    """Register a plugin, once a process, and give its devices.

    Raises:
        MissingDependencyError: the plugin is not installed.
        RuntimeFailure: it cannot be loaded, or finds no device of its kind.
    """
    assert provider.plugin is not None
    plugin = require(provider.plugin, provider.extra)
    devices = _devices(ort, provider)
    if not devices:
        _register(ort, provider, plugin)
        devices = _devices(ort, provider)
    if not devices:
        raise RuntimeFailure(
            f"provider {provider.name}: its plugin finds no device here, because it takes those of "
            f"{provider.who} only; {provider.instead}"
        )
    return devices


def attach(
    ort: Any,
    provider: Provider,
    options: Any,
    *,
    precision: str | None = None,
    threads: int = 0,
    cache: Path | None = None,
    capture: bool = False,
) -> list[Any]:
    """Set a provider in session options.

    Args:
        ort: the onnxruntime module.
        provider: one that is present.
        options: SessionOptions, which a plugin is added to.
        precision: what it is to compute in, one of ``provider.computes``; None: as the graph.
        threads: that it may use, where it has threads of its own; 0: as many as it likes.
        cache: folder for compiled models, for those that keep any.
        capture: let the session record CUDA graphs, for a provider that can.

    Returns:
        the ``providers`` argument of InferenceSession; empty where the options say all.

    Raises:
        UsageError: a precision that the provider does not offer.
    """
    if precision is not None and precision not in provider.computes:
        offers = ", ".join(provider.computes) or "none: it computes as the graph says"
        raise UsageError(
            f"provider {provider.name} cannot be asked for precision {precision}; it has {offers}"
        )
    if provider.plugin is None:
        return [(provider.ep, _built_in_options(provider, cache, capture))]
    devices = plugin_devices(ort, provider)[:1]
    options.add_provider_for_devices(devices, _plugin_options(provider, precision, threads, cache))
    return []


def lacks_kernels(ort: Any, provider: Provider, precision: str) -> str | None:
    """Why a provider does not run graphs of a precision; None if it does."""
    if precision not in provider.runs:
        runs = ", ".join(provider.runs)
        return f"which provider {provider.name} has no kernels for; it runs {runs}"
    since = _CPU_SINCE.get(precision) if provider.name == "cpu" else None
    if since is not None and is_too_old(ort, since):
        return (
            f"which needs onnxruntime {since} or later on a CPU, and {ort.__version__} is "
            f"installed; run: {upgrade_line(provider)}"
        )
    return None


def provider_version(ort: Any, provider: Provider) -> str:
    """Version of the library, and of the plugin where the provider is one."""
    versions = [str(ort.__version__)]
    if provider.plugin is not None:
        plugin = require(provider.plugin, provider.extra)
        versions.append(str(getattr(plugin, "__version__", "unknown")))
    return ", ".join(versions)


def _devices(ort: Any, provider: Provider) -> list[Any]:
    # A plugin may list further names, such as one for each kind of device.
    return [device for device in ort.get_ep_devices() if device.ep_name == provider.ep]


_registered: set[str] = set()


def _register(ort: Any, provider: Provider, plugin: ModuleType) -> None:
    # ONNX Runtime refuses a second time, and one without devices cannot be told from a new one.
    if provider.ep in _registered:
        return
    try:
        ort.register_execution_provider_library(provider.ep, plugin.get_library_path())
    except Exception as error:  # the library's errors share no base
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeFailure(
            f"provider {provider.name}: its plugin cannot be loaded: {reason}"
        ) from error
    _registered.add(provider.ep)


def _built_in_options(provider: Provider, cache: Path | None, capture: bool) -> dict[str, str]:
    if provider.name == "cuda":
        recording = {provider.records: "1"} if capture and provider.records else {}
        # The default doubles the arena at each growth, which can take twice what is needed.
        return {"arena_extend_strategy": "kSameAsRequested"} | recording
    if provider.name == "tensorrt" and cache is not None:
        return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    return {}


def _plugin_options(
    provider: Provider, precision: str | None, threads: int, cache: Path | None
) -> dict[str, str]:
    if provider.name == "tensorrt-rtx" and cache is not None:
        return {"nv_runtime_cache_path": str(cache)}
    if provider.name != "openvino":
        return {}
    # Unasked, OpenVINO computes in bf16 wherever the processor can.
    cpu = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    if threads:
        cpu["INFERENCE_NUM_THREADS"] = str(threads)
    if cache is not None:
        cpu["CACHE_DIR"] = str(cache)
    return {"load_config": json.dumps({"CPU": cpu})}
