"""The two names of a data file: of the text encoder now, and of every graph in older bundles."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import minit2i_deploy as m
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import CHECKSUM_KEY, add_checksum
from minit2i_deploy.bundle.names import data_beside
from tests.helpers.tiny_bundle import tiny_bundle

NEW, OLD = "text_encoder/model.onnx_data", "text_encoder/model.onnx.data"


def with_old_name(source: Path, target: Path) -> Path:
    """A copy of a bundle whose text encoder's data file is named as before."""
    shutil.copytree(source, target)
    (target / NEW).rename(target / OLD)
    graph = target / "text_encoder" / "model.onnx"
    # Both names have the same length, so no other byte of the graph changes.
    graph.write_bytes(graph.read_bytes().replace(b"model.onnx_data", b"model.onnx.data"))
    fields = json.loads((target / "manifest.json").read_bytes())
    del fields[CHECKSUM_KEY]
    fields["files"][OLD] = fields["files"].pop(NEW)
    sha256 = hashlib.sha256(graph.read_bytes()).hexdigest()
    fields["files"]["text_encoder/model.onnx"]["sha256"] = sha256
    (target / "manifest.json").write_bytes(add_checksum(fields))
    return target


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_bundle_with_the_old_name_is_read(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    values = []
    for folder in (tiny_bundle(), with_old_name(tiny_bundle(), tmp_path / "old")):
        bundle = Bundle.open(folder)
        bundle.verify()
        with m.open_runtime(bundle, name) as runtime:
            values.append(m.embed(bundle, runtime, ["red"]).values)
    assert np.array_equal(*values)


def test_the_name_is_the_manifests(tmp_path: Path) -> None:
    new = Bundle.open(tiny_bundle())
    old = Bundle.open(with_old_name(new.path, tmp_path / "old"))
    assert (new.data_path("text_encoder"), old.data_path("text_encoder")) == (
        new.path / NEW,
        old.path / OLD,
    )
    for bundle in (new, old):
        assert bundle.data_path("transformer") == bundle.path / "transformer/model.onnx.data"
        for graph in bundle.manifest.graphs:
            assert data_beside(bundle.graph_path(graph)) == bundle.data_path(graph)
