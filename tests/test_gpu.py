"""What only a GPU can show, on the golden network: pytest -m gpu."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.export.tensorrt import BuildOptions, build_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.solvers.table import solver_table
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.gpu

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
LIBRARIES = [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
# fp32 kernels of another library; no GPU has measured it yet.
MAX_ERROR = 5e-3
SETTINGS: dict[str, Any] = {"seed": 4, "guidance": 2.5}


@pytest.fixture(params=LIBRARIES)
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Bundle]:
    """A copy of the tiny bundle with engines that can be refitted, built for this GPU."""
    shutil.copytree(tiny_bundle(), tmp_path / "b", ignore=shutil.ignore_patterns("engines"))
    bundle = Bundle.open(tmp_path / "b")
    flags = BuildFlags(refit=True, allow_unfused=True)
    library = str(request.param).replace("-", "_")
    try:
        # TensorRT-RTX replaces weights in engines for one GPU only, never in portable ones.
        targets = ("native",) if library == "tensorrt_rtx" else ()
        build_bundle(
            bundle, BuildOptions(library=library, targets=targets, max_batch=2, flags=flags)
        )
    except Minit2iError as error:
        # TensorRT-RTX has no target for H100 and H200; the rest of this file is then not for it.
        assert "sm90" in str(error)
        pytest.xfail(str(error))
    return str(request.param), bundle


def test_images_and_graphs(engines: tuple[str, Bundle]) -> None:
    name, bundle = engines
    with OnnxRuntime(bundle, threads=2) as reference:
        tables = [solver_table("euler", steps=9, interval=(0.2, 0.8)), solver_table("sde", steps=4)]
        expected = [generate(bundle, reference, "red", table=t, **SETTINGS).x for t in tables]
    for graphs in ("trajectory", "step", "none"):
        with open_runtime(bundle, name, graphs=graphs) as runtime:
            for table, right in zip(tables, expected, strict=True):
                results = [
                    generate(bundle, runtime, "red", table=table, **SETTINGS).x for _ in range(3)
                ]
                assert np.abs(results[0] - right).max() <= MAX_ERROR * np.abs(right).max()
                assert np.array_equal(results[1], results[2])
                assert runtime.graph_refusals == {}  # type: ignore[attr-defined]


def test_refit_and_back(
    engines: tuple[str, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, bundle = engines
    write_adapter(tmp_path / "lora", lora_alpha=0.05)
    table = solver_table("euler", steps=3)

    def image_bytes(path: Path) -> np.ndarray:
        opened = Bundle.open(path)
        with open_runtime(opened, name) as runtime:
            return generate(opened, runtime, "red", table=table, **SETTINGS).x

    steps = (
        ("there", bundle.path, ["--lora", tmp_path / "lora"]),
        ("back", tmp_path / "there", ["--checkpoint", hub_folder()]),
    )
    for out, source, weights in steps:
        done = run(capsys, "refit", source, *weights, "-o", tmp_path / out, "--engine", name,
                   "--json")  # fmt: skip
        assert done.code == 0, done.err
        assert len(json.loads(done.out)["engines"]) == 2
    assert not np.array_equal(image_bytes(tmp_path / "there"), image_bytes(bundle.path))
    assert np.array_equal(image_bytes(tmp_path / "back"), image_bytes(bundle.path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_step_on_the_card() -> None:
    bundle = Bundle.open(tiny_bundle())
    table = solver_table("euler", steps=6, interval=(0.2, 0.8))
    results = []
    forms = [(compiled, one) for compiled in (False, True) for one in (False, True)]
    for compiled, one in forms:
        options = {"compile": compiled, "one_graph": one}
        with open_runtime(bundle, "torch", device="cuda:0", **options) as runtime:
            images = [generate(bundle, runtime, "red", table=table, **SETTINGS).x for _ in "123"]
            assert all(np.array_equal(images[0], image) for image in images)
            results.append(images[0])
    for result in results[1:]:
        assert np.abs(result - results[0]).max() <= MAX_ERROR * np.abs(results[0]).max()
