"""Generating and embedding need the [cpu] extra and nothing more; ``--help`` needs nothing.

Each test runs in another process, in which every library outside that extra is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.embed import embed
from tests.helpers.tiny_bundle import tiny_bundle

ABSENT = [
    "beartype", "diffusers", "ml_dtypes", "msgpack", "onnx", "onnx_ir", "onnxscript", "optimum",
    "safetensors", "scipy", "sentencepiece", "tensorstore", "torch", "tqdm", "transformers", "yaml",
]  # fmt: skip
GUARD = f"""
import sys

ABSENT = {set(ABSENT)!r}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Refuse())
"""
REPORT = """
import json
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"absent": sorted(ABSENT & loaded), "loaded": sorted(loaded), **found}))
"""
SEED, STEPS = 7, 20


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


def run_alone(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = GUARD + textwrap.dedent(code) + REPORT
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["absent"] == []
    return report


def test_the_guard_refuses() -> None:
    done = run_alone("import minit2i_deploy.model\nfound = {}\n")
    assert done.returncode == 1
    assert "No module named 'torch'" in done.stderr


def test_python_needs_onnxruntime_only(bundle: Bundle, tmp_path: Path) -> None:
    code = f"""
        import minit2i_deploy as m

        bundle = m.Bundle.open(sys.argv[1])
        bundle.verify()
        table = m.solver_table("euler", steps={STEPS})
        with m.open_runtime(bundle, "onnxruntime", threads=1) as rt:
            result = m.generate(bundle, rt, "a red circle", seed={SEED}, table=table, guidance=2.5)
            emb = m.embed(bundle, rt, ["a red circle", "green"])
        import numpy as np

        np.savez(sys.argv[2], x=result.x, values=emb.values, mask=emb.mask)
        found = {{}}
    """
    report = report_of(run_alone(code, bundle.path, tmp_path / "out.npz"))
    assert {"onnxruntime", "numpy", "tokenizers", "PIL"} <= set(report["loaded"])
    # The full environment gives the same bits: nothing here depends on what else is installed.
    with OnnxRuntime(bundle, threads=1) as runtime, np.load(tmp_path / "out.npz") as result:
        table = solver_table("euler", steps=STEPS)
        prompt = "a red circle"
        x = generate(bundle, runtime, prompt, seed=SEED, table=table, guidance=2.5).x
        assert np.array_equal(result["x"], x)
        emb = embed(bundle, runtime, ["a red circle", "green"])
        assert np.array_equal(result["values"], emb.values)
        assert np.array_equal(result["mask"], emb.mask)


def test_the_command_line_needs_onnxruntime_only(bundle: Bundle, tmp_path: Path) -> None:
    code = """
        from minit2i_deploy.cli import main

        bundle, image, embeddings = sys.argv[1:]
        generated = main(["generate", bundle, "a red circle", "-o", image, "--solver", "heun",
                          "--steps", "5", "--threads", "1"])
        embedded = main(["embed", bundle, "a red circle", "-o", embeddings])
        checked = main(["inspect", bundle]), main(["verify", bundle])
        found = {"codes": [generated, embedded, *checked]}
    """
    paths = tmp_path / "image.png", tmp_path / "embeddings.npz"
    assert report_of(run_alone(code, bundle.path, *paths))["codes"] == [0, 0, 0, 0]
    size = bundle.config.image_size
    with Image.open(paths[0]) as image, np.load(paths[1]) as embeddings:
        assert image.size == (size, size)
        assert embeddings["values"].shape[2] == bundle.config.txt_input_size


def test_a_missing_engine_exits_1_with_its_pip_line(bundle: Bundle) -> None:
    code = """
        from minit2i_deploy.cli import main

        found = {"code": main(["generate", sys.argv[1], "red", "--runtime", "torch"])}
    """
    done = run_alone(code, bundle.path)
    assert report_of(done)["code"] == 1
    assert done.stderr.count("\n") == 1
    assert "pip install -c constraints.txt '.[export]'" in done.stderr


def test_help_loads_no_library() -> None:
    code = """
        from minit2i_deploy.cli import main

        found = {"code": main(["--help"])}
    """
    report = report_of(run_alone(code))
    assert report["code"] == 0
    libraries = {"numpy", "onnxruntime", "PIL", "tokenizers", "jaxtyping", "importlib_metadata"}
    assert not libraries & set(report["loaded"])
