"""The pipeline's folder and its layout; tests/integrations opens it in diffusers."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.interchange.diffusers_folder import PIPELINE_FILE, write_diffusers_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("x") / "pipeline"
    return write_diffusers_folder(Bundle.open(tiny_bundle()), out)


def test_index_names_classes_that_exist(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    for parent, (module, name) in (
        (folder, index["_class_name"]),
        (folder / "bundle", index["bundle"]),
    ):
        tree = ast.parse((parent / f"{module}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_the_bundle_inside_is_complete_and_linked(folder: Path) -> None:
    inside = Bundle.open(folder / "bundle")
    inside.verify()
    assert inside.digest == Bundle.open(tiny_bundle()).digest
    graph = "transformer/model.onnx"
    assert (folder / "bundle" / graph).samefile(tiny_bundle() / graph)


def test_the_command_and_what_it_does_not_replace(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "diffusers-folder", tiny_bundle(), tmp_path / "x").code == 0
    assert (tmp_path / "x" / PIPELINE_FILE).is_file()
    with pytest.raises(UsageError, match="was not written by minit2i diffusers-folder"):
        write_diffusers_folder(Bundle.open(tiny_bundle()), tmp_path, overwrite=True)
    assert write_diffusers_folder(Bundle.open(tiny_bundle()), folder, overwrite=True) == folder
