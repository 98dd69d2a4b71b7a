"""The programs of examples/ run as they are, with the model that ships."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.solvers import methods


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ready_bundle("demo", tmp_path_factory.mktemp("cache"))


def example(repository: Path, name: str) -> Any:
    """The ``main`` of one example."""
    return runpy.run_path(str(repository / "examples" / name))["main"]


def test_captions_nearest_to_a_query(
    repository: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example(repository, "embed_in_an_app.py")(bundle, "a red square")
    lines = capsys.readouterr().out.splitlines()
    similarities = [float(line.split()[0]) for line in lines[1:]]
    assert len(similarities) == 3
    assert 1 >= similarities[0] >= similarities[1] >= similarities[2] > 0


def test_previews(repository: Path, bundle: Path, tmp_path: Path) -> None:
    example(repository, "previews.py")(bundle, tmp_path / "previews")
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["final.png", "row-00.png", "row-05.png", "row-10.png", "row-15.png"]


def test_registering_a_solver(
    repository: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The example registers its solver; other tests list those of the package.
    monkeypatch.setattr(methods, "SOLVERS", dict(methods.SOLVERS))
    example(repository, "own_solver.py")(bundle)
    lines = re.findall(r"^(\S+) +19 rows, ([\d.]+) from", capsys.readouterr().out, re.MULTILINE)
    errors = {name: float(error) for name, error in lines}
    assert len(errors) == 3
    # A second-order method is nearer to the fine grid than Euler.
    assert errors["midpoint-10"] < errors["euler-19"]


def test_quantize_and_compare(
    repository: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    example(repository, "quantize_and_compare.py")(bundle, tmp_path / "int8")
    out = capsys.readouterr().out
    decibels = [float(value) for value in re.findall(r"^ *([\d.]+) dB", out, re.MULTILINE)]
    assert len(decibels) == 3
    assert min(decibels) > 25
    assert re.search(r"MB in float32, [\d.]+ MB in INT8", out)


@pytest.mark.slow
def test_a_lora_from_training_to_an_image(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    example(repository, "lora.py")(tmp_path, 2)
    assert (tmp_path / "cyan.png").is_file()


def test_every_example_is_listed_and_tested(repository: Path) -> None:
    listed = set(re.findall(r"\]\((\w+\.py)\)", (repository / "examples/README.md").read_text()))
    assert listed == {path.name for path in (repository / "examples").glob("*.py")}
    assert all(f'"{name}"' in Path(__file__).read_text("utf-8") for name in listed)
