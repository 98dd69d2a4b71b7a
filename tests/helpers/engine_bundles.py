"""Bundles for engine builds: real graphs of real networks, written without being verified."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

import torch

import minit2i_deploy.demo
from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import GraphInfo
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.config import LOOPED_VARIANTS, VARIANTS, ModelConfig
from minit2i_deploy.export.choices import DEFAULT_OPSET
from minit2i_deploy.export.graphs.head_padding import pad_heads, padding_for
from minit2i_deploy.export.graphs.modules import (
    AdapterGraph,
    canonical_name,
    network_dtype,
    step_signature,
    text_adapter_signature,
)
from minit2i_deploy.export.graphs.onnx_export import Signature, to_onnx
from minit2i_deploy.export.graphs.text_encoder import open_text_encoder, write_text_encoder
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.loop_config import LoopConfig
from minit2i_deploy.model import MMJiT, Step, build_network
from minit2i_deploy.model.mmjit import Denoiser
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import draft
from tests.helpers.tiny_tokenizer import write_tokenizer

ASSETS = Path(minit2i_deploy.demo.__file__).parent / "assets"
# Precision, opset and blocks of a demo bundle's network. The exporter takes seconds a block, so
# only the first is whole.
FORMS = (("fp16", 23, 4), ("bf16", 23, 2), ("fp32", 18, 2))
_IMAGE_SIZE = 256


@functools.cache
def root() -> Path:
    """A folder for this process."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-engines-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def demo_bundle(precision: str, opset: int, depth: int) -> Bundle:
    """The shipped model, cut to its first and last blocks. Copy it before you write into it."""
    folder = root() / f"demo-{precision}-{opset}"
    net = build_network(load_checkpoint(ASSETS / "model"))
    blocks = net.denoiser.double_blocks
    net.denoiser.double_blocks = torch.nn.ModuleList([*blocks[: depth - 1], blocks[-1]])
    net.denoiser.config = config = dataclasses.replace(net.config, depth_double=depth)
    graphs = {
        "text_encoder": _copy_encoder(folder),
        "text_adapter": _write_adapter(folder, net, precision, opset),
        "transformer": _write_step(folder, net.denoiser, precision, opset),
    }
    return _seal(folder, config, graphs)


@functools.cache
def block_pair(variant: str, precision: str) -> tuple[Path, ModelConfig]:
    """The step graph of two blocks of a published variant, at full width."""
    config = dataclasses.replace(VARIANTS[variant], depth_double=2, image_size=_IMAGE_SIZE)
    folder = root() / f"{variant}-{precision}"
    _write_step(folder, Denoiser(config).eval().requires_grad_(False), precision, 23)
    return folder / "transformer" / GRAPH_FILE, config


@functools.cache
def narrow_pair(multiple: int) -> tuple[Path, int]:
    """The fp16 step graph of two blocks with four of L/16's heads, and their width with pads.

    Full width is for ``block_pair``; what is fused hangs on the heads.
    """
    config = dataclasses.replace(
        VARIANTS["l-16"], hidden_size=208, num_heads=4, depth_double=2, image_size=_IMAGE_SIZE
    )
    denoiser = Denoiser(config).eval().requires_grad_(False)
    padding = padding_for(config, multiple)
    if padding is not None:
        pad_heads(denoiser, padding)
    width = config.head_dim if padding is None else padding.padded
    folder = root() / f"narrow-{width}"
    _write_step(folder, denoiser, "fp16", 23)
    return folder / "transformer" / GRAPH_FILE, width


@functools.cache
def looped_trio(precision: str) -> tuple[Path, int]:
    """The step graph of a Looped-DiT's three blocks, and how many attentions it runs."""
    loop = LoopConfig(pre=1, core=1, post=1, num_loops=2)
    config = dataclasses.replace(
        LOOPED_VARIANTS["looped-b-16"],
        hidden_size=256,
        num_heads=4,
        depth_double=loop.num_blocks,
        image_size=_IMAGE_SIZE,
        loop=loop,
    )
    folder = root() / f"looped-{precision}"
    _write_step(folder, Denoiser(config).eval().requires_grad_(False), precision, 23)
    return folder / "transformer" / GRAPH_FILE, len(config.block_order())


def _write_step(folder: Path, denoiser: Denoiser, precision: str, opset: int) -> GraphInfo:
    denoiser.to(network_dtype(precision))
    signature = step_signature(denoiser.config)
    return _write(folder, "transformer", Step(denoiser), signature, precision, opset)


def _write_adapter(folder: Path, net: MMJiT, precision: str, opset: int) -> GraphInfo:
    net.text_adapter.to(network_dtype(precision))
    signature = text_adapter_signature(net.config)
    module = AdapterGraph(net.text_adapter)
    return _write(folder, "text_adapter", module, signature, precision, opset)


def _write(
    folder: Path,
    name: str,
    module: torch.nn.Module,
    signature: Signature,
    precision: str,
    opset: int,
) -> GraphInfo:
    model = to_onnx(module.eval(), signature, opset)
    write_graph(model, module, folder / name, canonical_name)
    return _info(name, signature, precision, opset)


@functools.cache
def _encoder() -> tuple[Path, GraphInfo]:
    """It is float32 whatever the network is."""
    folder = root() / "encoder"
    config = load_checkpoint(ASSETS / "model").config
    encoder = open_text_encoder(ASSETS / "text_encoder", config.txt_input_size)
    signature = write_text_encoder(encoder, folder, DEFAULT_OPSET)
    return folder, _info("text_encoder", signature, "fp32", DEFAULT_OPSET)


def _copy_encoder(folder: Path) -> GraphInfo:
    source, info = _encoder()
    shutil.copytree(source, folder / "text_encoder")
    return info


def _info(name: str, signature: Signature, precision: str, opset: int) -> GraphInfo:
    return GraphInfo(
        path=f"{name}/{GRAPH_FILE}",
        precision=precision,
        opset=opset,
        inputs=signature.inputs,
        outputs=signature.outputs,
    )


def _seal(folder: Path, config: ModelConfig, graphs: dict[str, GraphInfo]) -> Bundle:
    (folder / "tables").mkdir()
    solver_table("euler", steps=4).save(folder / "tables" / "euler-4.json")
    write_tokenizer(folder / "tokenizer")
    blank = draft()
    tokenizer = dataclasses.replace(blank.tokenizer, prompt_length=config.prompt_length)
    write_manifest(
        folder, dataclasses.replace(blank, model=config, graphs=graphs, tokenizer=tokenizer)
    )
    return Bundle.open(folder)
