"""Sizes that clients ask for, of a bundle whose height and width are free."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.serving.service import ServiceOptions
from tests.helpers.free_bundles import WIDE, free_bundle
from tests.helpers.serving_http import Running, running_server
from tests.helpers.serving_runs import real_runtime

PATH = "/v1/images/generations"
BODY = {"prompt": "red", "seed": 7, "table": "euler-20"}


def bundles() -> dict[str, Bundle]:
    return {"free": Bundle.open(free_bundle())}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server(real_runtime, bundles=bundles()) as running:
        yield running


def expected(tmp_path: Path, size: tuple[int, int]) -> bytes:
    bundle = bundles()["free"]
    with real_runtime(bundle) as runtime:
        table = bundle.table("euler-20")
        result = generate(bundle, runtime, "red", seed=7, table=table, size=size)
    result.save(tmp_path / "image.png")
    return (tmp_path / "image.png").read_bytes()


def file_of(answer: Any) -> bytes:
    assert answer.status == 200, answer.body
    return base64.b64decode(answer.json["data"][0]["b64_json"])


def test_an_image_of_another_size_is_that_of_generate(server: Running, tmp_path: Path) -> None:
    answer = server.post(PATH, BODY | {"size": "48x24"})
    assert file_of(answer) == expected(tmp_path, WIDE)
    assert (answer.json["size"], answer.json["notices"]) == ("48x24", [])
    (model,) = server.get("/v1/models").json["data"]
    assert (model["size"], model["side_bounds"]) == ("32x32", [16, 64])


def test_sizes_at_once_do_not_meet(server: Running) -> None:
    sizes = ["48x24", "32x32", "16x64", "48x24", "auto", "64x64"]

    def ask(size: str) -> tuple[int, int]:
        image: Image.Image = Image.open(
            io.BytesIO(file_of(server.post(PATH, BODY | {"size": size, "n": 2})))
        )
        return image.size

    with ThreadPoolExecutor(len(sizes)) as pool:
        actual = list(pool.map(ask, sizes))
    assert actual == [(48, 24), (32, 32), (16, 64), (48, 24), (32, 32), (64, 64)]


def test_edits_and_the_web_ui(server: Running) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), "red").save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    body = {"prompt": "red", "width": 48, "height": 24, "steps": 3, "sampler_name": "Euler"}
    plain = server.post("/sdapi/v1/txt2img", body).json
    edited = server.post(
        "/sdapi/v1/img2img", body | {"init_images": [image], "denoising_strength": 0}
    ).json
    for answer in (plain, edited):
        shown = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
        assert shown.size == (48, 24)
    assert shown.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("sides", "size"), [({"width": 48}, (48, 32)), ({"height": 24}, (32, 24)), ({}, (32, 32))]
)
def test_the_web_ui_takes_a_side_alone(
    server: Running, sides: dict[str, int], size: tuple[int, int]
) -> None:
    """The other one is the model's own."""
    body = {"prompt": "red", "steps": 2, "sampler_name": "Euler", **sides}
    answer = server.post("/sdapi/v1/txt2img", body).json
    assert Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).size == size
    info = json.loads(answer["info"])
    assert (info["width"], info["height"]) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ("40x20", "free generates 32x32, not 40x20 (image size is 40x20, but both sides must be"),
        ("1024x1024", "but sides of this bundle are 16 to 64 pixels"),
    ],
)
def test_a_size_that_it_has_not(server: Running, size: str, text: str) -> None:
    answer = server.post(PATH, BODY | {"size": size})
    assert answer.json["size"] == "32x32"
    assert len(answer.json["notices"]) == 1 and text in answer.json["notices"][0]
    strict = ServiceOptions(strict=True)
    with running_server(bundles=bundles(), service=strict) as running:
        refused = running.post(PATH, BODY | {"size": size})
    assert refused.status == 400 and text in refused.json["error"]["message"]
