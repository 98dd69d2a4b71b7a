"""LoRA adapters in PEFT's, diffusers' and kohya's form, merged onto a base checkpoint.

Source: LoRA, Hu et al. 2106.09685, section 4.1 (scale alpha / r); rsLoRA, Kalajdzievski
2312.03732 (alpha / sqrt(r)); key names and settings as peft writes them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.checkpoints.canonical_names import UNUSED, linear_modules
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, Dropped, LoraReport
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.checkpoints.lora_names import (
    PREFIX,
    AdapterNames,
    Part,
    is_of_text_encoder,
    pattern_value,
)
from minit2i_deploy.checkpoints.lora_sources import Lora, adapter_strengths, one_pass_scale
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.io.files import sha256_file, sha256_files

# Key under which this package's adapters name their base; other programs write no such key.
BASE_SHA256: Final = "base_sha256"

# Key of adapter_config.json in adapters that give the guided estimate in one branch: the scale.
# peft ignores it with a warning, and a release that does not know it refuses the adapter.
ONE_PASS_GUIDANCE: Final = "one_pass_guidance"

_CONFIG_NAME: Final = "adapter_config.json"
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Pair:
    """The update scale * b @ a of one matrix."""

    a: np.ndarray
    b: np.ndarray
    alpha: float
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)


@dataclasses.dataclass(frozen=True, slots=True)
class _Adapter:
    path: Path
    config: dict[str, Any]
    pairs: dict[str, _Pair]
    num_unused: int
    base_sha256: str | None

    @property
    def files(self) -> list[Path]:
        """Settings and weights; only the latter where they hold the scale themselves."""
        config = self.path.parent / _CONFIG_NAME
        return [config, self.path] if self.config else [self.path]


def merge_lora(base: Checkpoint, lora: Lora) -> Checkpoint:
    """A checkpoint whose weights are W + strength * scale * B @ A for each pair of each adapter.

    The base's arrays are changed in place, so that there is no second copy of the model. Adapters
    are added in the order of their digests: the sum does not depend on the order of ``lora``.

    Args:
        base: the checkpoint that the adapters were trained on.
        lora: an adapter folder, or its safetensors file: PEFT's, with adapter_config.json beside
            it, or one in diffusers' or kohya's form; or several, with the strength of each.

    Raises:
        CheckpointError: an adapter is corrupt, was trained on another base, or uses a setting
            that a plain merge does not cover.
        UsageError: a strength is no finite number, or 0, or an adapter that gives guidance in one
            pass is merged at another strength than 1, or beside another one.
    """
    modules = linear_modules(base.config)
    adapters = []
    for path, strength in adapter_strengths(lora).items():
        adapter = _read(path, modules)
        _check_fits(adapter, modules, base)
        _check_base(adapter, base)
        adapters.append((_report(adapter, strength), adapter))
    one_pass_scale([report for report, _ in adapters])
    adapters.sort(key=lambda item: (item[0].sha256, item[0].strength))
    for report, adapter in adapters:
        for module, pair in adapter.pairs.items():
            # B @ A first, in the order of peft's get_delta_weight, so that rounding is the same.
            factor = np.float32(pair.scale * report.strength)
            base.tensors[f"{module}.weight"] += (pair.b @ pair.a) * factor
    dropped = base.report.dropped
    if num_unused := sum(adapter.num_unused for _, adapter in adapters):
        unused = Dropped(
            what="adapter on unused embedders",
            num_tensors=num_unused,
            reason="reaches no output of the network",
        )
        dropped = (*dropped, unused)
    merged = tuple(report for report, _ in adapters)
    return dataclasses.replace(
        base, report=dataclasses.replace(base.report, adapters=merged, dropped=dropped)
    )


def _report(adapter: _Adapter, strength: float) -> LoraReport:
    scale = adapter.config.get(ONE_PASS_GUIDANCE)
    largest = max(adapter.pairs.values(), key=lambda pair: pair.rank)
    return LoraReport(
        path=str(adapter.path),
        rank=largest.rank,
        alpha=largest.alpha,
        scale=largest.scale,
        num_modules=len(adapter.pairs),
        # The settings are part of it, because they hold the scale.
        sha256=sha256_files(adapter.files, adapter.path.parent),
        weights_sha256=sha256_file(adapter.path),
        strength=strength,
        one_pass_guidance=None if scale is None else float(scale),
    )


def _read(path: Path, modules: Mapping[str, tuple[int, ...]]) -> _Adapter:
    weights = _weights_file(path) if path.is_dir() else path
    if not weights.is_file():
        raise CheckpointError(f"{weights}: no such file; give an adapter's folder or file as lora")
    container = SafetensorsFiles([weights])
    names, parts, num_unused = AdapterNames(modules), {}, 0
    foreign = [name for name in container.names if is_of_text_encoder(name)]
    if foreign:
        raise CheckpointError(
            f"{weights}: adapts the text encoder too ({', '.join(foreign)}), which a bundle keeps "
            "as it is; save the adapter without them"
        )
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
    config_path = weights.parent / _CONFIG_NAME
    config = read_json(config_path) if config_path.is_file() else {}
    if config:
        _check_config(config, config_path)
    elif any(".lora_A." in name and not name.startswith("transformer.") for name in parts):
        raise CheckpointError(
            f"{config_path}: missing, so the adapter's scale is unknown; copy it beside the weights"
        )
    pairs = _pairs(weights, container, parts, config)
    base_sha256 = container.metadata(weights).get(BASE_SHA256)
    return _Adapter(weights, config, pairs, num_unused, base_sha256)


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
    path: Path, container: SafetensorsFiles, parts: Mapping[str, Part], config: dict[str, Any]
) -> dict[str, _Pair]:
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
    if halves or not sides:
        raise CheckpointError(
            f"{path}: {halves[:4] or 'no module'} with only one of lora_A and lora_B; "
            "copy the adapter again"
        )
    return {module: _pair(path, module, pair, config) for module, pair in sides.items()}


def _pair(path: Path, module: str, sides: dict[str, np.ndarray], config: dict[str, Any]) -> _Pair:
    """A module's matrices with its own alpha and scale."""
    a, b = sides["A"], sides["B"]
    rank = pattern_value(config.get("rank_pattern") or {}, module, config.get("r", len(a)))
    if a.shape[0] != rank or b.shape[1] != rank:
        raise CheckpointError(
            f"{path}: {module} {list(a.shape)} and {list(b.shape)} is not a finite matrix of rank "
            f"{rank}; copy the adapter again"
        )
    # Without an alpha, diffusers and kohya take the rank: scale 1.
    alpha: object = float(sides["alpha"].reshape(())) if "alpha" in sides else len(a)
    if config:
        alpha = pattern_value(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path}: alpha of {module} is {alpha!r}, expected a number")
    scale = alpha / (math.sqrt(len(a)) if config.get("use_rslora") else len(a))
    return _Pair(a, b, float(alpha), scale)


def _check_fits(adapter: _Adapter, modules: dict[str, tuple[int, ...]], base: Checkpoint) -> None:
    """Check that every pair has its matrix, and every targeted matrix its pair."""
    wrong = [
        f"{module} [{pair.b.shape[0]}, {pair.a.shape[1]}] (base: "
        f"{list(modules.get(module, ())) or 'none'})"
        for module, pair in sorted(adapter.pairs.items())
        if (pair.b.shape[0], pair.a.shape[1]) != modules.get(module)
    ]
    targets = adapter.config.get("target_modules")
    if isinstance(targets, list) and not _restricts_layers(adapter.config):
        suffixes = tuple(f".{PREFIX.sub('', str(target))}" for target in targets)
        wrong += [
            f"{module} (not in the adapter)"
            for module in modules
            if f".{module}".endswith(suffixes) and module not in adapter.pairs
        ]
    if wrong:
        raise CheckpointError(
            f"{adapter.path}: an adapter for another base than {base.report.path}: "
            f"{len(wrong)} modules differ: {', '.join(wrong)}; give the base it was trained on"
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
