"""Adapters of the text encoder against peft's own merge, in every published form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from minit2i_deploy.checkpoints import linear_modules, load_checkpoint
from minit2i_deploy.checkpoints.lora_file import BASE_SHA256
from minit2i_deploy.checkpoints.lora_text_encoder import merge_into_text_encoder
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.export.graphs.text_encoder import merge_adapters, open_text_encoder
from tests.helpers.checkpoint_forms import CONFIG, hub_folder
from tests.helpers.tiny_bundle import text_folder

Q = "encoder.block.0.layer.0.SelfAttention.q"
WO = "encoder.block.1.layer.1.DenseReluDense.wo"
NETWORK = "double_blocks.0.img_qkv"
RANK = 3
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def encoder() -> Any:
    return open_text_encoder(text_folder() / "text_encoder", CONFIG.txt_input_size)


def tensors_of(module: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def merged(adapters: Path | Mapping[str, float]) -> dict[str, np.ndarray]:
    """The encoder's tensors with the adapters' part for it."""
    module = encoder()
    source = load_checkpoint(hub_folder(), lora=adapters)
    merge_adapters(module, source.text_adapters, text_folder())
    return tensors_of(module)


def assert_merged(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        # Measured 0.0 on values up to 3.7.
        assert np.abs(actual[name] - value).max() <= 1e-6, name


def peft_adapter(folder: Path, model: Any = None, **settings: Any) -> dict[str, np.ndarray]:
    """Let peft make, save and merge a random adapter; returns the merged tensors."""
    torch.manual_seed(3)
    values: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ["q", "o", "wi_0", "wo"]}
    # Otherwise the second matrix of every pair is zero.
    config = peft.LoraConfig(**values | settings, init_lora_weights=False)
    model = peft.get_peft_model(model or encoder(), config)
    model.save_pretrained(folder)
    return tensors_of(model.merge_and_unload())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {
            "rank_pattern": {"SelfAttention.q": 2, r"block\.1\.layer\.1\.DenseReluDense\.wo": 7},
            "alpha_pattern": {"wo": 5},
        },
        {"rank_pattern": {Q: 2}, "alpha_pattern": {f"^{Q}": 3, WO: 5}},
        {"layers_to_transform": [1], "layers_pattern": "block"},
    ],
)
def test_as_peft_merges_it(settings: dict[str, Any], tmp_path: Path) -> None:
    expected = peft_adapter(tmp_path / "x", **settings)
    actual = merged(tmp_path / "x")
    assert_merged(actual, expected)
    assert any(not np.array_equal(actual[k], v) for k, v in tensors_of(encoder()).items())
    network = load_checkpoint(hub_folder(), lora=tmp_path / "x").tensors
    for name, value in load_checkpoint(hub_folder()).tensors.items():
        assert np.array_equal(network[name], value)


def test_patterns_are_for_the_names_in_the_model_that_was_saved(tmp_path: Path) -> None:
    expected = peft_adapter(
        tmp_path / "x",
        torch.nn.ModuleDict({"text_encoder": encoder()}),
        rank_pattern={f"text_encoder.{Q}": 2},
        alpha_pattern={f"^text_encoder.{Q}": 3, f"text_encoder.{WO}": 5},
    )
    start = "text_encoder."
    assert_merged(
        merged(tmp_path / "x"),
        {name.removeprefix(start): value for name, value in expected.items()},
    )


def test_several_with_strengths_in_any_order(tmp_path: Path) -> None:
    peft_adapter(tmp_path / "a")
    peft_adapter(tmp_path / "b", target_modules=["q"], lora_alpha=1)
    model = peft.PeftModel.from_pretrained(encoder(), tmp_path / "a", "a")
    model.load_adapter(tmp_path / "b", "b")
    for name, strength in (("a", 0.8), ("b", -0.5)):
        for layer in model.modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer) and name in layer.scaling:
                layer.scaling[name] *= strength
    model.base_model.set_adapter(["a", "b"])
    expected = tensors_of(model.merge_and_unload())
    strengths = {str(tmp_path / "a"): 0.8, str(tmp_path / "b"): -0.5}
    actual = merged(strengths)
    assert_merged(actual, expected)
    assert all(
        np.array_equal(value, actual[name])
        for name, value in merged(dict(reversed(strengths.items()))).items()
    )


def pairs() -> Pairs:
    """Two matrices of the encoder, and one of the network."""
    rng = np.random.default_rng(5)
    shapes = {name: encoder().get_parameter(f"{name}.weight").shape for name in (Q, WO)}
    shapes[NETWORK] = linear_modules(CONFIG)[NETWORK]
    return {
        name: (
            rng.standard_normal((RANK, inputs), np.float32),
            rng.standard_normal((outputs, RANK), np.float32),
        )
        for name, (outputs, inputs) in shapes.items()
    }


def peft_names(module: str) -> tuple[str, str]:
    start = "base_model.model." + ("model.net." if module == NETWORK else "text_encoder.")
    return f"{start}{module}.lora_A.weight", f"{start}{module}.lora_B.weight"


def diffusers_names(module: str) -> tuple[str, str]:
    start = "transformer.net." if module == NETWORK else "text_encoder_2."
    return f"{start}{module}.lora_A.weight", f"{start}{module}.lora_B.weight"


def older_names(module: str) -> tuple[str, str]:
    if module == NETWORK:
        return f"transformer.{module}.lora.down.weight", f"transformer.{module}.lora.up.weight"
    start = f"text_encoder.{module}.lora_linear_layer"
    return f"{start}.down.weight", f"{start}.up.weight"


def kohya_names(module: str, text: str = "lora_te") -> tuple[str, str]:
    flat = f"{'lora_unet' if module == NETWORK else text}_{module.replace('.', '_')}"
    return f"{flat}.lora_down.weight", f"{flat}.lora_up.weight"


def kohya_3_names(module: str) -> tuple[str, str]:
    return kohya_names(module, "lora_te3")


def write(
    file: Path,
    names: Callable[[str], tuple[str, str]],
    alpha: float | None = None,
    header: dict[str, str] | None = None,
    modules: Pairs | None = None,
) -> Path:
    tensors = {}
    for module, sides in (modules or pairs()).items():
        for name, side in zip(names(module), sides, strict=True):
            tensors[name] = side
            if alpha is not None:
                stem = name.partition(".lora")[0]
                tensors[f"{stem}.alpha"] = np.asarray(alpha, np.float32)
    save_file(tensors, file, header)
    return file


def assert_both_parts(adapter: Path, scale: float) -> None:
    base, changed = load_checkpoint(hub_folder()), load_checkpoint(hub_folder(), lora=adapter)
    before, after = tensors_of(encoder()), merged(adapter)
    before[f"{NETWORK}.weight"] = base.tensors[f"{NETWORK}.weight"]
    after[f"{NETWORK}.weight"] = changed.tensors[f"{NETWORK}.weight"]
    for module, (a, b) in pairs().items():
        delta = scale * np.einsum("or,ri->oi", b.astype(np.float64), a.astype(np.float64))
        expected = before.pop(f"{module}.weight") + delta
        # Measured 5.1e-7 in the encoder, on sums up to 10.
        assert np.abs(after.pop(f"{module}.weight") - expected).max() <= 1e-5, module
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    (report,) = changed.report.adapters
    assert (report.num_modules, report.num_text_modules) == (1, 2)


@pytest.mark.parametrize("names", [diffusers_names, older_names, kohya_names, kohya_3_names])
def test_one_file_with_both_parts(names: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    assert_both_parts(write(tmp_path / "x.safetensors", names), 1.0)
    assert_both_parts(write(tmp_path / "y.safetensors", names, alpha=6), 6 / RANK)


def test_a_peft_model_around_both(tmp_path: Path) -> None:
    write(tmp_path / "adapter_model.safetensors", peft_names)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2, "target_modules": ["q", "img_qkv"]}
    config |= {"layers_to_transform": [0, 1]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert_both_parts(tmp_path, 2 / RANK)
    for start in ("", "^"):
        layers = (f"text_encoder.{Q}", f"text_encoder.{WO}", f"model.net.{NETWORK}")
        values = {"alpha_pattern": {f"{start}{layer}": 5 for layer in layers}}
        values |= {"r": 8, "rank_pattern": {f"{start}{layer}": RANK for layer in layers}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | values))
        assert_both_parts(tmp_path, 5 / RANK)


def test_settings_in_the_header_of_a_diffusers_file(tmp_path: Path) -> None:
    values = {
        f"{part}.{key}": value
        for part in ("transformer", "text_encoder_2")
        for key, value in (("peft_type", "LORA"), ("r", RANK), ("lora_alpha", 6), ("bias", "none"))
    }
    header = {"lora_adapter_metadata": json.dumps(values)}
    assert_both_parts(write(tmp_path / "x.safetensors", diffusers_names, header=header), 2.0)
    for start in ("", "^"):
        layers = {f"{start}net.{NETWORK}": 9}
        text_layers = {f"{start}{Q}": 9, f"{start}{WO}": 9}
        patterns = {
            "transformer.alpha_pattern": layers,
            "text_encoder_2.alpha_pattern": text_layers,
        }
        header = {"lora_adapter_metadata": json.dumps(values | patterns)}
        assert_both_parts(write(tmp_path / "x.safetensors", diffusers_names, header=header), 3.0)
    values["text_encoder_2.use_dora"] = True
    header = {"lora_adapter_metadata": json.dumps(values)}
    text = refused(write(tmp_path / "x.safetensors", diffusers_names, header=header))
    assert "use_dora is True, but only a plain LoRA" in text
    header = {"lora_adapter_metadata": "{"}
    assert "is not JSON" in refused(write(tmp_path / "x.safetensors", kohya_names, header=header))


def refused(adapter: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        merged(adapter)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_of_another_encoder_are_all_listed(tmp_path: Path) -> None:
    """CLIP's, which most published adapters have."""
    names = [f"text_model.encoder.layers.{i}.self_attn.q_proj" for i in range(6)]
    one = (np.ones((2, 4), np.float32), np.ones((4, 2), np.float32))
    modules = pairs() | dict.fromkeys(names, one)
    text = refused(write(tmp_path / "x.safetensors", diffusers_names, modules=modules))
    assert "6 modules differ" in text
    assert all(f"{name} [4, 4] (a T5 encoder: none)" in text for name in names)
    text = refused(write(tmp_path / "y.safetensors", kohya_names, modules=modules))
    assert all(f"{name.replace('.', '_')} [4, 4]" in text for name in names)


