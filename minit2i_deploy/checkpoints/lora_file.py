"""A LoRA adapter as its files hold it: pairs of matrices by module, with the scale of each.

Source: LoRA, Hu et al. 2106.09685, section 4.1 (scale alpha / r); rsLoRA, Kalajdzievski
2312.03732 (alpha / sqrt(r)); key names and settings as peft writes them, and diffusers in a file's
header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.checkpoints.canonical_names import UNUSED
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.checkpoints.lora_names import (
    AdapterNames,
    Part,
    component,
    module_name,
    pattern_value,
)
from minit2i_deploy.errors import CheckpointError

# Key under which an adapter names its base; other programs write no such key.
BASE_SHA256: Final = "base_sha256"

# Key of adapter_config.json in adapters that give the guided estimate in one branch: the scale.
# peft ignores it with a warning, and a release that does not know it refuses the adapter.
ONE_PASS_GUIDANCE: Final = "one_pass_guidance"

_CONFIG_NAME: Final = "adapter_config.json"
# Key in a file's header under which diffusers stores peft's settings of every component.
_HEADER_CONFIG: Final = "lora_adapter_metadata"
_WEIGHTS_NAME: Final = "adapter_model.safetensors"
_UNUSED_MODULES: Final = frozenset(
    name.removesuffix(".weight") for name in UNUSED if name.endswith(".weight")
)
# Settings that may have any value: W + scale * B @ A is what peft computes with all of them.
_NEUTRAL: Final = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        ONE_PASS_GUIDANCE,
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
# Settings with values of their own that leave the sum as it is. PiSSA, OLoRA, CorDA, LoftQ and
# LoRA-GA are missing from init_lora_weights because they subtract a part from the base, and a file
# of such an adapter does not hold the base that is left.
# Source: peft/tuners/lora/layer.py, LoraLayer.update_layer and its *_init methods (peft 0.21).
_PLAIN: Final[dict[str, tuple[Any, ...]]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal", "mica"),
}
# All other settings, those of later releases of peft too, must be switched off.
_OFF: Final[tuple[Any, ...]] = (None, False, {}, [])


@dataclass(frozen=True, slots=True)
class Pair:
    """The update scale * b @ a of one matrix."""

    a: np.ndarray
    b: np.ndarray
    alpha: float
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix: outputs and inputs."""
        return self.b.shape[0], self.a.shape[1]

    def update(self, strength: float) -> np.ndarray:
        """What is added to the matrix: float32 [outputs, inputs]."""
        # B @ A first, in the order of peft's get_delta_weight, so that rounding is the same.
        product: np.ndarray = self.b @ self.a
        return product * np.float32(self.scale * strength)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterPart:
    """What an adapter does to one network: the denoiser's, or the text encoder.

    Args:
        config: settings of the part; empty where the file holds each scale.
        pairs: by module.
    """

    config: Mapping[str, Any]
    pairs: Mapping[str, Pair]

    def missing(self, modules: Collection[str]) -> list[str]:
        """Modules that the settings name as targets, and that have no pair."""
        targets = self.config.get("target_modules")
        if not self.pairs or not isinstance(targets, list) or _restricts_layers(self.config):
            return []
        suffixes = tuple(f".{module_name(str(target))}" for target in targets)
        return [
            module
            for module in modules
            if f".{module}".endswith(suffixes) and module not in self.pairs
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFile:
    """An adapter.

    Args:
        path: of its weights.
        files: what its digest is of: settings and weights, or the latter alone where they hold
            the scale themselves.
        network: its part for the network.
        text_encoder: its part for the text encoder.
        num_unused: arrays for embedders that reach no output.
        base_sha256: of the network's weights that it was trained on, if it says.
    """

    path: Path
    files: tuple[Path, ...]
    network: AdapterPart
    text_encoder: AdapterPart
    num_unused: int
    base_sha256: str | None


def read_adapter(path: Path, modules: Mapping[str, tuple[int, ...]]) -> AdapterFile:
    """Read an adapter.

    Args:
        path: its folder or its safetensors file.
        modules: canonical names of the network's linear layers.

    Raises:
        CheckpointError: it is corrupt, or no plain LoRA.
    """
    weights = _weights_file(path) if path.is_dir() else path
    if not weights.is_file():
        raise CheckpointError(f"{weights}: no such file; give an adapter's folder or file as lora")
    container = SafetensorsFiles([weights])
    parts, num_unused = _parts(weights, container, modules)
    header = container.metadata(weights)
    config_path = weights.parent / _CONFIG_NAME
    config = read_json(config_path) if config_path.is_file() else {}

    def read_part(*, in_text_encoder: bool) -> AdapterPart:
        of_part = {
            name: part for name, part in parts.items() if part.in_text_encoder == in_text_encoder
        }
        settings = config or _header_config(header, of_part, weights)
        _check_scales(settings, of_part, config_path if config else weights, config_path)
        pairs = _pairs(weights, container, of_part, settings)
        return AdapterPart(config=settings, pairs=pairs)

    network, text_encoder = read_part(in_text_encoder=False), read_part(in_text_encoder=True)
    if not network.pairs and not text_encoder.pairs:
        raise CheckpointError(
            f"{weights}: no module with lora_A and lora_B; copy the adapter again"
        )
    return AdapterFile(
        path=weights,
        files=(config_path, weights) if config else (weights,),
        network=network,
        text_encoder=text_encoder,
        num_unused=num_unused,
        base_sha256=header.get(BASE_SHA256),
    )


def _parts(
    weights: Path, container: SafetensorsFiles, modules: Collection[str]
) -> tuple[dict[str, Part], int]:
    """Every array's part, and how many are on unused embedders."""
    names, parts, num_unused = AdapterNames(modules), {}, 0
    for name in container.names:
        part = names.part(name)
        if part is None:
            raise CheckpointError(
                f"{weights}: {name} is not a LoRA matrix; only a plain LoRA can be merged, so "
                "merge this one with peft and give the merged model"
            )
        if part.module in _UNUSED_MODULES:
            num_unused += 1
        else:
            parts[name] = part
    return parts, num_unused


def _header_config(
    header: Mapping[str, str], parts: Mapping[str, Part], weights: Path
) -> dict[str, Any]:
    """peft's settings of these arrays' component in a file's header; empty without any."""
    text = header.get(_HEADER_CONFIG)
    if text is None or not parts:
        return {}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"{weights}: {_HEADER_CONFIG} in its header is not JSON; copy the adapter again"
        ) from error
    names = {component(name) for name in parts}
    if not isinstance(values, dict) or len(names) != 1:
        raise CheckpointError(
            f"{weights}: {_HEADER_CONFIG} in its header fits no single component, got arrays of "
            f"{', '.join(sorted(str(name) for name in names))}; save each as an adapter of its own"
        )
    name = names.pop()
    start = "" if name is None else f"{name}."
    return {
        key.removeprefix(start): value for key, value in values.items() if key.startswith(start)
    }


