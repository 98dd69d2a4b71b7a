"""Folders and files for other libraries, opened by the libraries themselves.

They cannot all be installed beside one another, nor beside export's. scripts/integration_venvs.sh
makes an interpreter for each; each runs one of the programs beside this file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli import main
from minit2i_deploy.demo.ready import ready_bundle, shipped_checkpoint
from minit2i_deploy.generate import generate
from minit2i_deploy.interchange.diffusers_folder import write_diffusers_folder
from minit2i_deploy.interchange.embed_folder import write_embed_folder
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.text.embed import embed
from tests.helpers.serving_http import running_server
from tests.helpers.serving_runs import real_runtime

pytestmark = pytest.mark.integrations

TEXTS = ["a red circle", "two blue squares", "", "a green triangle to the left of a yellow star"]
PROGRAMS = Path(__file__).parent / "programs"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(ready_bundle("demo", tmp_path_factory.mktemp("x")))


@pytest.fixture
def run(request: pytest.FixtureRequest, repository: Path) -> Run:
    """Run a program by the interpreter that has its library; returns the last line it prints."""
    folder = Path(request.config.getoption("--libraries"))

    def run_program(name: str, *arguments: object) -> str:
        python = folder / name / "bin" / "python"
        assert python.is_file(), f"{python} is missing; run scripts/integration_venvs.sh {folder}"
        program = PROGRAMS / f"with_{name.replace('-', '_')}.py"
        command = [str(python), str(program), *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(repository)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    return run_program


@pytest.mark.parametrize("library", ["fastembed", "sentence-transformers", "txtai"])
def test_vectors_are_ours(library: str, bundle: Bundle, run: Run, tmp_path: Path) -> None:
    folder = write_embed_folder(bundle, tmp_path / "encoder")
    with open_runtime(bundle, "onnxruntime") as runtime:
        expected = embed(bundle, runtime, TEXTS).pooled()
    run(library, folder, json.dumps(TEXTS), tmp_path / "vectors.npy")
    # Measured 0.0, 3.0e-8 and 3.0e-8.
    assert np.abs(np.load(tmp_path / "vectors.npy") - expected).max() <= 1e-6


def test_langchain_embeds_over_http(bundle: Bundle, run: Run, tmp_path: Path) -> None:
    """With the one setting that the serving guide names."""
    with open_runtime(bundle, "onnxruntime") as runtime:
        expected = embed(bundle, runtime, TEXTS).pooled()
    with running_server(real_runtime) as server:
        run("langchain", server.address, json.dumps(TEXTS), tmp_path / "vectors.npy")
    # Measured 0.0.
    assert np.abs(np.load(tmp_path / "vectors.npy") - expected).max() <= 1e-6


def test_diffusers_generates_the_same_bytes(bundle: Bundle, run: Run, tmp_path: Path) -> None:
    with open_runtime(bundle, "onnxruntime") as runtime:
        expected = generate(bundle, runtime, TEXTS[0], seed=7).images[0]
    folder = write_diffusers_folder(bundle, tmp_path / "pipeline")
    run("diffusers", folder, TEXTS[0], tmp_path / "image.npy")
    assert np.array_equal(np.load(tmp_path / "image.npy"), np.asarray(expected))


def test_the_guides_gguf_file_reads_back(
    run: Run, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (repository / "docs" / "guides" / "integrations.md").read_text()
    section = text.partition("## stable-diffusion.cpp")[2]
    release, gguf = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    source = repr(str(shipped_checkpoint("demo")))
    monkeypatch.chdir(tmp_path)
    release = release.replace('"run/step-020000", lora="my-adapter"', source)
    exec(compile(release, "guide", "exec"), {})
    errors = json.loads(run("gguf", gguf, tmp_path))
    # Measured 0.0044: half a step of 1/127 is 0.0039, and the scale is float16.
    assert errors["F32"] == 0 and 0 < errors["Q8_0"] <= 0.005


def test_ray_survives_the_loss_of_a_node(bundle: Bundle, run: Run, tmp_path: Path) -> None:
    texts, prompts, out = tmp_path / "t.txt", tmp_path / "p.txt", tmp_path / "out"
    texts.write_text(
        "".join(f"{TEXTS[number % 4] or 'a circle'} {number}\n" for number in range(2000))
    )
    prompts.write_text("a red circle\na blue square\ntwo green circles\n")
    report = json.loads(run("ray", bundle.path, texts, prompts, out))
    assert report == {
        "blocks": 8, "rows": 8, "texts": 2000, "complete": True, "nodes": 1, "images": 3,
    }  # fmt: skip
    one = tmp_path / "one.parquet"
    embed_command = ("embed", bundle.path, "-i", texts, "-o", one, "--shard", "0/1")
    options = ("--window", 256, "--pooled-only", "--threads", 1)
    assert main([str(word) for word in (*embed_command, *options)]) == 0
    assert files_of(tmp_path / "one.parquet.shards") == files_of(out / "vectors.parquet.shards")
    image_command = ("eval", "paint", "folder", bundle.path, "--prompts", prompts, "-o")
    options = (tmp_path / "images", "--preset", "fast", "--block", 2)
    assert main([str(word) for word in (*image_command, *options)]) == 0
    assert files_of(tmp_path / "images") == files_of(out / "images")


def files_of(folder: Path) -> dict[str, bytes]:
    """Name below the folder -> content of every file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
