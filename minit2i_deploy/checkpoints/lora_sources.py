"""Which adapters to merge and how strongly, and one digest for all of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from minit2i_deploy.bundle.fields import AdapterInfo
from minit2i_deploy.checkpoints.checkpoint import LoraReport
from minit2i_deploy.errors import UsageError

Lora = str | PathLike[str] | Mapping[str, float]


def adapter_strengths(lora: Lora | None) -> dict[Path, float]:
    """Folder or file of each adapter, and the factor of its sum.

    Args:
        lora: one adapter, or several with their factors.

    Raises:
        UsageError: a factor is no finite number, or 0.
    """
    if lora is None:
        return {}
    sources = lora if isinstance(lora, Mapping) else {lora: 1.0}
    for path, strength in sources.items():
        if isinstance(strength, bool) or not isinstance(strength, int | float):
            raise UsageError(f"strength of {path}: expected a number, got {strength!r}")
        if not math.isfinite(strength) or strength == 0:
            raise UsageError(
                f"strength of {path} is {strength:g}, but it must be finite and not 0; omit an "
                "adapter that is not to be merged"
            )
    return {Path(path): float(strength) for path, strength in sources.items()}


def combined_digest(adapters: Sequence[LoraReport]) -> str | None:
    """One sha256 for merged adapters, whatever their order; None for none.

    Of one adapter at its own strength it is the adapter's. Otherwise it is the sha256 of a line
    ``SHA256 STRENGTH`` for each, sorted.
    """
    if not adapters:
        return None
    if len(adapters) == 1 and adapters[0].strength == 1:
        return adapters[0].sha256
    lines = sorted(f"{item.sha256} {item.strength!r}\n" for item in adapters)
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def of_text_encoder(adapters: Sequence[LoraReport]) -> tuple[LoraReport, ...]:
    """The adapters that change the text encoder too."""
    return tuple(item for item in adapters if item.num_text_modules)


def one_pass_scale(adapters: Sequence[LoraReport]) -> float | None:
    """Scale of guidance that merged adapters give in one branch; None without such an adapter.

    Raises:
        UsageError: two such adapters, or one at another strength than 1, where the scale is not
            known.
    """
    guiding = [item for item in adapters if item.one_pass_guidance is not None]
    if not guiding:
        return None
    if len(guiding) > 1:
        raise UsageError(
            f"{guiding[0].path} and {guiding[1].path} both give guidance in one pass; merge one "
            "of the two"
        )
    if guiding[0].strength != 1:
        raise UsageError(
            f"{guiding[0].path}: gives guidance in one pass, at a scale that is known at strength "
            f"1 alone, got {guiding[0].strength:g}; omit the strength"
        )
    return guiding[0].one_pass_guidance


def recorded_adapters(adapters: Sequence[LoraReport]) -> tuple[AdapterInfo, ...] | None:
    """What a manifest says of merged adapters, where ``combined_digest`` does not tell it all."""
    if combined_digest(adapters) in (None, *(item.sha256 for item in adapters)):
        return None
    return tuple(AdapterInfo(sha256=item.sha256, strength=item.strength) for item in adapters)
