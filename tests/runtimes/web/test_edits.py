"""Edits and sizes in the JavaScript module: tables, states and records against the Python side."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import Result, generate
from minit2i_deploy.io.images import read_metadata
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.cpp_bundles import shipped_bundle, shipped_student
from tests.helpers.free_bundles import WIDE, fixed_bundle, free_bundle
from tests.helpers.started_tables import REFUSED_STARTS, STARTS, TABLES
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.version_one import version_one_bundle
from tests.helpers.web_client import ENGINES, Case, case, floats, run_cases, values

pytestmark = pytest.mark.web

SIDE = 64
# Measured 0 with onnxruntime-node; WASM adds in another order.
MAX_STATE_ERROR = 1e-4
TABLE = solver_table("dpmpp2m", steps=6)


def drawing(width: int = SIDE, height: int = SIDE) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half(width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """1 on the right, where the image is new, and a border that is mixed."""
    mask = np.zeros((height, width), np.float32)
    mask[:, width // 2 :] = 1
    mask[:, width // 2] = 0.25
    return mask


def image_data(image: Image.Image) -> dict[str, Any]:
    data = np.asarray(image.convert("RGBA")).ravel().tolist()
    return {"width": image.width, "height": image.height, "data": data}


def packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()


def network(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(127.5) - np.float32(1)


def edits() -> dict[str, tuple[Path, dict[str, Any], dict[str, Any]]]:
    """By name: a bundle, options in JavaScript, and the same for ``generate``."""
    base, image, wide = shipped_bundle(), drawing(), drawing(*WIDE)
    known = {"known": image_data(image), "mask": packed(half())}
    kept = {"known": image, "mask": half()}
    start = {"initImage": image_data(image), "strength": 0.5}
    own = {"tableJson": TABLE.to_json()}
    return {
        "start": (base, start | own, {"init_image": image, "strength": 0.5, "table": TABLE}),
        "preset": (base, known, kept),
        "both": (
            base,
            known | own | {"initImage": packed(network(image.rotate(90))), "strength": 0.5},
            kept | {"table": TABLE, "init_image": image.rotate(90), "strength": 0.5},
        ),
        "student": (
            shipped_student(),
            {"initImage": image_data(image), "strength": 0.5},
            {"init_image": image, "strength": 0.5},
        ),
        "wide": (free_bundle(), own | {"size": list(WIDE)}, {"table": TABLE, "size": WIDE}),
        "wide edit": (
            free_bundle(),
            own | {"size": list(WIDE), "known": image_data(wide), "mask": packed(half(*WIDE))},
            {"table": TABLE, "size": WIDE, "known": wide, "mask": half(*WIDE)},
        ),
        "not square": (fixed_bundle(WIDE), own, {"table": TABLE}),
    }


def python(folder: Path, arguments: dict[str, Any]) -> Result:
    bundle = Bundle.open(folder)
    with open_runtime(bundle, "onnxruntime", threads=2) as runtime:
        return generate(bundle, runtime, "a red circle", seed=3, **arguments)


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_edits_and_sizes_are_those_of_python(tmp_path: Path, engine: str) -> None:
    cases = [
        case("generate", folder, ["a red circle"], options | {"seed": "3"})
        for folder, options, _ in edits().values()
    ]
    for (name, (folder, _, arguments)), actual in zip(
        edits().items(), values(engine, cases), strict=True
    ):
        result = python(folder, arguments)
        state = floats(actual["state"]).reshape(result.x.shape)
        assert np.abs(state - result.x).max() <= MAX_STATE_ERROR, name
        (tmp_path / "a.png").write_bytes(base64.b64decode(actual["png"]))
        num_rows = len(result.request.base_table)
        assert read_metadata(tmp_path / "a.png") == result.record().fields(num_rows=num_rows), name
        with Image.open(tmp_path / "a.png") as stored:
            assert stored.size == result.images[0].size
            shown = np.asarray(stored)
        if "known" in arguments:
            stays = arguments["mask"] == 0
            np.testing.assert_array_equal(shown[stays], np.asarray(arguments["known"])[stays])


def test_started_tables_are_those_of_python() -> None:
    pairs = [(name, start) for name, starts in STARTS.items() for start in starts]
    cases = [case("start", TABLES[name].to_json(), start) for name, start in pairs]
    for (name, start), text in zip(pairs, values("onnxruntime-node", cases), strict=True):
        expected, actual = start_table(TABLES[name], start), Table.from_json(text)
        assert (actual.name, actual.meta) == (expected.name, expected.meta)
        # Measured 1.1e-16.
        np.testing.assert_allclose(actual.rows, expected.rows, rtol=1e-12, atol=1e-12)


def test_other_starts_are_refused() -> None:
    pairs = [(name, *refused) for name, starts in REFUSED_STARTS.items() for refused in starts]
    cases: list[Case] = [case("start", TABLES[name].to_json(), start) for name, start, _ in pairs]
    for (name, _, text), result in zip(pairs, run_cases("onnxruntime-node", cases), strict=True):
        assert result["error"]["name"] == "UsageError" and text in result["error"]["message"], name


IMAGE = {"initImage": image_data(drawing(32, 32)), "strength": 0.5}
KNOWN = {"known": image_data(drawing(32, 32)), "mask": packed(half(32, 32))}
REFUSALS: tuple[tuple[Any, dict[str, Any], str], ...] = (
    (tiny_bundle, {"strength": 0.5}, "initImage and strength belong together"),
    (tiny_bundle, {"mask": packed(half(32, 32))}, "known and mask belong together"),
    (tiny_bundle, IMAGE | {"strength": 1.5}, "strength must be from 0"),
    (tiny_bundle, IMAGE | {"initImage": image_data(drawing())}, "ImageData of 32x32 pixels, got"),
    (tiny_bundle, KNOWN | {"mask": packed(half())}, "mask must be a Float32Array of 1024 values"),
    (tiny_bundle, KNOWN | {"mask": packed(np.ones((32, 32)))}, "mask is all 1, so everything"),
    (tiny_bundle, KNOWN | {"mask": packed(2 * half(32, 32))}, "mask must hold values from 0"),
    (version_one_bundle, KNOWN, "this bundle cannot edit images"),
    (tiny_bundle, {"size": [48, 24]}, "has images of 32x32 alone; export it with --sides MIN-MAX"),
    (free_bundle, {"size": [48, 20]}, "both sides must be multiples of the patch of 8 pixels"),
    (free_bundle, {"size": [72, 32]}, "are 16 to 64 pixels"),
    (free_bundle, {"size": 48}, "size must be [width, height] in pixels, got 48"),
)


def test_bad_input_is_one_line() -> None:
    cases: list[Case] = [
        case("generate", bundle(), ["a"], options) for bundle, options, _ in REFUSALS
    ]
    for (_, _, text), result in zip(REFUSALS, run_cases("onnxruntime-node", cases), strict=True):
        assert result["error"]["name"] == "UsageError"
        assert text in result["error"]["message"] and "\n" not in result["error"]["message"]
