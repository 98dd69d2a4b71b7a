"""Precisions that GPUs support: a build for one that lacks it is refused before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from minit2i_deploy.engines.fit import FIRST_CAPABILITY
from minit2i_deploy.engines.key import PORTABLE, TENSORRT_RTX
from minit2i_deploy.errors import UsageError

# Targets that TensorRT-RTX builds for without a GPU. It has no 8.7 (Orin) and no 9.0 or 10.0
# (Hopper, Blackwell of data centres).
RTX_TARGETS: Final = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


def check_targets(library: str, targets: Sequence[str], precision: str) -> None:
    """Refuse targets that the library lacks, or that lack the graph's precision.

    Args:
        library: one of ``key.LIBRARIES``.
        targets: as in ``EngineKey.targets``.
        precision: of the graph.

    Raises:
        UsageError: the first such target.
    """
    for target in targets:
        plain = _plain(target)
        if library == TENSORRT_RTX and plain not in (*RTX_TARGETS, PORTABLE):
            raise UsageError(
                f"TensorRT-RTX has no target {plain}; choose among {', '.join(RTX_TARGETS)}, or"
                " build on the GPU itself with --engine tensorrt"
            )
        if library == TENSORRT_RTX and plain == "sm75" and precision == "fp32":
            raise UsageError(
                "TensorRT-RTX multiplies no fp32 matrices on sm75; build the fp16 graphs alone,"
                " --graph text_adapter --graph transformer, and encode with another runtime"
            )
        # A portable engine of FP8 can be built; it then runs on GPUs that have FP8.
        needed = FIRST_CAPABILITY[precision]
        if plain != PORTABLE and int(plain.removeprefix("sm")) < needed:
            raise UsageError(
                f"{plain} has no {precision}, which needs sm{needed} or later; name such a"
                " --target or export another --precision"
            )


def _plain(target: str) -> str:
    return target.removeprefix("native:").split(":")[0]
