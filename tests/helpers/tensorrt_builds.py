"""Engines by TensorRT-RTX, which builds without a GPU, shared by the tests of a process."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.export.tensorrt import (
    BuildLibrary,
    BuildOptions,
    BuildResult,
    Outcome,
    build_bundle,
    build_engine,
)
from tests.helpers.engine_bundles import FORMS, demo_bundle

TARGETS = ("sm120", "sm86", "sm89")
OPTIONS = BuildOptions(library="tensorrt_rtx", targets=TARGETS, max_batch=2)
HALF = FORMS[0]
# The smallest graph, for tests that any graph would do for.
ADAPTER = dataclasses.replace(OPTIONS, graphs=("text_adapter",))


@functools.cache
def outcomes(form: tuple[str, int, int]) -> tuple[Outcome, ...]:
    return build_bundle(demo_bundle(*form), OPTIONS)


def copy_of(form: tuple[str, int, int], folder: Path, *, engines: bool = False) -> Bundle:
    """A copy that may be written into, with or without what ``outcomes`` built."""
    if engines:
        outcomes(form)
    ignored = None if engines else shutil.ignore_patterns("engines")
    shutil.copytree(demo_bundle(*form).path, folder, ignore=ignored)
    return Bundle.open(folder)


def build_graph(graph: Path, precision: str, target: str, **flags: bool) -> BuildResult:
    return build_engine(
        BuildLibrary.open("tensorrt_rtx"),
        graph,
        graph.with_suffix(".plan"),
        sizes={
            "n": (1, 1, 4),
            "batch": (1, 1, 1),
            "branches": (1, 2, 2),
            "sequences": (1, 2, 2),
        },
        targets=(target,),
        flags=BuildFlags(**flags),
        precision=precision,
    )


def save_graph(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], data: list[Any]
) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, data)
    imports = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def attention_graph(path: Path, element: int) -> Path:
    """One Attention of 2 heads of 64 over 32 tokens."""
    info = [
        helper.make_tensor_value_info(name, element, ["n", 2, 32, 64]) for name in ("q", "k", "v")
    ]
    out = helper.make_tensor_value_info("y", element, ["n", 2, 32, 64])
    return save_graph(
        path, [helper.make_node("Attention", ["q", "k", "v"], ["y"])], info, [out], []
    )
