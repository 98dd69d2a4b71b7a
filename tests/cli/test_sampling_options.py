"""Which table --preset, --table, --solver and --steps give."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import Preset
from minit2i_deploy.cli.support.options.sampling_options import TableOptions, choose_table
from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.bundles import draft, write_files

CUSTOM = solver_table("euler", steps=6, grid=[0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
TABLES = {
    "multistep": solver_table("dpmpp2m", steps=8),
    "floor": solver_table("euler", steps=8, a_min=0.01),
    "shifted": solver_table("heun", steps=8, grid="shifted", shift=2.0, a_min=0.05),
    "interval": solver_table("ab2", steps=8, interval=(0.2, 0.8)),
    "clipped": adjust_guidance(solver_table("dpmpp2m", steps=8), clip=1.0, rescale=0.5),
    "free": CUSTOM,
    "foreign": dataclasses.replace(CUSTOM, name="foreign-1", meta={}),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """One preset for each of TABLES, named like it; the multistep solver's is the default."""
    write_files(tmp_path / "b")
    (tmp_path / "b" / "tables" / "euler-4.json").unlink()
    paths = {}
    for name, table in TABLES.items():
        paths[f"{name}-table"] = f"tables/{name}-table.json"
        renamed = dataclasses.replace(table, name=f"{name}-table")
        renamed.save(tmp_path / "b" / "tables" / f"{name}-table.json")
    presets = {name: Preset(table=f"{name}-table", guidance=2.5) for name in TABLES}
    manifest = dataclasses.replace(
        draft(), tables=paths, presets=presets, default_preset="multistep"
    )
    write_manifest(tmp_path / "b", manifest)
    return Bundle.open(tmp_path / "b")


def compiled(bundle: Bundle, **options: object) -> Table:
    values = {name: options.get(name) for name in ("preset", "table", "solver", "steps")}
    return choose_table(bundle, TableOptions(**values), None)[0]  # type: ignore[arg-type]


def test_steps_keep_the_solver_of_the_default_preset(bundle: Bundle) -> None:
    assert compiled(bundle, steps=20) == solver_table("dpmpp2m", steps=20)
    assert compiled(bundle).name == "multistep-table"


@pytest.mark.parametrize(
    ("preset", "table"),
    [
        ("multistep", solver_table("dpmpp2m", steps=3)),
        ("floor", solver_table("euler", steps=3, a_min=0.01)),
        ("shifted", solver_table("heun", steps=3, grid="shifted", shift=2.0, a_min=0.05)),
        ("clipped", adjust_guidance(solver_table("dpmpp2m", steps=3), clip=1.0, rescale=0.5)),
    ],
)
def test_steps_keep_the_settings_of_a_preset(preset: str, table: Table, bundle: Bundle) -> None:
    assert compiled(bundle, preset=preset, steps=3) == table


def test_steps_keep_the_guidance_interval(bundle: Bundle) -> None:
    actual = compiled(bundle, preset="interval", steps=5)
    assert (actual.rows == solver_table("ab2", steps=5, interval=(0.2, 0.8)).rows).all()


@pytest.mark.parametrize("preset", ["free", "foreign"])
def test_steps_of_a_table_without_a_solver_are_refused(preset: str, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="--steps requires --solver here"):
        compiled(bundle, preset=preset, steps=3)


def test_a_named_solver_takes_the_bundles_floor(bundle: Bundle) -> None:
    assert compiled(bundle, solver="euler", steps=3) == solver_table("euler", steps=3, a_min=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "floor", "table": "x"}, "--preset and --table are mutually exclusive"),
        ({"preset": "floor", "solver": "heun"}, "--preset and --solver are mutually exclusive"),
        ({"table": "x", "solver": "heun"}, "--table and --solver are mutually exclusive"),
        ({"table": "x", "steps": 3}, "--table and --steps are mutually exclusive"),
        ({"solver": "heun"}, "--solver heun requires --steps N"),
    ],
)
def test_what_excludes_one_another(
    options: dict[str, object], message: str, bundle: Bundle
) -> None:
    with pytest.raises(UsageError, match=message):
        compiled(bundle, **options)
