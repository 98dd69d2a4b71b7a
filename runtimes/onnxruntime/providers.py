"""Execution providers of ONNX Runtime: what each is called, needs and computes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from minit2i_deploy.errors import (
    MissingDependencyError,
    RuntimeFailure,
    UsageError,
    install_hint,
    require,
)
from minit2i_deploy.runtimes.cuda.devices import Gpu
from minit2i_deploy.runtimes.onnxruntime.cuda_libraries import check_cuda, preload_plugin

AUTO: Final = "auto"
# The least that runs INT8 graphs of opset 23, and the first with plugins. 1.23 runs fp32 ones of
# opset 23, and 1.17 those of opset 18 (each really installed and run).
MIN_VERSION: Final = "1.24"
# The first that keeps the pointers of a recorded Split or Concat with unequal parts; before it, a
# replay of a CUDA graph may read memory that another shape's run uses (onnxruntime #32121).
_GPU_SINCE: Final = "1.31"
# First version whose CPU kernels run graphs of a precision, where that is not MIN_VERSION.
_CPU_SINCE: Final = {"fp8": "1.32"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One execution provider.

    Args:
        name: on our command line.
        ep: ONNX Runtime's name.
        extra: extra of this distribution that brings it.
        since: least version of ONNX Runtime.
        plugin: module that holds it as a plugin, or None where it is part of ONNX Runtime.
        device: where the state lives: "cpu" or "cuda".
        runs: precisions of the graphs it has kernels for.
        behind: ONNX Runtime's name of the provider that takes what this one leaves, or None.
        records: its option that makes a session record CUDA graphs, or None.
        computes: precisions it may be asked to compute in, whatever the graph's; most have none.
        who: whose devices it finds, for the error where it finds none.
        instead: what to do there.
        remedy: what to do where it has no kernels for some operators of a graph.
    """

    name: str
    ep: str
    extra: str
    since: str = MIN_VERSION
    plugin: str | None = None
    device: str = "cpu"
    runs: tuple[str, ...] = ("fp32", "fp16", "int8")
    behind: str | None = None
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
            since=_GPU_SINCE,
            device="cuda",
            runs=("fp32", "bf16", "fp16", "int8"),
            records="enable_cuda_graph",
            who="NVIDIA",
        ),
        Provider(
            name="tensorrt",
            ep="TensorrtExecutionProvider",
            extra="cuda",
            since=_GPU_SINCE,
            device="cuda",
            runs=_NVIDIA_RUNS,
            behind="CUDAExecutionProvider",
            who="NVIDIA",
        ),
        Provider(
            name="tensorrt-rtx",
            ep="NvTensorRTRTXExecutionProvider",
            extra="ort-rtx",
            since=_GPU_SINCE,
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
    """Where to run which pip command, which brings a version of the library that is new enough."""
    return install_hint(provider.extra)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def check_present(ort: Any, provider: Provider, device: int = 0) -> Gpu | None:
    """Check that a provider is installed and has a device.

    Args:
        ort: the onnxruntime module.
        provider: one of PROVIDERS.
        device: index of the GPU, for those that run on one.

    Returns:
        the GPU that CUDA names; None for other providers and for plugins.

    Raises:
        MissingDependencyError: it is not installed; the text names the pip line.
        UsageError: there is no GPU of that index.
        RuntimeFailure: it finds no device of its kind, or lacks libraries.
    """
    if provider.name != "cpu" and is_too_old(ort, provider.since):
        raise MissingDependencyError(
            f"provider {provider.name} needs onnxruntime {provider.since} or later, and "
            f"{ort.__version__} is installed; {upgrade_line(provider)}"
        )
    if provider.plugin is not None:
        plugin_device(ort, provider, device)
        return None
    if provider.ep not in ort.get_available_providers():
        raise MissingDependencyError(
            f"provider {provider.name}: this onnxruntime has no {provider.ep}; "
            f"{install_hint(provider.extra)}"
        )
    return check_cuda(ort, provider.ep, device) if provider.device == "cuda" else None


def plugin_device(ort: Any, provider: Provider, device: int = 0) -> Any:
    """A plugin's device of an index; raises what ``plugin_devices`` raises, and UsageError."""
    devices = plugin_devices(ort, provider)
    if not 0 <= device < len(devices):
        raise UsageError(
            f"device is {device}, but provider {provider.name} has {len(devices)}; count from 0"
        )
    return devices[device]


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


def lacks_kernels(
    ort: Any, provider: Provider, precision: str, gpu: Gpu | None = None
) -> str | None:
    """Why a provider does not run graphs of a precision on its GPU; None if it does."""
    if precision not in provider.runs:
        runs = ", ".join(provider.runs)
        return f"which provider {provider.name} has no kernels for; it runs {runs}"
    since = _CPU_SINCE.get(precision) if provider.name == "cpu" else None
    if since is not None and is_too_old(ort, since):
        return (
            f"which needs onnxruntime {since} or later on a CPU, and {ort.__version__} is "
            f"installed; {upgrade_line(provider)}"
        )
    return None if gpu is None else gpu.lacks(precision)


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
    if provider.device == "cuda":
        preload_plugin(plugin)
    try:
        ort.register_execution_provider_library(provider.ep, plugin.get_library_path())
    except Exception as error:  # the library's errors share no base
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeFailure(
            f"provider {provider.name}: its plugin cannot be loaded: {reason}; if a library is "
            f"missing, {upgrade_line(provider)}"
        ) from error
    _registered.add(provider.ep)
