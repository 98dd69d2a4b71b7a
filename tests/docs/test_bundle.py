"""The readers take the examples in docs/reference/bundle.md as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.checkpoint_forms import CONFIG


def test_the_example_manifest_is_whole_and_sealed(repository: Path) -> None:
    path = repository / "docs" / "reference" / "bundle-example.json"
    manifest = Manifest.from_bytes(path.read_bytes(), str(path))
    assert manifest.to_bytes() == path.read_bytes()
    assert manifest.model == CONFIG
    page = path.with_name("bundle.md").read_text("utf-8")
    assert "(bundle-example.json)" in page


def test_the_example_manifest_has_the_shape_that_export_writes(repository: Path) -> None:
    from tests.helpers.tiny_bundle import tiny_bundle

    path = repository / "docs" / "reference" / "bundle-example.json"
    shown = Manifest.from_bytes(path.read_bytes(), str(path))
    made = Bundle.open(tiny_bundle()).manifest
    assert shown.graphs == made.graphs
    assert shown.tables == made.tables
    assert list(shown.files) == list(made.files)
    assert [check.name for check in shown.checks] == [check.name for check in made.checks]


def test_the_example_table_is_what_the_solver_compiles_to(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "bundle.md").read_text("utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert Table.from_json(example) == solver_table("euler", steps=2, a_min=0.05)
    assert solver_table("euler", steps=2, a_min=0.05).to_json() == example
