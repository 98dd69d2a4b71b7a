"""Edits: OpenAI's /v1/images/edits with its own client and raw, and AUTOMATIC1111's img2img."""

from __future__ import annotations

import base64
import io
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.generate import generate
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.serving.engine.edit_images import NO_EDIT, EditSources
from minit2i_deploy.serving.engine.served_model import ImageSettings, ServedModel
from tests.helpers.serving_http import Answer, Running, pixels, running_server
from tests.helpers.serving_runs import real_runtime, served_bundles

SIDE = 64
SETTINGS = {"seed": 7, "table": "ab2-20"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server(real_runtime) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def png(array: np.ndarray) -> bytes:
    """A file of uint8 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def ramp(side: int = SIDE) -> np.ndarray:
    """A colored image, uint8 [side, side, 3]."""
    grid = np.indices((side, side)).astype(float) * 255 / side
    return np.stack([*grid, np.full((side, side), 40.0)], axis=-1).astype(np.uint8)


def hole() -> np.ndarray:
    """Where the image is new: its lower right quarter, bool [SIDE, SIDE]."""
    place = np.zeros((SIDE, SIDE), bool)
    place[SIDE // 2 :, SIDE // 2 :] = True
    return place


IMAGE = png(ramp())
TRANSPARENT = np.dstack([np.zeros((SIDE, SIDE, 3), np.uint8), np.where(hole(), 0, 255)])
MASK = png(TRANSPARENT.astype(np.uint8))
WHITE = png(np.where(hole(), 255, 0).astype(np.uint8))
CUT = png(np.dstack([ramp(), np.where(hole(), 0, 255)]).astype(np.uint8))


def generated(tmp_path: Path, prompt: str, **images: Any) -> bytes:
    """The file that ``generate`` saves of the same edit."""
    bundle = served_bundles()["demo"]
    edit = read_edit(bundle, **images)
    with real_runtime(bundle) as runtime:
        result = generate(
            bundle, runtime, prompt, seed=7, table=bundle.table("ab2-20"), **edit.arguments()
        )
    path = tmp_path / "image.png"
    result.save(path)
    return path.read_bytes()


def test_a_masked_edit_is_the_file_of_generate(client: openai.OpenAI, tmp_path: Path) -> None:
    answer = client.images.edit(
        image=IMAGE, mask=MASK, prompt="a red circle", n=2, size="auto", extra_body=SETTINGS
    )
    assert answer.data is not None and len(answer.data) == 2
    data = base64.b64decode(answer.data[0].b64_json or "")
    assert data == generated(
        tmp_path, "a red circle", inpaint=IMAGE, mask=MASK, new_pixels="transparent"
    )
    soft = client.images.edit(
        image=IMAGE, mask=MASK, prompt="a red circle", extra_body=SETTINGS | {"feather": 3}
    )
    path = tmp_path / "soft.png"
    path.write_bytes(base64.b64decode(soft.data[0].b64_json or ""))  # type: ignore[index]
    edit = Record.read(path).edit
    assert edit is not None and edit.feather == 3.0
    for item in answer.data:
        shown = pixels(item.b64_json or "")
        assert np.array_equal(shown[~hole()], ramp()[~hole()])
        assert not np.array_equal(shown[hole()], ramp()[hole()])
    first, second = (pixels(item.b64_json or "") for item in answer.data)
    assert not np.array_equal(first, second)


def test_without_a_mask_transparent_pixels_or_a_strength_say_what_is_new(
    client: openai.OpenAI, tmp_path: Path
) -> None:
    def edited(image: Any, **extra: Any) -> Any:
        return client.images.edit(
            image=image, prompt="a star", response_format="b64_json", extra_body=SETTINGS | extra
        )

    cut = edited(("cut.png", CUT))
    assert np.array_equal(pixels(cut.data[0].b64_json)[~hole()], ramp()[~hole()])
    same = edited(("image.png", IMAGE), strength=0.0)
    assert np.abs(pixels(same.data[0].b64_json).astype(int) - ramp()).max() <= 1
    half = edited([("a.png", IMAGE), ("b.png", CUT)], strength=0.5)
    assert base64.b64decode(half.data[0].b64_json) == generated(
        tmp_path, "a star", init_image=IMAGE, strength=0.5
    )
    assert half.notices == ["the first of 2 images is edited; the others have no effect"]
    # Half of the time is ahead of it.
    assert 5 < half.rows < 15
    # Opaque, though it has an alpha channel, as a canvas saves it.
    opaque = png(np.dstack([ramp(), np.full((SIDE, SIDE), 255)]).astype(np.uint8))
    assert edited(opaque).rows < 20


def test_an_edit_without_a_table_runs_the_preset_of_edits() -> None:
    bundle = served_bundles()["demo"]
    model = ServedModel(name="demo", bundle=bundle)
    masked = EditSources(image=IMAGE, mask=WHITE).read(bundle)
    for edit, preset in ((masked, "inpaint"), (NO_EDIT, None)):
        planned = model.plan(ImageSettings(prompt="a", edit=edit), strict=True)
        table, guidance = bundle.preset(preset) if preset else bundle.preset()
        assert (planned.table, planned.guidance) == (table, guidance)
    chosen = ImageSettings(prompt="a", edit=masked, table="ab2-20")
    assert model.plan(chosen, strict=True).table == bundle.table("ab2-20")


def test_a_stream_of_an_edit(client: openai.OpenAI) -> None:
    events = list(
        client.images.edit(
            image=IMAGE,
            mask=MASK,
            prompt="a red circle",
            stream=True,
            partial_images=2,
            extra_body=SETTINGS,
        )
    )
    names = [event.type for event in events]
    assert names == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    for event in events:
        # Estimates are of 8 bits; what stays is in each of them.
        shown = pixels(event.b64_json).astype(int)
        assert np.abs(shown - ramp())[~hole()].max() <= 1


def test_edits_share_calls_with_other_images(server: Running, tmp_path: Path) -> None:
    """An edit and plain images in one request each, at once; the edit's bytes stay."""
    answers: list[Answer] = []
    body = {"prompt": "a blue square", "n": 2, "solver": "euler", "num_inference_steps": 12}
    others = threading.Thread(
        target=lambda: answers.append(server.post("/v1/images/generations", body))
    )
    others.start()
    edit = server.post("/sdapi/v1/img2img", web_ui(mask=MASK_TEXT))
    others.join()
    assert (edit.status, answers[0].status) == (200, 200)
    shown = pixels(edit.json["images"][0])
    assert np.array_equal(shown[~hole()], ramp()[~hole()])


IMAGE_TEXT, MASK_TEXT = (base64.b64encode(data).decode("ascii") for data in (IMAGE, WHITE))


def web_ui(**fields: Any) -> dict[str, Any]:
    """A body of img2img."""
    return {
        "prompt": "a red circle",
        "init_images": [IMAGE_TEXT],
        "seed": 7,
        "steps": 4,
        "sampler_name": "Heun",
        "denoising_strength": 1.0,
        **fields,
    }


def test_image_to_image_of_the_web_ui(server: Running) -> None:
    def edited(**fields: Any) -> np.ndarray:
        answer = server.post("/sdapi/v1/img2img", web_ui(**fields))
        assert answer.status == 200, answer.body
        assert answer.json["parameters"]["init_images"] is None
        return pixels(answer.json["images"][0]).astype(int)

    url = f"data:image/png;base64,{IMAGE_TEXT}"
    assert np.abs(edited(init_images=[url], denoising_strength=0) - ramp()).max() <= 1
    masked = edited(mask=MASK_TEXT, inpainting_fill=0)
    assert np.array_equal(masked[~hole()], ramp()[~hole()])
    inverted = edited(mask=MASK_TEXT, inpainting_mask_invert=1, inpainting_fill=0)
    assert np.array_equal(inverted[hole()], ramp()[hole()])
    assert not np.array_equal(inverted[~hole()], ramp()[~hole()])
    # From the image itself, so that little strength changes little.
    near = edited(mask=MASK_TEXT, inpainting_fill=1, denoising_strength=0.1)
    assert np.abs(near - ramp())[hole()].mean() < np.abs(masked - ramp())[hole()].mean()
    soft = edited(mask=MASK_TEXT, inpainting_fill=0, mask_blur=4)
    assert not np.array_equal(soft[~hole()], ramp()[~hole()])
    assert np.array_equal(soft[:16], masked[:16])


def form(*parts: tuple[str, bytes], boundary: str = "x1") -> bytes:
    """A body of parts: what stands after ``form-data; `` and the data."""
    body = b""
    for disposition, data in parts:
        head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
        body += head.encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


FILE = ('name="image"; filename="a.png"', IMAGE)
MASK_FILE = ('name="mask"; filename="m.png"', MASK)
PROMPT = ('name="prompt"', b"a circle")
FORM = "multipart/form-data; boundary=x1"


def raw(server: Running, body: bytes, content_type: str = FORM) -> Answer:
    return server.ask("POST", "/v1/images/edits", body, {"Content-Type": content_type})


def test_a_form_as_curl_and_browsers_write_it(server: Running) -> None:
    steps = (('name="num_inference_steps"', b"4"), ('name="solver"', b"euler"))
    prompt = ("name=prompt", "ein Kreis \N{LARGE RED CIRCLE}".encode())
    listed = ('name="image[]"; filename="a b.png"', IMAGE)
    answer = raw(server, b"preamble\r\n" + form(listed, MASK_FILE, prompt, *steps))
    assert answer.status == 200, answer.body
    assert answer.json["rows"] == 4
    quoted = raw(server, form(FILE, PROMPT, *steps), 'Multipart/Form-Data; boundary="x1"')
    assert quoted.status == 200, quoted.body


SMALL = ('name="mask"; filename="m.png"', png(np.zeros((9, 9, 4), np.uint8)))
OPAQUE = ('name="mask"; filename="m.png"', png(np.full((SIDE, SIDE, 4), 255, np.uint8)))


@pytest.mark.parametrize(
    ("body", "content_type", "status", "text"),
    [
        (b"{}", "application/json", 415, "multipart/form-data with a boundary"),
        (form(FILE, PROMPT), "multipart/form-data", 415, "with a boundary"),
        (form(FILE, PROMPT), f"multipart/form-data; boundary={'x' * 71}", 400, "1 to 70"),
        (form(FILE, PROMPT)[:-6], FORM, 400, "does not end with its boundary"),
        (b"", FORM, 400, "does not end with its boundary"),
        (form(*[PROMPT] * 65), FORM, 400, "more than 64 parts"),
        (form(("", b"")), FORM, 400, "form-data with a name"),
        (form(PROMPT), FORM, 400, "image is required"),
        (form(FILE), FORM, 400, "prompt is required"),
        (form(FILE, ('name="prompt"', b"\xff")), FORM, 400, "prompt is not UTF-8"),
        (form(FILE, PROMPT, ('name="n"', b"1000")), FORM, 400, "n must be 1 to 10"),
        (form(FILE, PROMPT, ('name="n"', b"x")), FORM, 400, "n must be an integer, got 'x'"),
        (form(FILE, PROMPT, ('name="strength"', b"nan")), FORM, 400, "strength must be a number"),
        (form(FILE, PROMPT, ('name="strength"', b"2")), FORM, 400, "strength must be 0 to 1"),
        (form(FILE, PROMPT, MASK_FILE, MASK_FILE), FORM, 400, "mask must be one file, got 2"),
        (form(FILE, PROMPT, SMALL), FORM, 400, "9 x 9 pixels, but image has 64 x 64"),
        (form(FILE, PROMPT, OPAQUE), FORM, 400, "marks nothing that would be new"),
        (form(('name="image"', b"GIF89a"), PROMPT), FORM, 400, "image cannot be read"),
        (form(('name="image"', IMAGE[:99]), PROMPT), FORM, 400, "cannot be read as an image"),
        (form(('name="image"', b""), PROMPT), FORM, 400, "image cannot be read"),
    ],
)  # fmt: skip
def test_bad_edits(server: Running, body: bytes, content_type: str, status: int, text: str) -> None:
    answer = raw(server, body, content_type)
    message = answer.json["error"]["message"]
    assert (answer.status, text in message, "\n" in message) == (status, True, False), message


def test_an_image_of_too_many_pixels_is_refused_by_its_header(server: Running) -> None:
    data = bytearray(png(np.zeros((8, 8), np.uint8)))
    # Width and height of the PNG's IHDR; its check sum follows them.
    data[16:24] = (10_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    answer = raw(server, form(('name="image"; filename="a.png"', bytes(data)), PROMPT))
    assert answer.status == 400 and "at most 32 megapixels" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"init_images": []}, "init_images must have one image, got 0"),
        ({"init_images": [IMAGE_TEXT] * 2}, "init_images must have one image, got 2"),
        ({"init_images": [7]}, "init_images must be base64, got int"),
        ({"init_images": ["a*"]}, "init_images is not base64"),
        ({"init_images": ["QUJD"]}, "image cannot be read as an image"),
        ({"mask": "QUJD"}, "mask cannot be read as an image"),
        ({"inpainting_mask_invert": 2}, "inpainting_mask_invert must be 0 or 1"),
        ({"denoising_strength": 1.5}, "denoising_strength must be 0 to 1"),
    ],
)
def test_bad_edits_of_the_web_ui(server: Running, fields: dict[str, Any], text: str) -> None:
    answer = server.post("/sdapi/v1/img2img", web_ui(**fields))
    assert answer.status in (400, 422)
    assert text in answer.json["detail"]
