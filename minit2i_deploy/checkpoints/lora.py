"""PEFT LoRA adapters, merged onto a base checkpoint.

Source: LoRA, Hu et al. 2106.09685, section 4.1 (scale alpha / r); rsLoRA, Kalajdzievski
2312.03732 (alpha / sqrt(r)); key names and settings as peft writes them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.checkpoints.canonical_names import UNUSED, linear_modules
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, Dropped, LoraReport
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.io.files import sha256_file, sha256_files

# Key under which this package's adapters name their base; other programs write no such key.
BASE_SHA256: Final = "base_sha256"

_CONFIG_NAME: Final = "adapter_config.json"
_WEIGHTS_NAME: Final = "adapter_model.safetensors"
_KEY: Final = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_PREFIX: Final = re.compile(r"^(base_model\.model\.)?(model\.)?(net\.)?")
_UNUSED_MODULES: Final = frozenset(
    name.removesuffix(".weight") for name in UNUSED if name.endswith(".weight")
)
# Settings that may have any value: W + scale * B @ A is what peft computes with all of them.
_NEUTRAL: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "r",
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Adapter:
    path: Path
    config: dict[str, Any]
    rank: int
    alpha: float
    scale: float
    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    num_unused: int
    base_sha256: str | None


def merge_lora(base: Checkpoint, path: Path) -> Checkpoint:
    """A checkpoint whose weights are W + scale * B @ A wherever the adapter has a pair.

    The base's arrays are changed in place, so that there is no second copy of the model.

    Args:
        base: the checkpoint that the adapter was trained on.
        path: an adapter folder, or its safetensors file with adapter_config.json beside it.

    Raises:
        CheckpointError: the adapter is corrupt, was trained on another base, or uses a setting
            that a plain merge does not cover.
    """
    adapter = _read(path)
    modules = linear_modules(base.config)
    _check_fits(adapter, modules, base)
    _check_base(adapter, base)
    for module, (a, b) in adapter.pairs.items():
        # B @ A first, in the order of peft's get_delta_weight, so that rounding is the same.
        base.tensors[f"{module}.weight"] += (b @ a) * np.float32(adapter.scale)
    lora = LoraReport(
        path=str(adapter.path),
        rank=adapter.rank,
        alpha=adapter.alpha,
        scale=adapter.scale,
        num_modules=len(adapter.pairs),
        # The settings are part of it, because they hold the scale.
        sha256=sha256_files(
            [adapter.path.parent / _CONFIG_NAME, adapter.path], adapter.path.parent
        ),
        weights_sha256=sha256_file(adapter.path),
    )
    dropped = base.report.dropped
    if adapter.num_unused:
        unused = Dropped(
            what="adapter on unused embedders",
            num_tensors=adapter.num_unused,
            reason="reaches no output of the network",
        )
        dropped = (*dropped, unused)
    report = dataclasses.replace(base.report, lora=lora, dropped=dropped)
    return dataclasses.replace(base, report=report)


def _read(path: Path) -> _Adapter:
    weights = path / _WEIGHTS_NAME if path.is_dir() else path
    if not weights.is_file():
        raise CheckpointError(f"{weights}: no such file; give a PEFT adapter folder as lora")
    config_path = weights.parent / _CONFIG_NAME
    if not config_path.is_file():
        raise CheckpointError(
            f"{config_path}: missing, so the adapter's scale is unknown; copy it beside the weights"
        )
    config = read_json(config_path)
    rank, alpha = _check_config(config, config_path)
    pairs, num_unused = _pairs(weights, rank)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    base_sha256 = SafetensorsFiles([weights]).metadata(weights).get(BASE_SHA256)
    return _Adapter(weights, config, rank, alpha, scale, pairs, num_unused, base_sha256)


def _check_config(config: dict[str, Any], path: Path) -> tuple[int, float]:
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
    return rank, float(alpha)


def _pairs(path: Path, rank: int) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """A and B of each module, and the number of arrays dropped because they reach no output."""
    sides: dict[str, dict[str, np.ndarray]] = {}
    num_unused = 0
    container = SafetensorsFiles([path])
    for name, stored in container.read(list(container.names)):
        match = _KEY.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{path}: {name} is not a LoRA matrix; only a plain LoRA can be merged, so merge "
                "this one with peft and give the merged model"
            )
        module = _PREFIX.sub("", match["module"])
        if module in _UNUSED_MODULES:
            num_unused += 1
            continue
        array = stored.astype(np.float32)
        axis = 0 if match["side"] == "A" else 1
        if array.ndim != 2 or array.shape[axis] != rank or not np.isfinite(array).all():
            raise CheckpointError(
                f"{path}: {name} {list(array.shape)} is not a finite matrix of rank {rank}; "
                "copy the adapter again"
            )
        if match["side"] in sides.setdefault(module, {}):
            raise CheckpointError(f"{path}: duplicate {name}; copy the adapter again")
        sides[module][match["side"]] = array
    halves = sorted(module for module, pair in sides.items() if len(pair) != 2)
    if halves or not sides:
        raise CheckpointError(
            f"{path}: {halves[:4] or 'no module'} with only one of lora_A and lora_B; "
            "copy the adapter again"
        )
    return {module: (pair["A"], pair["B"]) for module, pair in sides.items()}, num_unused


def _check_fits(adapter: _Adapter, modules: dict[str, tuple[int, ...]], base: Checkpoint) -> None:
    """Check that every pair has its matrix, and every targeted matrix its pair."""
    wrong = [
        f"{module} [{b.shape[0]}, {a.shape[1]}] (base: {list(modules.get(module, ())) or 'none'})"
        for module, (a, b) in sorted(adapter.pairs.items())
        if (b.shape[0], a.shape[1]) != modules.get(module)
    ]
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list) and not _restricts_layers(adapter.config):
        suffixes = tuple(f".{_PREFIX.sub('', str(target))}" for target in targets)
        wrong += [
            f"{module} (not in the adapter)"
            for module in modules
            if f".{module}".endswith(suffixes) and module not in adapter.pairs
        ]
    if wrong:
        raise CheckpointError(
            f"{adapter.path}: an adapter for another base than {base.report.path}: "
            f"{len(wrong)} modules differ, first {wrong[0]}; give the base it was trained on"
        )


def _check_base(adapter: _Adapter, base: Checkpoint) -> None:
    if adapter.base_sha256 not in (None, base.report.sha256):
        raise CheckpointError(
            f"{adapter.path}: an adapter for another base than {base.report.path}: it was trained "
            f"on weights of sha256 {adapter.base_sha256:.12}.., but these are "
            f"{base.report.sha256:.12}..; give the base it was trained on"
        )


def _restricts_layers(config: dict[str, Any]) -> bool:
    return any(config.get(key) for key in ("layers_to_transform", "exclude_modules"))
