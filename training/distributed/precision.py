"""Precision of a run: bf16 where the processor multiplies it, float32 elsewhere."""

from __future__ import annotations

import dataclasses
import warnings

import torch

from minit2i_deploy.errors import PrecisionWarning
from minit2i_deploy.machine import cpu_features, read_cpuinfo
from minit2i_deploy.training.recipe.recipe import Recipe


def has_native_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16 products.

    Without them torch computes bf16 products in scalar loops: a step of Muon takes sixty times as
    long as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch asks the processor itself, on any system, but only for x86.
    is_x86 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return is_x86 or "bf16" in cpu_features(read_cpuinfo())


def matrix_dtype(device: torch.device) -> torch.dtype:
    """The type in which approximate matrix iterations are done: bf16 if native, else float32."""
    return torch.bfloat16 if has_native_bf16(device) else torch.float32


def resolve_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with "auto" replaced by the precision that suits the device.

    Warns where bf16 is requested and the device would emulate it.
    """
    is_native = has_native_bf16(device)
    if recipe.precision == "auto":
        return dataclasses.replace(recipe, precision="bf16" if is_native else "fp32")
    if recipe.precision == "bf16" and not is_native:
        warnings.warn(
            "precision is bf16, which this processor emulates slowly; set precision=auto or fp32",
            PrecisionWarning,
            stacklevel=2,
        )
    return recipe
