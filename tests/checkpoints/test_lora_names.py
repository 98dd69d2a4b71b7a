"""Adapters as other programs publish them: names, alphas, patterns; what none of them is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minit2i_deploy.checkpoints import linear_modules, load_checkpoint
from minit2i_deploy.errors import CheckpointError
from tests.helpers.checkpoint_forms import CONFIG, hub_folder

MODULES = ("double_blocks.0.img_qkv", "double_blocks.2.txt_mlp.w2", "txt_embedder")
RANKS = (4, 2, 8)
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def pairs() -> Pairs:
    rng = np.random.default_rng(3)
    made = {}
    for module, rank in zip(MODULES, RANKS, strict=True):
        num_outputs, num_inputs = linear_modules(CONFIG)[module]
        made[module] = (
            rng.standard_normal((rank, num_inputs), np.float32),
            rng.standard_normal((num_outputs, rank), np.float32),
        )
    return made


def check(adapter: Path, scales: tuple[float, ...]) -> None:
    base, merged = load_checkpoint(hub_folder()), load_checkpoint(hub_folder(), lora=adapter)
    for (module, (a, b)), scale in zip(pairs().items(), scales, strict=True):
        name = f"{module}.weight"
        delta = scale * np.einsum("or,ri->oi", b.astype(np.float64), a.astype(np.float64))
        # Measured 2.9e-6 on sums up to 30.
        assert np.abs(merged.tensors[name] - (base.tensors[name] + delta)).max() <= 1e-5
    changed = [n for n, v in merged.tensors.items() if not np.array_equal(v, base.tensors[n])]
    assert sorted(changed) == sorted(f"{module}.weight" for module in MODULES)


def diffusers_names(module: str) -> tuple[str, str, str]:
    return tuple(
        f"transformer.{module}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha")
    )


def older_diffusers_names(module: str) -> tuple[str, str, str]:
    ends = ("lora.down.weight", "lora.up.weight", "alpha")
    return tuple(f"transformer.model.net.{module}.{end}" for end in ends)


def kohya_names(module: str) -> tuple[str, str, str]:
    flat = module.replace(".", "_")
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    return tuple(f"lora_unet_{flat}.{end}" for end in ends)


@pytest.mark.parametrize("names", [diffusers_names, older_diffusers_names, kohya_names])
@pytest.mark.parametrize("with_alpha", [True, False])
def test_forms_of_one_file(
    names: Callable[[str], tuple[str, str, str]], with_alpha: bool, tmp_path: Path
) -> None:
    tensors = {}
    for module, (a, b) in pairs().items():
        down, up, alpha = names(module)
        tensors |= {down: a, up: b}
        if with_alpha:
            tensors[alpha] = np.float32(3)
    save_file({k: np.asarray(v) for k, v in tensors.items()}, tmp_path / "x.safetensors")
    scales = tuple(3 / rank for rank in RANKS) if with_alpha else (1.0, 1.0, 1.0)
    check(tmp_path / "x.safetensors", scales)
    check(tmp_path, scales)


def test_rank_and_alpha_patterns(tmp_path: Path) -> None:
    tensors = {}
    for module, (a, b) in pairs().items():
        tensors |= {f"model.net.{module}.lora_A.weight": a, f"model.net.{module}.lora_B.weight": b}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 6,
        "rank_pattern": {r"txt_mlp\.w2": 2, "txt_embedder": 8},
        "alpha_pattern": {"txt_embedder": 12},
        "target_modules": [f"model.net.{module}" for module in MODULES],
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    check(tmp_path, (6 / 4, 6 / 2, 12 / 8))


def refused(tensors: dict[str, np.ndarray], tmp_path: Path) -> str:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(hub_folder(), lora=tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_that_match_nothing_are_all_listed(tmp_path: Path) -> None:
    one = np.ones((2, 2), np.float32)
    names = [f"lora_unet_foreign_{i}" for i in range(7)]
    tensors = {f"{n}.{end}.weight": one for n in names for end in ("lora_down", "lora_up")}
    text = refused(tensors, tmp_path)
    assert "7 modules differ" in text and all(f"foreign_{i} [2, 2]" in text for i in range(7))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lora_te_encoder_block_0_layer_0_SelfAttention_q.dora_scale", "is not a LoRA matrix"),
        ("text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight", "only one of"),
        ("encoder.block.0.layer.0.SelfAttention.q.lora_A.weight", "adapter_config.json: missing"),
        ("lora_unet_txt_embedder.dora_scale", "is not a LoRA matrix"),
        ("lora_unet_txt_embedder.hada_w1_a", "is not a LoRA matrix"),
        ("lora_unet_txt_embedder.lora_down.weight", "only one of lora_A and lora_B"),
        ("model.net.txt_embedder.lora_A.weight", "adapter_config.json: missing"),
    ],
)
def test_what_is_no_plain_adapter(name: str, text: str, tmp_path: Path) -> None:
    assert text in refused({name: np.ones((2, 32), np.float32)}, tmp_path)
