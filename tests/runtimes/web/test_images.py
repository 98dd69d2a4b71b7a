"""The JavaScript module's embeddings, states, images and records against the Python side's."""

from __future__ import annotations

import base64
import dataclasses
import functools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import Result, generate
from minit2i_deploy.io.images import read_metadata
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.text.embed import embed
from minit2i_deploy.text.prompts import Mix, Prompt
from tests.helpers.cpp_bundles import cpu_bundle, shipped_bundle, shipped_student
from tests.helpers.web_client import ENGINES, Case, case, floats, pixels, run_cases, values

pytestmark = pytest.mark.web

# Measured 1.7e-6 in WASM, 0 with onnxruntime-node.
MAX_EMBEDDING_ERROR = 1e-5
# Measured 2.5e-5 (heun with rescale) in WASM, whose kernels add in another order; 0 with
# onnxruntime-node.
MAX_STATE_ERROR = 1e-4
MIN_EQUAL_SHARE = 0.999
# INT8 inputs of layers round the last bit of float32 up to a step of 8 bits. So WASM may differ as
# much as the same library does from itself after this change of the noise; measured 0.9 and 1.0 of
# that, in the mean.
INPUT_CHANGE = 1e-6
MAX_SPREAD_RATIO = 2.0
ADVICE = "for the same ones quantize with --target web"
TEXTS = ["a red circle", "", "green", "a " * 40, "a gr\u00fcn circle"] * 9


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of ``generate`` in both languages; options that JavaScript takes in other forms."""

    bundle: Path
    prompts: tuple[Prompt, ...] = ("a red circle",)
    arguments: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def case(self) -> Case:
        prompts = [prompt.parts if isinstance(prompt, Mix) else prompt for prompt in self.prompts]
        options = dict(self.arguments) | self.options
        if "seed" in options:
            seed = options["seed"]
            options["seed"] = [str(one) for one in seed] if isinstance(seed, list) else str(seed)
        if "noise" in options:
            options["noise"] = base64.b64encode(options["noise"].tobytes()).decode()
        if self.table is not None and not self.options:
            options["tableJson"] = self.table.to_json()
        return case("generate", self.bundle, prompts, options)

    def expected(self) -> Result:
        bundle = Bundle.open(self.bundle)
        with open_runtime(bundle, "onnxruntime", threads=2) as runtime:
            return generate(bundle, runtime, list(self.prompts), table=self.table, **self.arguments)


@functools.cache
def _switch_bundle() -> Path:
    """INT8 weights before t = 0.5, fp32 from there on."""
    from minit2i_deploy.export.quantize.switch_bundle import add_switch

    folder = Path(tempfile.mkdtemp(dir=shipped_bundle().parent)) / "switch"
    copy = shutil.copytree(shipped_bundle("int8-weights"), folder)
    return add_switch(Bundle.open(copy), Bundle.open(shipped_bundle()), 0.5).path


@functools.cache
def requests() -> dict[str, Request]:
    """By name: what a user may ask for, on the shipped bundles and their INT8 forms."""
    base, student = shipped_bundle(), shipped_student()
    narrowed = adjust_guidance(Bundle.open(base).table("euler-20"), interval=(0.3, 0.7))
    several = (Mix(parts=(("a red circle", 3.0), ("a blue square", -1.0))),) * 2
    few = solver_table("ab2", steps=6)
    own_noise = standard_noise(5, (1, 3, 64, 64))
    return {
        "preset": Request(bundle=base, arguments={"seed": 7}),
        "negative": Request(
            bundle=base,
            table=solver_table("euler", steps=4),
            arguments={
                "seed": 2**64 - 1, "guidance": 6.5, "negative": 'gr\u00fcn \u597d\n"\\',
            },
        ),
        "interval": Request(
            bundle=base,
            table=narrowed,
            arguments={"guidance": 4.0},
            options={"table": "euler-20", "interval": [0.3, 0.7]},
        ),
        "mix": Request(
            bundle=base,
            prompts=several,
            table=solver_table("ab2", steps=5),
            arguments={"seed": [1, 2]},
        ),
        "noise": Request(
            bundle=base, table=solver_table("dpmpp2m", steps=4), arguments={"noise": own_noise}
        ),
        "stochastic": Request(
            bundle=base, table=solver_table("sde", steps=4), arguments={"seed": 3}
        ),
        "rescale": Request(
            bundle=base,
            table=solver_table("heun", steps=3, clip=1.0, rescale=0.7),
            arguments={"guidance": 5.0},
        ),
        "student": Request(bundle=student, arguments={"seed": 3}),
        "student omega": Request(bundle=student, arguments={"guidance": 3.0}),
        "int8-weights": Request(bundle=shipped_bundle("int8-weights"), table=few),
        "int4-weights": Request(bundle=shipped_bundle("int4-weights"), table=few),
        "cpu operators": Request(bundle=cpu_bundle(), table=few),
        "switch": Request(bundle=_switch_bundle(), table=few, arguments={"guidance": 3.0}),
        "int8": Request(bundle=shipped_bundle("int8"), table=few, arguments={"seed": 4}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def expected() -> dict[str, Result]:
    return {name: request.expected() for name, request in requests().items()}


@pytest.fixture(scope="module")
def spread(expected: dict[str, Result]) -> np.ndarray:
    """How far an INT8 trajectory moves where its noise changes in the last bits."""
    request = requests()["int8"]
    noise = standard_noise(request.arguments["seed"], (1, 3, 64, 64)) + np.float32(INPUT_CHANGE)
    moved = dataclasses.replace(request, arguments={"noise": noise})
    return np.abs(moved.expected().x - expected["int8"].x)


@pytest.mark.parametrize("engine", ENGINES)
def test_images_are_those_of_python(
    tmp_path: Path, engine: str, expected: dict[str, Result], spread: np.ndarray
) -> None:
    cases = [request.case() for request in requests().values()]
    for name, actual in zip(expected, values(engine, cases), strict=True):
        result = expected[name]
        _check_file(tmp_path / "a.png", actual, result)
        rounds = name == "int8" and engine != "onnxruntime-node"
        assert [line.partition("; ")[2] for line in actual["warnings"]] == rounds * [ADVICE]
        state = floats(actual["state"]).reshape(result.x.shape)
        difference = np.abs(state - result.x)
        if rounds:
            assert difference.mean() <= MAX_SPREAD_RATIO * spread.mean()
            continue
        assert difference.max() <= MAX_STATE_ERROR, name
        for image, text in zip(result.images, actual["images"], strict=True):
            actual_pixels = pixels(text, image.width).astype(int)
            close = np.abs(actual_pixels - np.asarray(image).astype(int)) <= 1
            assert close.mean() >= MIN_EQUAL_SHARE, name


def _check_file(path: Path, actual: dict[str, Any], result: Result) -> None:
    """The PNG holds the first image's bytes and the record that Python writes."""
    path.write_bytes(base64.b64decode(actual["png"]))
    assert read_metadata(path) == result.record().fields(num_rows=len(result.request.table))
    with Image.open(path) as stored:
        assert np.array_equal(np.asarray(stored), pixels(actual["images"][0], stored.width))