def test_an_encoder_of_another_depth_or_width(tmp_path: Path) -> None:
    modules = pairs()
    modules[Q.replace("block.0", "block.9")] = modules[Q]
    modules[WO.replace(".wo", ".wi")] = modules[WO]
    modules[WO] = (modules[WO][0][:, :-1], modules[WO][1])
    text = refused(write(tmp_path / "x.safetensors", diffusers_names, modules=modules))
    assert "another text encoder than" in text and "3 modules differ" in text
    assert "block.9.layer.0.SelfAttention.q [32, 32] (encoder: none)" in text
    assert f"{WO} [32, 63] (encoder: [32, 64])" in text
    peft_adapter(tmp_path / "y", target_modules=["q"])
    tensors = load_file(tmp_path / "y" / "adapter_model.safetensors")
    retained = {name: value for name, value in tensors.items() if "block.1" not in name}
    save_file(retained, tmp_path / "y" / "adapter_model.safetensors")
    expected = "encoder.block.1.layer.0.SelfAttention.q (not in the adapter)"
    assert expected in refused(tmp_path / "y")


def test_the_base_that_it_names(tmp_path: Path) -> None:
    other = write(tmp_path / "x.safetensors", kohya_names, header={BASE_SHA256: "0" * 64})
    assert "another base" in refused(other)


def test_an_error_leaves_the_encoder_as_it_is(tmp_path: Path) -> None:
    good = write(tmp_path / "a.safetensors", kohya_names)
    deeper = pairs()
    deeper[Q.replace("block.0", "block.9")] = deeper.pop(Q)
    bad = write(tmp_path / "b.safetensors", kohya_names, modules=deeper)
    source = load_checkpoint(hub_folder(), lora={str(good): 1.0, str(bad): 1.0})
    tensors = tensors_of(encoder())
    with pytest.raises(CheckpointError, match=r"block\.9"):
        merge_into_text_encoder(tensors, source.text_adapters, "here")
    for name, value in tensors_of(encoder()).items():
        assert np.array_equal(tensors[name], value)
