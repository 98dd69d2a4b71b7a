"""Ready bundles of the shipped models: the exported bytes, made without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.weight_replacement import network_tensors, stored_tensors
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.cli.support.options import shared_arguments
from minit2i_deploy.demo.ready import READY, pack_bundle, ready_bundle, shipped_checkpoint
from minit2i_deploy.demo.shipped import ASSETS, shipped_model
from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.export import ExportOptions, export_bundle
from tests.helpers.cli_runs import run

# What depends on the machine and the tools that exported, and not on the model.
MEASURED = {"checks", "provenance", "manifest_sha256"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("name", "model"), READY.items())
def test_a_ready_bundle_holds_the_shipped_weights(name: str, model: str, cache: Path) -> None:
    bundle = Bundle.open(ready_bundle(name, cache))
    bundle.verify()
    shipped = load_checkpoint(ASSETS / model).tensors
    stored = network_tensors(bundle)
    assert set(stored) == set(shipped)
    assert all(np.array_equal(stored[key], shipped[key]) for key in shipped)


@pytest.mark.parametrize(("name", "model"), READY.items())
def test_a_ready_bundle_is_what_an_export_writes_today(
    name: str, model: str, cache: Path, tmp_path: Path
) -> None:
    """A failure here means: run scripts/pack_demo_bundles.py."""
    ready = ready_bundle(name, cache)
    made = export_bundle(
        ASSETS / model, tmp_path / "b", ExportOptions(text_encoder=shipped_model().text_encoder)
    ).path
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(ready) for path in ready.rglob("*") if path.is_file())
    for file in files:
        if file.name == "manifest.json":
            fields = [json.loads((folder / file).read_bytes()) for folder in (ready, made)]
            first, second = ({k: v for k, v in f.items() if k not in MEASURED} for f in fields)
            assert first == second
        else:
            assert (ready / file).read_bytes() == (made / file).read_bytes(), file


def test_a_second_use_reads_what_is_there(cache: Path) -> None:
    folder = ready_bundle("demo", cache)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert ready_bundle("demo", cache) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_an_incomplete_folder_is_written_again(tmp_path: Path) -> None:
    folder = ready_bundle("demo", tmp_path)
    data = folder / "transformer" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    assert ready_bundle("demo", tmp_path) == folder
    Bundle.open(folder).verify()


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of demo, demo-student, got 'other'"):
        ready_bundle("other", tmp_path)


def test_a_cache_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written"):
        ready_bundle("demo", tmp_path / "cache")


def test_packing_is_reproducible_and_refuses_other_weights(cache: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(ready_bundle("demo", cache))
    for file in ("a.zip", "b.zip"):
        pack_bundle(bundle, "demo", tmp_path / file)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert packed.namelist() == zipfile.ZipFile(ASSETS / "bundles" / "demo.zip").namelist()
    with pytest.raises((BundleError, KeyError)):
        pack_bundle(bundle, "demo-student", tmp_path / "c.zip")
    assert not (tmp_path / "c.zip").exists()


def test_a_process_without_torch_makes_it(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from minit2i_deploy.demo.ready import ready_bundle\n"
        "print(ready_bundle('demo-student', Path(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(done.stdout.strip())
    assert all(stored_tensors(bundle.data_path(graph)) for graph in bundle.manifest.graphs)


def test_the_command_line_knows_the_names() -> None:
    assert set(shared_arguments.READY_BUNDLES) == set(READY)


def test_commands_take_the_name_of_a_ready_bundle(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    image = run(capsys, "generate", "demo-student", "a red circle", "-o", "a.png")
    assert (image.code, Path("a.png").is_file()) == (0, True), image.error
    (folder,) = (tmp_path / "cache" / "minit2i-deploy").iterdir()
    assert run(capsys, "inspect", "demo-student").out == run(capsys, "inspect", folder).out
    # A bundle of one's own under that name comes first.
    shutil.copytree(folder, "demo")
    assert str(tmp_path / "demo") in run(capsys, "inspect", str(tmp_path / "demo")).out
    assert "mean-flow-4" in run(capsys, "inspect", "demo").out
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.png"))
    refused = run(capsys, "inspect", "demo-student")
    assert (refused.code, "cannot be written" in refused.error) == (2, True)


def test_the_demo_runs_without_an_export(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run(capsys, "demo", "--output", tmp_path / "d", "--json")
    assert done.code == 0, done.error
    runs = json.loads(done.out)["runs"]
    assert [one["score"]["overall"]["total"] for one in runs] == [6, 6, 6]
    for name in ("bundle", "student"):
        Bundle.open(tmp_path / "d" / name).verify()


def test_a_ready_name_is_its_checkpoint_where_one_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, folder in READY.items():
        path = Path(shared_arguments.checkpoint_path(name))
        assert (path.name, (path / "checkpoint.json").is_file()) == (folder, True)
    assert shared_arguments.checkpoint_path("elsewhere") == "elsewhere"
    (tmp_path / "demo").mkdir()
    assert shared_arguments.checkpoint_path("demo") == "demo"
    with pytest.raises(UsageError, match="expected one of demo, demo-student, got 'other'"):
        shipped_checkpoint("other")
