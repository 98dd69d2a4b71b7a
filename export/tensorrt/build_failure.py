"""Why a library built no engine, and what to do about it: from the errors that it logged."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.export.tensorrt.build_library import BuildLibrary
from minit2i_deploy.export.tensorrt.library_log import LibraryLog

_NO_KERNEL: Final = "not supported by a dedicated kernel"
# TensorRT-RTX 1.7 for a refittable engine without a GPU, for another GPU, or for several.
_NO_REFIT: Final = ("status == CUDA_SUCCESS", "accelerator list", "sm_vers_.size()")
_NO_MEMORY: Final = ("out of memory", "outofmemory", "cudaerrormemoryallocation", "bad_alloc")


def build_failure(
    library: BuildLibrary, graph: Path, log: LibraryLog, flags: BuildFlags
) -> RuntimeFailure:
    """The error for a failed build, with the library's reason and, if it is known, the remedy."""
    reason = log.reason()
    what = f"{graph}: {library.name} {library.version} built no engine"
    if _mentions(log, (_NO_KERNEL,)):
        return RuntimeFailure(
            f"{what}: it has no fused attention for this graph's type, head width and target; add"
            " --allow-unfused for several slower kernels, or export another --precision (a bundle"
            " that is quantized has that of its source: take fp16 or bf16, not fp32)"
        )
    if (flags.refit or flags.strip_weights) and _mentions(log, _NO_REFIT):
        return RuntimeFailure(
            f"{what}: TensorRT-RTX builds refittable engines only for the GPU of the machine that"
            f" builds, --target native ({reason})"
        )
    if _mentions(log, _NO_MEMORY):
        bound = flags.workspace_bytes
        limit = "the library's default" if bound is None else f"{bound / 1e9:.1f} GB"
        return RuntimeFailure(
            f"{what}: out of memory ({reason}); lower --max-batch, --texts or --workspace (now"
            f" {limit}), or build one --graph at a time"
        )
    return RuntimeFailure(f"{what}: {reason}")


def _mentions(log: LibraryLog, phrases: tuple[str, ...]) -> bool:
    return any(phrase.lower() in line.lower() for line in log.errors for phrase in phrases)
