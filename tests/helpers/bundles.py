"""A small valid bundle folder: real tables and tokenizer, bytes in place of graphs."""

from __future__ import annotations

from pathlib import Path

from minit2i_deploy.bundle.bundle import write_manifest
from minit2i_deploy.bundle.manifest import (
    GRAPHS,
    Check,
    Flavour,
    GraphInfo,
    Manifest,
    Noise,
    Preset,
    Provenance,
    TensorInfo,
    TokenizerInfo,
)
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.solvers.noise import GENERATOR
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.tiny_tokenizer import write_tokenizer

CONFIG = ModelConfig(
    image_size=32, patch_size=8, hidden_size=64, num_heads=4, head_dim=16, depth_double=2,
    txt_input_size=32, prompt_length=12,
)  # fmt: skip


def draft() -> Manifest:
    """A manifest that lacks only its files."""
    image = TensorInfo(dtype="float32", shape=("batch", 3, 32, 32))
    graphs = {
        name: GraphInfo(
            path=f"{name}/model.onnx",
            precision="fp32",
            opset=18,
            inputs={"x": image},
            outputs={"y": image},
        )
        for name in GRAPHS
    }
    return Manifest(
        model=CONFIG,
        variant=None,
        graphs=graphs,
        tokenizer=TokenizerInfo(path="tokenizer", prompt_length=12),
        tables={"euler-4": "tables/euler-4.json"},
        presets={"default": Preset(table="euler-4", guidance=2.5)},
        default_preset="default",
        flavour=Flavour(name="jax-b16", a_min=0.05, guidance=2.5, steps=4, rounding="truncate"),
        noise=Noise(generator=GENERATOR, scale=2.0),
        provenance=Provenance(
            checkpoint_sha256="ab" * 32, checkpoint_form="hf-folder", tools={"onnx": "1.23.2"}
        ),
        checks=(
            Check(name="step", measured=3e-7, bound=1e-5, unit="relative", where="onnx to torch"),
        ),
    )


def write_files(folder: Path) -> None:
    """Everything but the manifest."""
    for name in GRAPHS:
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_bytes(f"graph {name} ".encode() * 20)
    (folder / "transformer" / "model.onnx.data").write_bytes(bytes(range(256)) * 4)
    (folder / "transformer" / "config.json").write_text("{}\n", encoding="utf-8")
    (folder / "tables").mkdir()
    solver_table("euler", steps=4).save(folder / "tables" / "euler-4.json")
    write_tokenizer(folder / "tokenizer")


def write_bundle(folder: Path) -> Path:
    """A whole bundle."""
    write_files(folder)
    write_manifest(folder, draft())
    return folder
