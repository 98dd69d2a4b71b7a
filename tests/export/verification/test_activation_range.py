"""fp16 that would overflow on a GPU is refused, although onnxruntime's CPU cannot see it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.numpy import load_file, save_file  # noqa: E402

from minit2i_deploy.errors import VerificationError  # noqa: E402
from minit2i_deploy.export import ExportOptions, export_bundle  # noqa: E402
from minit2i_deploy.export.verification.activation_range import ActivationRange  # noqa: E402
from minit2i_deploy.model.layers import SwiGLU  # noqa: E402
from tests.helpers.checkpoint_forms import hub_folder  # noqa: E402
from tests.helpers.tiny_bundle import text_folder  # noqa: E402

OPTIONS = ExportOptions(text_encoder=text_folder(), precision="fp16")


def rescaled(folder: Path, factor: float) -> Path:
    """The tiny checkpoint with w2's input multiplied by a power of two: the same function."""
    folder.mkdir()
    for path in hub_folder().iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    for name in list(tensors):
        if ".img_mlp.w3." in name:
            tensors[name] = tensors[name] * factor
        elif ".img_mlp.w2." in name:
            tensors[name] = tensors[name] / factor
    save_file(tensors, file)
    return folder


def test_the_largest_magnitude_is_recorded_beside_the_limit(tmp_path: Path) -> None:
    result = export_bundle(hub_folder(), tmp_path / "b", OPTIONS).manifest
    (check,) = (check for check in result.checks if check.name == "activations")
    assert 0 < check.measured < check.bound == 65504.0
    assert "in torch fp16, whose range ends at 65504" in check.where
    # What onnxruntime measured cannot show an overflow, and says so.
    (graph,) = (check for check in result.checks if check.name == "transformer")
    assert "computes fp16 graphs in fp32" in graph.where


def test_the_same_function_is_refused_where_values_leave_the_range(tmp_path: Path) -> None:
    source = rescaled(tmp_path / "large", 2.0**15)
    with pytest.raises(VerificationError, match=r"activations: inf .* of double_blocks.0.img_mlp"):
        export_bundle(source, tmp_path / "b", OPTIONS)
    assert not (tmp_path / "b").exists()
    wide = dataclasses.replace(OPTIONS, precision="bf16")
    assert export_bundle(source, tmp_path / "bf16", wide).path.is_dir()


def test_results_inside_a_module_count_and_name_it() -> None:
    module = torch.nn.Sequential(torch.nn.Identity(), SwiGLU(8, 16)).to(torch.float16)
    with torch.no_grad():
        module[1].w2.weight.zero_()
        # Large enough for the product to exceed both factors.
        module[1].w1.weight.fill_(0.2)
        module[1].w3.weight.fill_(0.3)
        x = torch.full((1, 2, 8), 3.0, dtype=torch.float16)
        with ActivationRange(module) as activations:
            result = module(x)
        gated = torch.nn.functional.silu(module[1].w1(x)) * module[1].w3(x)
    assert not result.any()
    assert activations.largest == float(gated.abs().max())
    assert activations.place.startswith("mul of 1")


def test_not_a_number_is_no_smaller_than_infinity() -> None:
    with ActivationRange() as activations:
        value = torch.tensor([1.0], dtype=torch.float16) * math.nan
    assert value.isnan().all() and activations.largest == math.inf
