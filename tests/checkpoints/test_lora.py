"""Adapters merge as W + scale * B @ A, and only onto the base they were trained on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minit2i_deploy.checkpoints import linear_modules, load_checkpoint
from minit2i_deploy.checkpoints.lora_file import BASE_SHA256
from minit2i_deploy.errors import CheckpointError
from tests.helpers.checkpoint_forms import CONFIG, hub_folder

RANK, ALPHA = 4, 6
PREFIX = "base_model.model.model.net."
# The official trainer's default targets, as its resolved module names.
TARGETS = [
    name
    for name in linear_modules(CONFIG)
    if any(part in name for part in ("qkv", "attn_proj", "w1", "w2", "w3", "txt_embedder"))
]


def write_adapter(
    folder: Path,
    targets: list[str] | None = None,
    prefix: str = PREFIX,
    extra: dict[str, np.ndarray] | None = None,
    **settings: Any,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A PEFT adapter folder; returns its (A, B) by module."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    targets = TARGETS if targets is None else targets
    pairs = {}
    for name in targets:
        out_size, in_size = linear_modules(CONFIG)[name]
        pairs[name] = (
            rng.standard_normal((RANK, in_size), np.float32),
            rng.standard_normal((out_size, RANK), np.float32),
        )
    tensors = {f"{prefix}{n}.lora_{'AB'[i]}.weight": p[i] for n, p in pairs.items() for i in (0, 1)}
    save_file(tensors | (extra or {}), folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": [f"model.net.{name}" for name in targets],
        "bias": "none",
        "use_dora": False,
        "modules_to_save": None,
        "rank_pattern": {},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return pairs


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(hub_folder(), lora=folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("prefix", [PREFIX, "model.net.", "base_model.model."])
def test_merge_is_the_low_rank_sum(prefix: str, rslora: bool, tmp_path: Path) -> None:
    pairs = write_adapter(tmp_path / "lora", prefix=prefix, use_rslora=rslora)
    base = load_checkpoint(hub_folder())
    merged = load_checkpoint(hub_folder(), lora=tmp_path / "lora")
    scale = ALPHA / (math.sqrt(RANK) if rslora else RANK)
    for name, value in merged.tensors.items():
        module = name.removesuffix(".weight")
        if module not in pairs:
            assert np.array_equal(value, base.tensors[name])
            continue
        a, b = (side.astype(np.float64) for side in pairs[module])
        delta = scale * np.einsum("or,ri->oi", b, a)
        # measured 2.2e-6 on sums up to 21
        assert np.abs(value - (base.tensors[name] + delta)).max() <= 1e-5
        assert value.dtype == np.float32
    (report,) = merged.report.adapters
    assert (report.num_modules, report.scale, report.strength) == (len(TARGETS), scale, 1.0)
    assert base.report.adapters == ()


def test_pairs_on_unused_embedders_are_dropped_by_name(tmp_path: Path) -> None:
    extra = {
        f"{PREFIX}pooled_embedder.lora_A.weight": np.ones((RANK, 32), np.float32),
        f"{PREFIX}pooled_embedder.lora_B.weight": np.ones((64, RANK), np.float32),
    }
    write_adapter(tmp_path / "lora", extra=extra)
    report = load_checkpoint(hub_folder(), lora=tmp_path / "lora").report
    dropped = {item.what: item.num_tensors for item in report.dropped}
    assert dropped["adapter on unused embedders"] == 2


def test_single_file_with_its_config_beside(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", targets=["txt_embedder"])
    file = tmp_path / "lora" / "adapter_model.safetensors"
    (lora,) = load_checkpoint(hub_folder(), lora=file).report.adapters
    assert lora.num_modules == 1
    (tmp_path / "lora" / "adapter_config.json").unlink()
    assert "adapter_config.json: missing" in refused(file)


def test_adapter_in_place_of_a_base(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora")
    for path in (tmp_path / "lora", tmp_path / "lora" / "adapter_model.safetensors"):
        with pytest.raises(CheckpointError, match="a LoRA adapter; give the base"):
            load_checkpoint(path)


def test_adapters_of_another_base(tmp_path: Path) -> None:
    wider = {
        f"{PREFIX}final_layer.linear.lora_A.weight": np.ones((RANK, 96), np.float32),
        f"{PREFIX}final_layer.linear.lora_B.weight": np.ones((192, RANK), np.float32),
    }
    write_adapter(tmp_path / "wider", extra=wider)
    text = refused(tmp_path / "wider")
    assert "another base" in text and "final_layer.linear [192, 96] (base: [192, 64])" in text
    deeper = {
        f"{PREFIX}double_blocks.3.img_qkv.lora_A.weight": np.ones((RANK, 64), np.float32),
        f"{PREFIX}double_blocks.3.img_qkv.lora_B.weight": np.ones((192, RANK), np.float32),
    }
    write_adapter(tmp_path / "deeper", extra=deeper)
    assert "double_blocks.3.img_qkv" in refused(tmp_path / "deeper")
    shallower = [name for name in TARGETS if not name.startswith("double_blocks.2.")]
    write_adapter(tmp_path / "shallower", targets=shallower, target_modules=["img_qkv"])
    assert "double_blocks.2.img_qkv (not in the adapter)" in refused(tmp_path / "shallower")


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["final_layer"]},
        {"rank_pattern": {"img_qkv": 8}},
        {"rank_pattern": [8]},
        {"alpha_pattern": {"img_qkv": "x"}},
        {"fan_in_fan_out": True},
        {"peft_type": "LOHA"},
        {"peft_type": None},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
        {"init_lora_weights": "lora_ga"},
        {"init_lora_weights": "of a later release"},
        {"use_bdlora": {"nblocks": 2}},
        {"a_setting_of_a_later_release": True},
        {"r": 0},
        {"r": 8},
        {"lora_alpha": None},
    ],
)
def test_settings_that_a_plain_merge_does_not_cover(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    write_adapter(tmp_path / "lora", **settings)
    text = refused(tmp_path / "lora")
    assert str(tmp_path / "lora") in text


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": value}
        for value in (True, False, None, "gaussian", "eva", "orthogonal", "mica")
    ]
    + [{"a_setting_of_a_later_release": value} for value in (False, None, {}, [])],
)
def test_settings_that_a_plain_merge_covers(settings: dict[str, Any], tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", **settings)
    assert load_checkpoint(hub_folder(), lora=tmp_path / "lora").report.adapters


@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "mica", "pissa", "olora"])
def test_a_merge_is_what_peft_merges_or_is_refused(init: Any, tmp_path: Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    name = "double_blocks.0.img_qkv"
    base = load_checkpoint(hub_folder())

    def model() -> Any:
        """The official module tree down to one layer."""
        weight = torch.from_numpy(base.tensors[f"{name}.weight"].copy())
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight
        for part in reversed(f"model.net.{name}".split(".")):
            holder = torch.nn.Module()
            holder.add_module(part, layer)
            layer = holder
        return layer

    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[name], init_lora_weights=init)
    adapted = peft.get_peft_model(model(), config)
    for key, value in adapted.named_parameters():
        if "lora_" in key:
            value.data.add_(0.02 * torch.randn_like(value))
    adapted.save_pretrained(tmp_path / "lora")
    if init in ("pissa", "olora"):
        assert f"init_lora_weights is {init!r}" in refused(tmp_path / "lora")
        return
    loaded = peft.PeftModel.from_pretrained(model(), str(tmp_path / "lora"))
    expected = loaded.merge_and_unload().get_submodule(f"model.net.{name}").weight
    merged = load_checkpoint(hub_folder(), lora=tmp_path / "lora").tensors[f"{name}.weight"]
    assert np.abs(merged - expected.detach().numpy()).max() <= 1e-6  # measured 0


def test_the_digest_covers_the_scale(tmp_path: Path) -> None:
    digests = set()
    for alpha in (6, 12):
        write_adapter(tmp_path / str(alpha), targets=["txt_embedder"], lora_alpha=alpha)
        (lora,) = load_checkpoint(hub_folder(), lora=tmp_path / str(alpha)).report.adapters
        digests.add(lora.sha256)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("img_embedder.proj1.lora_magnitude_vector", np.ones(4, np.float32), "not a LoRA matrix"),
        ("final_layer.linear.lora_A.weight", np.ones((RANK, 64), np.float32), "only one of"),
        ("final_layer.linear.lora_A.weight", np.full((RANK, 64), np.nan, np.float32), "finite"),
        ("final_layer.linear.lora_A.weight", np.ones(64, np.float32), "finite matrix of rank 4"),
    ],
)
def test_matrices_that_are_none(name: str, value: np.ndarray, text: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", extra={f"{PREFIX}{name}": value})
    assert text in refused(tmp_path / "lora")


def test_path_without_an_adapter(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path)


def test_the_base_an_adapter_names_is_required(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", targets=["txt_embedder"])
    file = tmp_path / "lora" / "adapter_model.safetensors"
    base_sha256, tensors = load_checkpoint(hub_folder()).report.sha256, load_file(file)
    save_file(tensors, file, {"format": "pt", BASE_SHA256: base_sha256})
    assert load_checkpoint(hub_folder(), lora=tmp_path / "lora").report.adapters
    save_file(tensors, file, {"format": "pt", BASE_SHA256: "3f" * 32})
    text = refused(tmp_path / "lora")
    assert "another base" in text
    assert f"sha256 3f3f3f3f3f3f.., but these are {base_sha256[:12]}" in text
