"""The brush of the page in a real Chromium: mouse, touch and keys."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.demo.ready import ready_bundle
from tests.helpers.browser import PHONE, open_page, until
from tests.helpers.free_bundles import WIDE, fixed_bundle
from tests.helpers.serving_http import Running, pixels, running_server
from tests.helpers.serving_page import downloaded, drop, fill, run, screenshot
from tests.helpers.serving_runs import real_runtime

EDITED = "document.querySelector('#edit-text').textContent"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server(real_runtime) as running:
        yield running


def edit(page: Page, name: str) -> None:
    """Press the button below an image and wait until the editor has read it."""
    page.get_by_role("button", name=f"Edit {name}").click()
    page.wait_for_selector("#editor:not([hidden]):not([aria-busy])")


def edited(page: Page) -> np.ndarray:
    """The image under the brush, uint8 [H, W, 3]."""
    url = page.evaluate("document.querySelector('#edit-image').toDataURL('image/png')")
    return pixels(url.partition(",")[2])


def marked(page: Page, threshold: int = 127) -> np.ndarray:
    """Where the brush has marked more than its soft edge, bool [H, W]."""
    url = page.evaluate("document.querySelector('#edit-mask').toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))[..., 3] > threshold


def test_a_finished_image_is_edited_with_the_mouse(page: Page, repository: Path) -> None:
    """What is not marked stays to the last bit, and the edit can be edited again."""
    # So that an edit takes the preset of edits.
    assert page.input_value("#table") == ""
    fill(page, "a red circle", table="ab2-20")
    run(page)
    before = pixels(downloaded(page))
    edit(page, "demo-7.png")
    assert np.array_equal(edited(page), before)
    assert page.inner_text("#edit-text") == "75% of all of it is new"
    box = page.locator("#edit-mask").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    assert page.inner_text("#edit-text") == "100% of what is marked is new"
    place = marked(page, threshold=0)
    assert 0.05 < place.mean() < 0.5
    screenshot(page, repository, "edit")
    page.fill("#prompt", "a blue square")
    run(page)
    until(page, "document.querySelector('#status').textContent.includes('rows in')")
    after = pixels(downloaded(page))
    assert np.array_equal(after[~place], before[~place])
    assert np.abs(after.astype(int) - before)[place].mean() > 1
    screenshot(page, repository, "edited")
    edit(page, "demo-7.png")
    assert np.array_equal(edited(page), after) and not marked(page).any()
    page.click("#close")
    assert page.locator("#editor").is_hidden()


SLOW_READING = """() => {
    const read = window.createImageBitmap.bind(window);
    let milliseconds = 1200;
    window.createImageBitmap = async (blob) => {
        milliseconds /= 2;
        await new Promise((resolve) => setTimeout(resolve, milliseconds));
        return read(blob);
    };
}"""


def test_of_two_images_being_read_the_last_is_edited(page: Page) -> None:
    """Though the first one takes longer, and Generate waits for it."""
    page.evaluate(SLOW_READING)
    drop(page, photo("PNG", (32, 32)))
    drop(page, photo("PNG"))
    until(page, "document.querySelector('#editor').ariaBusy === 'true'")
    assert page.locator("#editor").is_hidden()
    fill(page, "a green star", table="ab2-20")
    run(page)
    until(page, "document.querySelector('#status').textContent.includes('rows in')")
    # 20 rows at a strength of 0.75.
    assert "15 rows" in page.inner_text("#status")
    # Until the first one is read too.
    page.wait_for_timeout(600)
    assert edited(page).shape == (64, 64, 3)


def test_keys_mark_erase_and_invert(page: Page) -> None:
    drop(page, photo("PNG"), "image/png")
    until(page, f"{EDITED} === '75% of all of it is new'")
    assert "no record" in page.inner_text("#status")
    page.focus("#edit-mask")
    page.keyboard.press("Space")
    first = marked(page)
    # The middle of the image.
    assert first.any() and first[32, 32] and not first[0, 0]
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("]")
    page.keyboard.press("Space")
    assert marked(page).sum() > 1.5 * first.sum()
    page.click("#erase")
    page.focus("#edit-mask")
    page.keyboard.press("Space")
    # What was marked in the middle stays but for where the two overlap.
    assert not (marked(page) & ~first).any()
    page.click("#invert")
    assert marked(page)[0, 0] and not marked(page)[32, 28]
    page.click("#unmark")
    assert not marked(page).any()


def photo(form: str, size: tuple[int, int] = (64, 64)) -> bytes:
    """A file of two colors."""
    image = Image.new("RGB", size, (200, 60, 20))
    image.paste((20, 60, 200), (0, 0, size[0] // 2, size[1]))
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_a_dropped_photo_is_edited_by_touch(
    browser: Browser, server: Running, repository: Path
) -> None:
    """The square in its middle, as the model's images are square."""
    with open_page(browser, server.address, size=PHONE) as page:
        drop(page, photo("JPEG", (300, 200)), "image/jpeg")
        until(page, f"{EDITED} === '75% of all of it is new'")
        assert page.evaluate("document.querySelector('#edit-image').width") == 200
        page.evaluate(TOUCH)
        assert marked(page).any()
        page.fill("#strength", "0.5")
        assert page.inner_text("#edit-text") == "50% of what is marked is new"
        fill(page, "a green star", table="ab2-20")
        run(page)
        until(page, "document.querySelector('#status').textContent.includes('rows in')")
        assert "10 rows" in page.inner_text("#status")
        shown = pixels(downloaded(page)).astype(int)
        assert np.abs(shown[-4:, :20] - (20, 60, 200)).max() < 16
        assert np.abs(shown[-4:, -20:] - (200, 60, 20)).max() < 16
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        screenshot(page, repository, "edit-phone")


