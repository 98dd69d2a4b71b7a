"""What gpu_tensorrt.py compares: one bundle on every engine that a CUDA machine may have."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from random_release import TINY, TOKENIZER, _weight, _write_text_encoder
from safetensors.numpy import save_file

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.checkpoints import canonical_shapes
from minit2i_deploy.config import VARIANTS, ModelConfig, StudentConfig
from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.export import ExportOptions, export_bundle
from minit2i_deploy.export.verification import reference
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.torch.network import read_weights

CONFIGS: Final[Mapping[str, ModelConfig]] = {"tiny": TINY, **VARIANTS}
_T5_LAYERS: Final = {"tiny": 1}
# Rows of the images that an export compares; the full number takes minutes on a processor.
_REFERENCE_ROWS: Final = 2

Call = Callable[[], object]


@dataclass(kw_only=True, eq=False)
class Contender:
    """One engine.

    Args:
        label: unique name.
        runtime: of this package, or None of the official port.
        reason: why it does not run here, or empty.
        facts: figures that are read and not timed.
        official: makes the official port's guided step for a batch.
    """

    label: str
    runtime: Any = None
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    official: Callable[[int, int], Call] | None = None


def make_bundle(variant: str, precision: str, folder: Path, *, opset: int) -> Bundle:
    """Export a network with random weights; a second call finds the first one's bundle.

    Args:
        variant: of CONFIGS; ``tiny-mf`` is a few-step student of the tiny network.
        precision: of adapter and step.
        folder: where to.
        opset: of the graphs.
    """
    target = folder / f"{variant}-{precision}"
    if (target / "manifest.json").is_file():
        return Bundle.open(target)
    config = _config(variant)
    source = folder / f"{variant}-checkpoint"
    if not source.exists():
        _write_checkpoint(source, config, _T5_LAYERS.get(variant.removesuffix("-mf"), 24))
    reference.STEPS = _REFERENCE_ROWS  # type: ignore[misc]
    return export_bundle(
        source / "checkpoint",
        target,
        ExportOptions(precision=precision, text_encoder=source / "text_encoder", opset=opset),
    )


def open_contender(label: str, bundle: Bundle, runtime: str, **options: Any) -> Contender:
    """Open a bundle on one engine, or keep the reason why it does not run."""
    began = time.perf_counter()
    try:
        opened = open_runtime(bundle, runtime, **options)
    except Minit2iError as error:
        return Contender(label=label, reason=str(error))
    return Contender(
        label=label, runtime=opened, facts={"open_s": round(time.perf_counter() - began, 3)}
    )


def official_contender(
    bundle: Bundle, checkout: Path, device: str, probe: tuple[np.ndarray, np.ndarray]
) -> Contender:
    """The official PyTorch port's own guided velocity with the bundle's weights, eagerly.

    It runs its text blocks in every step, as it does when it samples.

    Args:
        bundle: whose weights it gets.
        checkout: clone of the port.
        device: that it runs on.
        probe: float32 context and int64 mask of one prompt.
    """
    sys.path.append(str((checkout / "diffusers").resolve()))
    module = importlib.import_module("pipeline")
    fields = module.MMJiTConfig.__dataclass_fields__
    values = {k: v for k, v in bundle.config.to_dict().items() if k in fields}
    width = bundle.config.hidden_size
    config = module.MMJiTConfig(**values | {"txt_hidden_size": width, "cond_vec_size": width})
    model = module.DiffusionModel(config).eval()
    weights = read_weights(bundle, "text_adapter") | read_weights(bundle, "transformer")
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    model.net.load_state_dict(tensors, strict=False)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = dtypes[bundle.manifest.graphs["transformer"].precision]
    model = model.to(device=device, dtype=dtype)
    context, mask = (torch.from_numpy(array).to(device=device, dtype=dtype) for array in probe)
    size = bundle.config.image_size

    def steps(batch: int, count: int) -> Call:
        x = torch.randn(batch, bundle.config.in_channels, size, size, device=device, dtype=dtype)
        times = torch.linspace(0, 1, count + 1, device=device, dtype=dtype)
        contexts, masks = context.expand(batch, -1, -1), mask.expand(batch, -1)

        @torch.no_grad()
        def call() -> object:
            now = x
            for index in range(count):
                t = times[index].expand(batch)
                velocity = model.cfg_velocity(now, t, contexts, masks, 2.5)
                now = now + velocity * (times[index + 1] - times[index])
            if device != "cpu":
                torch.cuda.synchronize()
            return now.float().cpu()

        return call

    return Contender(label=f"official port {device}", official=steps)


def _config(variant: str) -> ModelConfig:
    if variant != "tiny-mf":
        return CONFIGS[variant]
    return ModelConfig(**{**TINY.to_dict(), "student": StudentConfig()})


def _write_checkpoint(folder: Path, config: ModelConfig, t5_layers: int) -> None:
    """Random weights as a training checkpoint, with a text encoder and a tokenizer beside it."""
    import shutil

    rng = np.random.default_rng(0)
    tensors = {
        name: np.asarray(_weight(rng, name, shape), np.float32)
        for name, shape in canonical_shapes(config).items()
    }
    (folder / "checkpoint").mkdir(parents=True)
    save_file(tensors, folder / "checkpoint" / "ema.safetensors")
    header = {
        "format": "minit2i-training",
        "version": 1,
        "step": 1,
        "config": config.to_dict(),
        "recipe": {},
    }
    path = folder / "checkpoint" / "checkpoint.json"
    path.write_text(json.dumps(header), encoding="utf-8")
    _write_text_encoder(folder / "text_encoder", config.txt_input_size, t5_layers, 32128)
    shutil.copytree(TOKENIZER, folder / "tokenizer")
