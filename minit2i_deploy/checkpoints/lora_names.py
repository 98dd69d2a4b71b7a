"""Names of a published adapter's arrays: PEFT's, diffusers' and kohya's.

Source: peft's and diffusers' save methods; kohya-ss/sd-scripts networks/lora.py, whose names have
the module's dots as underscores and whose alpha is an array beside each pair.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

# What programs put before a module's name.
PREFIX: Final = re.compile(r"^(base_model\.model\.)?(transformer\.)?(model\.)?(net\.)?")
_FLAT_PREFIX: Final = re.compile(r"^lora_(unet|transformer)_(model_)?(net_)?")
_TEXT_ENCODER: Final = re.compile(r"^(lora_te\d*_|text_encoder(_\d)?\.)")
_ENDS: Final[Mapping[str, str]] = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_A.default.weight": "A",
    ".lora_B.default.weight": "B",
    ".lora_down.weight": "A",
    ".lora_up.weight": "B",
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".alpha": "alpha",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One array of a pair.

    Args:
        module: canonical name of the linear layer, as far as the name tells.
        side: "A" [rank, inputs], "B" [outputs, rank], or "alpha", one number.
    """

    module: str
    side: str


class AdapterNames:
    """Reads names for one network.

    Args:
        modules: canonical names of its linear layers.
    """

    def __init__(self, modules: Collection[str]) -> None:
        self._flat = {module.replace(".", "_"): module for module in modules}

    def part(self, name: str) -> Part | None:
        """What an array is; None if it is no part of a plain LoRA."""
        end = next((end for end in _ENDS if name.endswith(end)), None)
        if end is None:
            return None
        module = name.removesuffix(end)
        if (match := _FLAT_PREFIX.match(module)) is not None:
            flat = module[match.end() :]
            return Part(module=self._flat.get(flat, flat), side=_ENDS[end])
        return Part(module=PREFIX.sub("", module), side=_ENDS[end])


def is_of_text_encoder(name: str) -> bool:
    """Whether an array adapts the text encoder."""
    return _TEXT_ENCODER.match(name) is not None


def pattern_value(pattern: Mapping[str, object], module: str, default: object) -> object:
    """The entry of a rank or alpha pattern for a module, or the default.

    Source: peft's ``get_pattern_key``: an entry is a regular expression for the end of a name.
    """
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
