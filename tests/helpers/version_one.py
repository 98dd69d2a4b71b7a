"""The tiny bundle as format version 1 had it: a step graph whose images share their rows."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import TensorInfo
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.export.graphs.modules import canonical_name
from minit2i_deploy.export.graphs.onnx_export import Signature, to_onnx
from minit2i_deploy.export.graphs.weights_file import write_graph
from minit2i_deploy.model import build_network
from minit2i_deploy.model.mmjit import Denoiser
from minit2i_deploy.model.step import guided_estimate
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.tiny_bundle import tiny_bundle


class _SharedRow(nn.Module):
    """x, h, tokens, weights, row -> x', h', with the parameters' names of ``Step``."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, x: Tensor, h: Tensor, tokens: Tensor, weights: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        branches, batch, length, width = tokens.shape
        network_input = x.unsqueeze(0).expand(branches, -1, -1, -1, -1)
        x0 = self.denoiser(
            network_input.reshape(branches * batch, *x.shape[1:]),
            tokens.reshape(branches * batch, length, width),
        )
        a, b, c, s, clip, rescale = row[:, None, None, None, None].unbind(0)
        x0 = x0.reshape(branches, batch, *x.shape[1:])
        y = guided_estimate(x0, weights[:, None], clip, rescale)
        return a * x + b * y + c * h, y + s * x


@functools.cache
def version_one_bundle() -> Path:
    """A complete bundle of format version 1. Do not write into it; copy it."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-version-1-")) / "bundle"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    shutil.copytree(tiny_bundle(), folder, ignore=shutil.ignore_patterns("engines", "transformer"))
    source = Bundle.open(tiny_bundle()).manifest
    info = source.graphs["transformer"]
    config = source.model
    image = info.inputs["x"]
    tokens = (config.num_text_tokens, config.hidden_size)
    signature = Signature(
        inputs={
            "x": image,
            "h": image,
            "tokens": TensorInfo(dtype="float32", shape=("branches", "batch", *tokens)),
            "weights": TensorInfo(dtype="float32", shape=("branches",)),
            "row": TensorInfo(dtype="float32", shape=(6,)),
        },
        # In the order of the graph; a manifest's are sorted.
        outputs={"x_next": image, "h_next": image},
    )
    step = _SharedRow(build_network(load_checkpoint(hub_folder())).denoiser).eval()
    with torch.no_grad():
        model = to_onnx(step, signature, info.opset)
    write_graph(model, step, folder / "transformer", canonical_name)
    shutil.copy(tiny_bundle() / "transformer" / "config.json", folder / "transformer")
    graphs = {**source.graphs, "transformer": dataclasses.replace(info, inputs=signature.inputs)}
    (folder / "manifest.json").unlink()
    write_manifest(folder, dataclasses.replace(source, graphs=graphs, format_version=1))
    return folder
