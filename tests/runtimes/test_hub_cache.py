"""A bundle in the hub's cache, where every file is a link, runs on every engine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import minit2i_deploy as m
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.runtimes.graph_files import graph_without_links
from tests.bundle.test_bundle import hub_cache
from tests.helpers.tiny_bundle import tiny_bundle

TABLE = m.solver_table("euler", steps=2)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_links_are_followed(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    images, embeddings = [], []
    for folder in (tiny_bundle(), hub_cache(tiny_bundle(), tmp_path)):
        bundle = Bundle.open(folder)
        with m.open_runtime(bundle, name) as runtime:
            embeddings.append(m.embed(bundle, runtime, ["red"]).values)
            images.append(m.generate(bundle, runtime, "red", table=TABLE).x)
    assert np.array_equal(*images) and np.array_equal(*embeddings)
    assert sorted(path.name for path in (tmp_path / "models--a--b").iterdir()) == [
        "blobs",
        "snapshots",
    ]


def test_doubles_are_hard_links_or_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub_cache(tiny_bundle(), tmp_path) / "transformer" / "model.onnx"
    data = Path(f"{path}.data")
    with graph_without_links(path) as plain:
        assert sorted(file.name for file in plain.parent.iterdir()) == [path.name, data.name]
        assert Path(f"{plain}.data").samefile(data) and not plain.is_symlink()

    def no_hard_links(source: object, target: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", no_hard_links)
    with graph_without_links(path) as plain:
        assert Path(f"{plain}.data").read_bytes() == data.read_bytes()
        assert not Path(f"{plain}.data").samefile(data)
    assert not plain.parent.exists()
    own = tiny_bundle() / "transformer" / "model.onnx"
    with graph_without_links(own) as plain:
        assert plain == own