def test_a_photo_is_cut_to_the_shape_of_the_model(browser: Browser) -> None:
    """Of a model that is twice as wide as high, no side is lost."""
    bundles = {"wide": Bundle.open(fixed_bundle(WIDE))}
    with (
        running_server(real_runtime, bundles=bundles) as server,
        open_page(browser, server.address) as page,
    ):
        drop(page, photo("PNG", (300, 200)))
        until(page, f"{EDITED} === '75% of all of it is new'")
        assert edited(page).shape == (150, 300, 3)
        assert marked(page).shape == (150, 300)
        assert ratio(page, "#edit-mask") == pytest.approx(2, abs=0.02)
        page.locator("#edit-mask").click()
        assert marked(page)[75, 150] and not marked(page)[:, [0, -1]].any()
        fill(page, "a green star", table="euler-20")
        run(page)
        until(page, "document.querySelector('#status').textContent.includes('rows in')")
        assert ratio(page, "#tiles .layers") == pytest.approx(2, abs=0.02)
        shown = pixels(downloaded(page)).astype(int)
        assert shown.shape == (24, 48, 3)
        assert np.abs(shown[:, 0] - (20, 60, 200)).max() <= 1
        assert np.abs(shown[:, -1] - (200, 60, 20)).max() <= 1


def test_another_model_cuts_the_open_image_to_its_shape(browser: Browser) -> None:
    """Else the server would cut it, to something that the page does not show."""
    bundles = {"wide": Bundle.open(fixed_bundle(WIDE)), "square": Bundle.open(ready_bundle("demo"))}
    with (
        running_server(real_runtime, bundles=bundles) as server,
        open_page(browser, server.address) as page,
    ):
        drop(page, photo("PNG", (300, 200)))
        until(page, f"{EDITED} === '75% of all of it is new'")
        assert edited(page).shape == (150, 300, 3)
        page.locator("#edit-mask").click()
        page.select_option("#model", "square")
        assert edited(page).shape == (200, 200, 3)
        assert marked(page).shape == (200, 200) and not marked(page).any()
        page.locator("#edit-mask").click()
        # The whole image again, and not what the square left of it.
        page.select_option("#model", "wide")
        assert edited(page).shape == (150, 300, 3)
        # Closed, it stays closed.
        page.click("#close")
        page.select_option("#model", "square")
        assert page.locator("#edit-image").is_hidden()


def ratio(page: Page, selector: str) -> float:
    """Width over height on the screen."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["width"] / box["height"]


TOUCH = """() => {
    const canvas = document.querySelector("#edit-mask");
    const { left, top, width, height } = canvas.getBoundingClientRect();
    canvas.setPointerCapture = () => {};
    for (const [name, x, y] of [["down", .4, .2], ["move", .6, .3], ["up", .6, .3]]) {
        canvas.dispatchEvent(new PointerEvent(`pointer${name}`, {
            pointerType: "touch", pointerId: 9, button: 0, bubbles: true,
            clientX: left + x * width, clientY: top + y * height,
        }));
    }
}"""
