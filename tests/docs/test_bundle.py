"""The readers take the examples in docs/reference/bundle.md as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.checkpoint_forms import CONFIG


def test_the_example_manifest_is_complete(repository: Path) -> None:
    path = repository / "docs" / "reference" / "bundle-example.json"
    manifest = Manifest.from_bytes(path.read_bytes(), str(path))
    assert manifest.to_bytes() == path.read_bytes()
    assert manifest.model == CONFIG
    page = path.with_name("bundle.md").read_text("utf-8")
    assert "(bundle-example.json)" in page


def test_the_example_manifest_has_the_shape_that_export_writes(repository: Path) -> None:
    from tests.helpers.tiny_bundle import tiny_bundle

    path = repository / "docs" / "reference" / "bundle-example.json"
    example = Manifest.from_bytes(path.read_bytes(), str(path))
    exported = Bundle.open(tiny_bundle()).manifest
    assert example.graphs == exported.graphs
    assert example.tables == exported.tables
    assert list(example.files) == list(exported.files)
    assert [check.name for check in example.checks] == [check.name for check in exported.checks]


def test_the_example_table_is_what_the_solver_compiles_to(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "bundle.md").read_text("utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert Table.from_json(example) == solver_table("euler", steps=2, a_min=0.05)
    assert solver_table("euler", steps=2, a_min=0.05).to_json() == example