@pytest.mark.parametrize("engine", ENGINES)
def test_embeddings_are_those_of_python(engine: str) -> None:
    bundles = [shipped_bundle(), shipped_bundle("int8")]
    actual = values(engine, [case("embed", path, TEXTS) for path in bundles])
    for path, result in zip(bundles, actual, strict=True):
        bundle = Bundle.open(path)
        with open_runtime(bundle, "onnxruntime") as runtime, pytest.warns(UserWarning):
            expected = embed(bundle, runtime, TEXTS)
        assert result["shape"] == list(expected.values.shape)
        assert result["lengths"] == expected.mask.sum(axis=1).tolist()
        vectors = floats(result["values"]).reshape(expected.values.shape)
        assert np.abs(vectors - expected.values).max() <= MAX_EMBEDDING_ERROR
        pooled = np.stack([floats(text) for text in result["pooled"]])
        assert np.abs(pooled - expected.pooled()).max() <= MAX_EMBEDDING_ERROR
        cut = [line for line in result["warnings"] if "round their inputs to 8 bits" not in line]
        is_other_library = path == bundles[1] and engine != "onnxruntime-node"
        assert len(result["warnings"]) - len(cut) == int(is_other_library)
        assert len(cut) == 9
        assert cut[0] == f"prompt 3 was cut to 20 tokens: '...{' a' * 10}'"


def test_previews_cancelling_and_warnings() -> None:
    bundle = shipped_bundle()
    cases = [
        case("generate", bundle, ["a red circle"], {"table": "ab2-20", "seed": "1"}),
        case("generate", bundle, ["a red circle"], {"table": "ab2-20", "cancelAfter": 2}),
        case("generate", bundle, ["a"], {"table": "euler-20", "guidance": 1, "negative": "b"}),
    ]
    first, cancelled, unguided = run_cases("onnxruntime-node", cases)
    # ab2 ends on the estimate itself.
    assert first["value"]["previews"] == first["value"]["images"]
    assert cancelled["error"] == {"name": "Cancelled", "message": "cancelled by the caller"}
    line = "the negative prompt has no effect at guidance 1 under table euler-20"
    assert unguided["value"]["warnings"] == [line]
