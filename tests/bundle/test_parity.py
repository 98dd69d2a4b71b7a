"""Parity tables: bundles of one checkpoint side by side, and measured again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.bundle.parity import (
    parity_levels,
    parity_lines,
    require_within_bounds,
    step_check,
)
from minit2i_deploy.errors import UsageError, VerificationError
from tests.helpers.bundles import draft, write_bundle
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

NAMES = ["text_encoder", "transformer", "transformer@t=0.5", "trajectory"]


def bundle_of(
    folder: Path, precision: str = "fp32", measured: float = 1e-6, **provenance: str
) -> Bundle:
    write_bundle(folder)
    start = draft()
    graphs = dict(start.graphs)
    graphs["transformer"] = dataclasses.replace(graphs["transformer"], precision=precision)
    checks = tuple(
        Check(name=name, measured=measured, bound=1e-5, unit="relative", where="a to b")
        for name in NAMES
    )
    origin = dataclasses.replace(start.provenance, **provenance)
    write_manifest(
        folder, dataclasses.replace(start, graphs=graphs, checks=checks, provenance=origin)
    )
    return Bundle.open(folder)


def test_levels_are_sorted_and_missing_checks_are_dashes(tmp_path: Path) -> None:
    coarse = bundle_of(tmp_path / "coarse", "bf16")
    fine = bundle_of(tmp_path / "fine")
    checks = (coarse.manifest.checks[:1], fine.manifest.checks)
    levels = parity_levels((coarse, fine), checks)
    assert [level.precision for level in levels] == ["fp32", "bf16"]
    lines = parity_lines(levels)
    assert [line[0] for line in lines] == NAMES
    assert lines[0] == ("text_encoder", "1.00e-06", "1e-05", "1.00e-06", "1e-05")
    assert lines[2] == ("transformer@t=0.5", "1.00e-06", "1e-05", "-", "-")


def test_a_step_is_named_by_its_time() -> None:
    # 0.2 of euler-20 is 4 / 20, which is not the float 0.2 in every grid.
    assert step_check("transformer", 0.1 + 0.1) == "transformer@t=0.2"
    assert step_check("transformer", 0.0) == "transformer@t=0"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"precision": "fp16", "checkpoint_sha256": "cd" * 32}, r"cdcdcdcd\.\. but .* abababab"),
        ({"precision": "fp16", "lora_sha256": "cd" * 32}, "compare bundles of one checkpoint"),
        ({}, "are both fp32; give one bundle of each precision"),
    ],
)
def test_bundles_that_cannot_be_compared(
    other: dict[str, str], message: str, tmp_path: Path
) -> None:
    bundles = (bundle_of(tmp_path / "a"), bundle_of(tmp_path / "b", **other))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        parity_levels(bundles, [bundle.manifest.checks for bundle in bundles])


@pytest.mark.parametrize("measured", [2e-5, float("nan")])
def test_a_check_that_exceeds_its_bound_is_refused(measured: float, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "a")
    bad = dataclasses.replace(bundle.manifest.checks[2], measured=measured)
    with pytest.raises(VerificationError, match=r"fp32 transformer@t=0\.5 is .* at most 1e-05"):
        require_within_bounds(parity_levels((bundle,), ((*bundle.manifest.checks[:2], bad),)))
    with pytest.raises(VerificationError, match="no measured checks; measure them with"):
        require_within_bounds(parity_levels((bundle,), ((),)))


def test_the_command_shows_what_export_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = bundle_of(tmp_path / "a"), bundle_of(tmp_path / "b", "fp16", 2e-5)
    done = run(capsys, "verify", first.path, "--parity")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["to", "torch", "fp32", "fp32", "bound"]
    assert [line[0] for line in lines[1:5]] == NAMES
    over = run(capsys, "verify", first.path, "--parity", "--with", second.path, "--json")
    assert (over.code, "fp16 text_encoder is 2e-05" in over.error) == (1, True)
    values = json.loads(over.out)
    assert values["bundles"] == {"fp32": str(first.path), "fp16": str(second.path)}
    assert [check["measured"] for check in values["checks"]["fp16"]] == [2e-5] * 4


def test_the_command_hashes_every_rung(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = bundle_of(tmp_path / "a"), bundle_of(tmp_path / "b", "fp16")
    path = second.path / "transformer" / "model.onnx.data"
    path.write_bytes(bytes(1024))
    done = run(capsys, "verify", first.path, "--parity", "--with", second.path)
    assert (done.code, "transformer/model.onnx.data: sha256" in done.error) == (1, True)


def test_other_bundles_require_the_parity_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "verify", tmp_path, "--with", "b")
    assert (done.code, done.error) == (2, "--with requires --parity")


def test_a_real_ladder_is_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = pytest.importorskip("minit2i_deploy.export")
    half = export.export_bundle(
        hub_folder(),
        tmp_path / "half",
        export.ExportOptions(text_encoder=text_folder(), precision="bf16"),
    )
    shutil.copytree(tiny_bundle(), tmp_path / "full")
    done = run(
        capsys, "verify", tmp_path / "full", "--parity", "--with", half.path, "--json",
        "--checkpoint", hub_folder(), "--text-encoder", text_folder(),
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    rungs = {
        precision: {check["name"]: check["measured"] for check in checks}
        for precision, checks in json.loads(done.out)["checks"].items()
    }
    assert list(rungs) == ["fp32", "bf16"]
    steps = [name for name in rungs["fp32"] if "@t=" in name]
    assert steps == [f"transformer@t={t}" for t in (0, 0.2, 0.5, 0.8, 0.95)]
    # bf16 keeps 8 bits of 24: no step may come out as fine as in fp32. Measured 1e-6 and 1.1e-2.
    assert all(rungs["bf16"][name] > 100 * rungs["fp32"][name] > 0 for name in steps)
