"""The ComfyUI nodes over a stand-in of its API: what they declare, and the images they make."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from tests.helpers.fakes import comfy_api
from tests.helpers.tiny_bundle import tiny_bundle

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package as ComfyUI imports it: from its folder, under a name of its own."""
    for name, module in comfy_api.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(comfy_api.ComfyAPISync, "reports", [])
    monkeypatch.setattr(comfy_api.ComfyAPISync, "cancel_after", None)
    spec = importlib.util.spec_from_file_location(
        "minit2i_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "minit2i_nodes", module)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["minit2i_nodes.nodes"]


def nodes(package: ModuleType) -> dict[str, Any]:
    extension = asyncio.run(package.comfy_entrypoint())
    found = asyncio.run(extension.get_node_list())
    return {node.define_schema().node_id: node for node in found}


def sampled(package: ModuleType, **changes: Any) -> np.ndarray:
    by_id = nodes(package)
    (opened,) = by_id["MiniT2ILoadBundle"].execute(str(tiny_bundle()), "onnxruntime").args
    (prompt,) = by_id["MiniT2IEncodePrompt"].execute(opened, "a red circle", "").args
    inputs = {
        "seed": 7, "solver": "euler", "steps": 6, "guidance": 3.0, "images": 2, "preview": True,
        "strength": 0.5,
    }  # fmt: skip
    (images,) = by_id["MiniT2ISample"].execute(opened, prompt, **(inputs | changes)).args
    return np.asarray(images)


def test_inputs_are_the_arguments(package: ModuleType) -> None:
    for node in nodes(package).values():
        schema = node.define_schema()
        names = [socket.name for socket in schema.inputs]
        assert names == list(inspect.signature(node.execute).parameters)
        assert schema.category == "MiniT2I" and schema.outputs


def test_images_are_those_of_generate(package: ModuleType) -> None:
    images = sampled(package)
    bundle = Bundle.open(tiny_bundle())
    with open_runtime(bundle, "onnxruntime") as runtime:
        table = bundle.compile_table("euler", 6)
        expected = generate(
            bundle, runtime, ["a red circle"] * 2, seed=[7, 8], table=table, guidance=3.0
        ).x
    assert images.shape == (2, 32, 32, 3) and images.dtype == np.float32
    expected = np.clip((expected.transpose(0, 2, 3, 1) + 1) / 2, 0, 1)
    assert np.array_equal(images, expected)
    reports = comfy_api.ComfyAPISync.reports
    assert [report[:2] for report in reports] == [(i + 1, 6) for i in range(6)]
    assert all(report[2].size == (32, 32) for report in reports)


def test_preset_and_no_preview(package: ModuleType) -> None:
    sampled(package, solver="preset", guidance=0.0, images=1, preview=False)
    reports = comfy_api.ComfyAPISync.reports
    assert len(reports) == len(Bundle.open(tiny_bundle()).preset()[0])
    assert all(report[2] is None for report in reports)


def test_a_masked_part_is_new_and_the_rest_stays(package: ModuleType) -> None:
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.random((1, 32, 32, 3), np.float32))
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    images = sampled(package, image=image, mask=mask)
    assert np.abs(images[:, :, :16] - image.numpy()[:, :, :16]).max() <= 1e-6
    assert np.abs(images[:, :, 16:] - image.numpy()[:, :, 16:]).max() > 0.1
    # Without a mask, strength says how much is new.
    assert np.abs(sampled(package, image=image, strength=0.0) - image.numpy()).max() <= 1 / 255
    with pytest.raises(ValueError, match="a mask needs an image"):
        sampled(package, mask=mask)


def test_cancel_leaves_the_runtime_usable(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(comfy_api.ComfyAPISync, "cancel_after", 2)
        with pytest.raises(comfy_api.InterruptProcessingException):
            sampled(package)
    assert len(comfy_api.ComfyAPISync.reports) == 2
    assert sampled(package).shape == (2, 32, 32, 3)


def test_a_path_without_a_bundle_is_said_before_the_run(
    package: ModuleType, tmp_path: Path
) -> None:
    load = nodes(package)["MiniT2ILoadBundle"]
    assert load.validate_inputs(str(tiny_bundle()), "onnxruntime") is True
    message = load.validate_inputs(str(tmp_path), "onnxruntime")
    assert str(tmp_path) in message and "\n" not in message


def test_the_example_fits_the_nodes(package: ModuleType) -> None:
    workflow = json.loads((FOLDER / "example_workflows" / "minit2i.json").read_text())
    by_id = nodes(package)
    for node in workflow["nodes"]:
        if node["type"] not in by_id:
            assert node["type"] == "PreviewImage"
            continue
        inputs = by_id[node["type"]].define_schema().inputs
        is_link = [s.kind.startswith("MINIT2I") or s.kind in ("IMAGE", "MASK") for s in inputs]
        linked = [s.name for s, linked in zip(inputs, is_link, strict=True) if linked]
        assert [entry["name"] for entry in node["inputs"]] == linked
        # A seed has a second widget: what happens to it after a run.
        extra = sum(socket.options.get("control_after_generate", False) for socket in inputs)
        assert len(node["widgets_values"]) == len(inputs) - len(linked) + extra


def test_rules_of_the_registry() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert "comfyui" not in project["project"]["name"].lower()
    assert {"PublisherId", "DisplayName", "requires-comfyui"} <= project["tool"]["comfy"].keys()
    assert project["project"]["license"] and re.fullmatch(
        r"\d+\.\d+\.\d+", project["project"]["version"]
    )
    # A publisher signs with an identity and a repository of its own; these are not ours to name.
    assert project["tool"]["comfy"]["PublisherId"] == ""
    source = (FOLDER / "nodes.py").read_text() + (FOLDER / "__init__.py").read_text()
    assert not {"eval(", "exec(", "subprocess"} & set(source.split())
