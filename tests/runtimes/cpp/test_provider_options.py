"""Sessions of the C++ client get the options of Python's, for every provider and kind of bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.step_switch import bundle_after_switch
from minit2i_deploy.runtimes.onnxruntime.provider_options import (
    ProviderSettings,
    attach,
    plugin_options,
)
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from tests.helpers.cpp_bundles import edit, shipped_student
from tests.helpers.cpp_client import program
from tests.helpers.free_bundles import free_bundle
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.version_one import version_one_bundle

pytestmark = pytest.mark.cpp

BUNDLES: dict[str, Callable[[], Path]] = {
    "fixed": tiny_bundle,
    "free": free_bundle,
    "student": shipped_student,
    "version one": version_one_bundle,
}


def python_options(bundle: Bundle, provider: str, graph: str, **settings: Any) -> list[Any]:
    """What ``OnnxRuntime`` opens a graph with."""
    choice, manifest = PROVIDERS[provider], bundle.manifest
    asked = ProviderSettings(info=manifest.graphs[graph], free=manifest.free_axes, **settings)
    if choice.plugin is not None:
        return [[choice.ep, plugin_options(choice, asked)]]
    return [[ep, values] for ep, values in attach(None, choice, None, asked)]


def cpp_options(bundle: Path, provider: str, precision: str = "", device: int = 0) -> Any:
    return json.loads(program("provider_options", bundle, provider, precision, device, 2))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", BUNDLES)
def test_options_are_those_of_python(name: str, provider: str) -> None:
    bundle = Bundle.open(BUNDLES[name]())
    expected = {
        graph: python_options(bundle, provider, graph, threads=2)
        for graph in bundle.manifest.graphs
    }
    assert cpp_options(bundle.path, provider) == expected


def test_a_second_step_graph_has_the_types_of_its_own(tmp_path: Path) -> None:
    """The manifest calls it late; only manifests are read here."""
    copy = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    path = "transformer/after.onnx"
    (copy / path).write_bytes(b"")

    def add(fields: dict[str, Any]) -> None:
        graph = {**fields["graphs"]["transformer"], "path": path, "precision": "fp16"}
        fields["late"] = {"t": 0.5, "graph": graph}
        fields["files"][path] = {"sha256": "0" * 64, "bytes": 0}

    edit(copy, add)
    bundle = Bundle.open(copy)
    actual = cpp_options(copy, "tensorrt")
    expected = python_options(bundle_after_switch(bundle), "tensorrt", "transformer")
    assert actual["transformer_after_switch"] == expected
    assert actual["transformer"] == python_options(bundle, "tensorrt", "transformer")
    assert "trt_fp16_enable" in expected[0][1] and "trt_fp16_enable" not in actual["transformer"]


def test_sizes_reach_from_one_image_and_branch_to_the_largest_batch() -> None:
    """So that the two languages do not agree on nothing."""
    options = dict(cpp_options(free_bundle(), "tensorrt")["transformer"])
    least, most = (
        options["TensorrtExecutionProvider"][f"trt_profile_{kind}_shapes"].split(",")
        for kind in ("min", "max")
    )
    assert "x:1x3x16x16" in least and "x:16x3x64x64" in most
    assert [shape.split(":")[0] for shape in least] == [shape.split(":")[0] for shape in most]
    encoder = cpp_options(tiny_bundle(), "tensorrt-rtx")["text_encoder"]
    assert encoder == [
        [
            "NvTensorRTRTXExecutionProvider",
            {
                "nv_profile_min_shapes": "attention_mask:1x1,input_ids:1x1",
                "nv_profile_opt_shapes": "attention_mask:2x64,input_ids:2x64",
                "nv_profile_max_shapes": "attention_mask:48x512,input_ids:48x512",
            },
        ]
    ]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8", "int8"])
def test_tensorrt_may_compute_in_the_precision_of_each_graph(
    tmp_path: Path, precision: str
) -> None:
    copy = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    edit(copy, lambda fields: fields["graphs"]["transformer"].update(precision=precision))
    bundle = Bundle.open(copy)
    actual = cpp_options(copy, "tensorrt", device=3)
    for graph in bundle.manifest.graphs:
        assert actual[graph] == python_options(bundle, "tensorrt", graph, device=3)
    flags = {name for name in actual["transformer"][0][1] if name.endswith("_enable")}
    assert flags == ({f"trt_{precision}_enable"} if precision != "fp8" else set())


@pytest.mark.parametrize(
    ("provider", "precision", "settings"),
    [("cuda", "tf32", {"tf32": True}), ("cuda", "fp32", {}), ("openvino", "bf16", {}),
     ("openvino", "fp32", {})],
)  # fmt: skip
def test_precisions_that_are_asked_for(
    provider: str, precision: str, settings: dict[str, Any]
) -> None:
    if provider == "openvino":
        settings = {"precision": precision, "threads": 2}
    bundle = Bundle.open(tiny_bundle())
    expected = python_options(bundle, provider, "transformer", device=1, **settings)
    assert cpp_options(tiny_bundle(), provider, precision, 1)["transformer"] == expected
