"""Names of NVIDIA GPUs for --target, beside the numbers of their compute capability.

Source: NVIDIA's list of CUDA GPUs, developer.nvidia.com/cuda-gpus.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Final

from minit2i_deploy.errors import UsageError

# Capability -> names, in lower case without spaces, dashes and the maker's brands.
GPUS: Final[Mapping[str, tuple[str, ...]]] = {
    "sm75": ("t4", "rtx2060", "rtx2070", "rtx2080", "rtx2080ti", "gtx1650", "gtx1660"),
    "sm80": ("a100", "a30"),
    "sm86": (
        "rtx3050", "rtx3060", "rtx3070", "rtx3080", "rtx3090", "rtxa4000", "rtxa5000", "rtxa6000",
        "a2", "a10", "a10g", "a16", "a40",
    ),
    "sm87": ("orin", "jetsonorin", "agxorin", "orinnx", "orinnano"),
    "sm89": (
        "rtx4050", "rtx4060", "rtx4070", "rtx4080", "rtx4090", "rtx4000ada", "rtx5000ada",
        "rtx6000ada", "l4", "l40", "l40s",
    ),
    "sm90": ("h100", "h200", "gh200"),
    "sm100": ("b100", "b200", "gb200"),
    "sm120": (
        "rtx5050", "rtx5060", "rtx5070", "rtx5080", "rtx5090", "rtxpro4000", "rtxpro4500",
        "rtxpro5000", "rtxpro6000",
    ),
    "sm121": ("gb10", "dgxspark"),
}  # fmt: skip
TARGET_HELP: Final = (
    "an NVIDIA GPU by name (rtx4090, l4, h100; minit2i help gpus lists them) or capability (sm89)"
)
_CAPABILITY: Final = re.compile(r"sm\d+")
# Words that stand for something else than a GPU and go on as they are.
_OTHERS: Final = ("cpu", "web", "native", "portable")
# Suffixes of a name that do not change the capability.
_VARIANTS: Final = ("laptop", "mobile", "super", "ti", "d", "sxm", "pcie", "nvl")


def target_of(name: str) -> str:
    """The target that a word of --target stands for: sm89 for rtx4090; others as they are.

    Raises:
        UsageError: an unknown name; the nearest is named.
    """
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    key = key.removeprefix("nvidia").removeprefix("geforce")
    if key in _OTHERS:
        return key
    if _CAPABILITY.fullmatch(key):
        return key
    by_name = {gpu: capability for capability, gpus in GPUS.items() for gpu in gpus}
    while key not in by_name:
        shorter = _without_variant(key)
        if shorter == key:
            near = difflib.get_close_matches(key, by_name, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--target: unknown GPU {name!r}{hint}; minit2i help gpus lists names")
        key = shorter
    return by_name[key]


def _without_variant(key: str) -> str:
    return next((key.removesuffix(variant) for variant in _VARIANTS if key.endswith(variant)), key)
