"""The wheel holds all that runs and nothing else."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

PARTS = ("minit2i_deploy", "training", "export", "runtimes")
BUILD_FILES = ("pyproject.toml", "setup.py", "LICENSE", "README.md")


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    # A copy, because setuptools builds in the source tree and picks up what an old build left.
    tree = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        shutil.copytree(
            repository / part,
            tree / part,
            ignore=shutil.ignore_patterns("__pycache__", "node_modules"),
        )
    for name in BUILD_FILES:
        shutil.copy(repository / name, tree / name)
    # Files in place of folders that must stay out, so that leaving them out is a choice.
    for stray in ("tests", "benchmarks"):
        (tree / stray).mkdir()
        (tree / stray / "__init__.py").touch()
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def _installed(repository: Path, pattern: str) -> set[str]:
    """Paths in the wheel that the files of that pattern in the checkout must have."""
    return {
        ("" if part == "minit2i_deploy" else "minit2i_deploy/")
        + path.relative_to(repository).as_posix()
        for part in PARTS
        for path in (repository / part).glob(pattern)
        if path.is_file()
    }


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile, repository: Path) -> None:
    modules = {name for name in wheel.namelist() if name.endswith(".py")}
    assert {f"minit2i_deploy/{part}/__init__.py" for part in PARTS[1:]} <= modules
    assert modules == _installed(repository, "**/*.py")


def test_the_demo_weights_are_in_the_wheel(wheel: zipfile.ZipFile, repository: Path) -> None:
    assets = _installed(repository, "demo/assets/**/*")
    assert any(name.endswith(".safetensors") for name in assets)
    assert assets <= set(wheel.namelist())


def test_recipes_and_the_typing_marker_are_in_the_wheel(
    wheel: zipfile.ZipFile, repository: Path
) -> None:
    recipes = _installed(repository, "recipes/*.yaml")
    assert recipes
    assert recipes | {"minit2i_deploy/py.typed"} <= set(wheel.namelist())


def test_the_javascript_module_and_its_page_are_in_the_wheel(
    wheel: zipfile.ZipFile, repository: Path
) -> None:
    files = _installed(repository, "web/src/**/*.js") | _installed(repository, "web/page/*")
    assert files | {"minit2i_deploy/runtimes/web/package.json"} <= set(wheel.namelist())
    assert len(files) > 30
    assert not any("/web/testing/" in name for name in wheel.namelist())


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"minit2i_deploy"}


def test_the_metadata_names_the_extras_and_the_command(
    wheel: zipfile.ZipFile, repository: Path
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    (folder,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert b"minit2i = minit2i_deploy.__main__:main" in wheel.read(f"{folder}/entry_points.txt")


def test_every_library_named_in_the_project_is_pinned(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    tested = ("cpu", "checkpoints", "export", "train", "eval", "serve", "dev")
    named = [*project["dependencies"]]
    for extra in tested:
        named += project["optional-dependencies"][extra]
    required = {line.partition(">=")[0].lower() for line in named if "[" not in line}
    lines = (repository / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    assert required <= pinned
