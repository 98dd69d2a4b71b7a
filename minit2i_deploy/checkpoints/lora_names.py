"""Names of a published adapter's arrays: PEFT's, diffusers' and kohya's.

Source: peft's and diffusers' save methods; kohya-ss/sd-scripts networks/lora.py, whose names have
the module's dots as underscores and whose alpha is an array beside each pair; the modules of
transformers' T5EncoderModel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

# What programs put before a module's name.
PREFIX: Final = re.compile(r"^(base_model\.model\.)?(transformer\.)?(model\.)?(net\.)?")
_FLAT_PREFIX: Final = re.compile(r"^lora_(unet|transformer)_(model_)?(net_)?")
# diffusers puts the component's name before peft's, and peft a wrapper of several models after its
# own.
_COMPONENT: Final = re.compile(r"^(?P<name>transformer|text_encoder(_\d)?)\.")
_OF_TEXT: Final = re.compile(r"^(base_model\.model\.)?text_encoder(_\d)?\.(base_model\.model\.)?")
_PEFT: Final = "base_model.model."
# What a saved name has before the name that peft knew the layer by.
_WRAPPERS: Final = re.compile(r"^((transformer|text_encoder(_\d)?)\.)?(base_model\.model\.)?")
_FLAT_TEXT_PREFIX: Final = re.compile(r"^lora_te\d*_")
_T5_LAYER: Final = r"(SelfAttention|DenseReluDense)"
_T5_MATRIX: Final = r"(q|k|v|o|wi|wi_0|wi_1|wo)"
_FLAT_T5: Final = re.compile(rf"^encoder_block_(\d+)_layer_(\d+)_{_T5_LAYER}_{_T5_MATRIX}$")
_T5: Final = re.compile(rf"^encoder\.block\.\d+\.layer\.\d+\.{_T5_LAYER}\.{_T5_MATRIX}$")
_ENDS: Final[Mapping[str, str]] = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_A.default.weight": "A",
    ".lora_B.default.weight": "B",
    ".lora_down.weight": "A",
    ".lora_up.weight": "B",
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".lora_linear_layer.down.weight": "A",
    ".lora_linear_layer.up.weight": "B",
    ".alpha": "alpha",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One array of a pair.

    Args:
        module: canonical name of the linear layer, as far as the name tells; of one in the text
            encoder, transformers' name.
        side: "A" [rank, inputs], "B" [outputs, rank], or "alpha", one number.
        stored: the layer's name in the model that was saved, which peft's patterns are for; of a
            name without dots, ``module``.
        in_text_encoder: whether the layer is the text encoder's.
    """

    module: str
    side: str
    stored: str
    in_text_encoder: bool = False


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
        module, side = name.removesuffix(end), _ENDS[end]
        if (match := _FLAT_PREFIX.match(module)) is not None:
            flat = module[match.end() :]
            known = self._flat.get(flat, flat)
            return Part(module=known, side=side, stored=known)
        if (match := _FLAT_TEXT_PREFIX.match(module)) is not None:
            text = _FLAT_T5.sub(r"encoder.block.\1.layer.\2.\3.\4", module[match.end() :])
            return Part(module=text, side=side, stored=text, in_text_encoder=True)
        stored = _WRAPPERS.sub("", module)
        if (inner := _text_module(module)) is not None:
            return Part(module=inner, side=side, stored=stored, in_text_encoder=True)
        return Part(module=PREFIX.sub("", module), side=side, stored=stored)


def _text_module(module: str) -> str | None:
    """transformers' name of a layer of the text encoder; None for one of the network."""
    name, num_replaced = _OF_TEXT.subn("", module)
    name = name.removeprefix(_PEFT)
    return name if num_replaced or is_t5_matrix(name) else None


def component(name: str) -> str | None:
    """The part of a pipeline that diffusers' name of an array starts with: "text_encoder_2"."""
    match = _COMPONENT.match(name)
    return None if match is None else match["name"]


def is_t5_matrix(module: str) -> bool:
    """Whether a T5 encoder of some depth has this linear layer."""
    return _T5.match(module) is not None


def module_name(target: str) -> str:
    """A target of peft's settings without what wraps the network or the text encoder."""
    return PREFIX.sub("", _OF_TEXT.sub("", target))


def pattern_value(pattern: Mapping[str, object], stored: str, default: object) -> object:
    """The entry of a rank or alpha pattern for a layer, by ``Part.stored``, or the default.

    Source: peft's ``get_pattern_key``: an entry is a regular expression for the end of a name.
    """
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", stored):
            return value
    return default