def _check_scales(
    config: dict[str, Any], parts: Mapping[str, Part], where: Path, missing: Path
) -> None:
    """Check that the scale of every pair is known."""
    if config and parts:
        _check_config(config, where)
    elif any(".lora_A." in name and component(name) is None for name in parts):
        raise CheckpointError(
            f"{missing}: missing, so the adapter's scale is unknown; copy it beside the weights"
        )


def _weights_file(folder: Path) -> Path:
    """PEFT's file, or the one safetensors file of a folder of another form."""
    others = sorted(folder.glob("*.safetensors"))
    named = folder / _WEIGHTS_NAME
    return others[0] if len(others) == 1 and not named.is_file() else named


def _check_config(config: dict[str, Any], path: Path) -> None:
    if config.get("peft_type") is None:
        raise CheckpointError(f"{path}: has no peft_type; give an adapter that peft has saved")
    for key, value in config.items():
        allowed = _PLAIN.get(key, _OFF)
        if key not in _NEUTRAL and not any(value is plain or value == plain for plain in allowed):
            raise CheckpointError(
                f"{path}: {key} is {value!r}, but only a plain LoRA (W + scale * B @ A) can be "
                "merged; merge it with peft and give the merged model"
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(
            f"{path}: expected a positive integer r and a number lora_alpha, got {rank!r} and "
            f"{alpha!r}; copy the adapter again"
        )
    scale = config.get(ONE_PASS_GUIDANCE)
    if scale is not None and not (type(scale) in (int, float) and 1 < scale < math.inf):
        raise CheckpointError(
            f"{path}: {ONE_PASS_GUIDANCE} is {scale!r}, expected a finite number above 1; copy the "
            "adapter again"
        )
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise CheckpointError(
                f"{path}: {name} is {config[name]!r}, expected names and numbers; copy the adapter "
                "again"
            )


def _pairs(
    path: Path, container: SafetensorsFiles, parts: Mapping[str, Part], config: Mapping[str, Any]
) -> dict[str, Pair]:
    """The pair of each module."""
    sides: dict[str, dict[str, np.ndarray]] = {}
    for name, stored in container.read(list(parts)):
        part, array = parts[name], stored.astype(np.float32)
        if part.side in sides.setdefault(part.module, {}):
            raise CheckpointError(f"{path}: duplicate {name}; copy the adapter again")
        expected = 1 if part.side == "alpha" else 2
        is_number = part.side == "alpha" and array.size == 1
        if not (is_number or array.ndim == expected) or not np.isfinite(array).all():
            raise CheckpointError(
                f"{path}: {name} {list(array.shape)} is not a finite matrix of rank "
                f"{config.get('r', 1)}; copy the adapter again"
            )
        sides[part.module][part.side] = array
    halves = sorted(module for module, pair in sides.items() if not {"A", "B"} <= pair.keys())
    if halves:
        raise CheckpointError(
            f"{path}: {', '.join(halves)} with only one of lora_A and lora_B; copy the adapter "
            "again"
        )
    names = {part.module: part.stored for part in parts.values() if part.side == "A"}
    return {
        module: _pair(path, module, names[module], pair, config) for module, pair in sides.items()
    }


def _pair(
    path: Path,
    module: str,
    stored: str,
    sides: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
) -> Pair:
    """A module's matrices with its own alpha and scale."""
    a, b = sides["A"], sides["B"]
    rank = pattern_value(config.get("rank_pattern") or {}, stored, config.get("r", len(a)))
    if a.shape[0] != rank or b.shape[1] != rank:
        raise CheckpointError(
            f"{path}: {module} {list(a.shape)} and {list(b.shape)} is not a finite matrix of rank "
            f"{rank}; copy the adapter again"
        )
    # Without an alpha, diffusers and kohya take the rank: scale 1.
    alpha: object = float(sides["alpha"].reshape(())) if "alpha" in sides else len(a)
    if config:
        alpha = pattern_value(config.get("alpha_pattern") or {}, stored, config["lora_alpha"])
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path}: alpha of {module} is {alpha!r}, expected a number")
    scale = alpha / (math.sqrt(len(a)) if config.get("use_rslora") else len(a))
    return Pair(a, b, float(alpha), scale)


def _restricts_layers(config: Mapping[str, Any]) -> bool:
    return any(config.get(key) for key in ("layers_to_transform", "exclude_modules"))
