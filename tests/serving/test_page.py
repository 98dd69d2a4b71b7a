"""The page in a real Chromium. Its screenshots are kept in build/screenshots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from minit2i_deploy.generate import generate
from tests.helpers.browser import PHONE, open_page, until
from tests.helpers.serving_http import Running, pixels, running_server
from tests.helpers.serving_page import (
    BUSY,
    IDLE,
    canvas,
    downloaded,
    drop,
    fill,
    make_slow,
    run,
    screenshot,
    seek,
)
from tests.helpers.serving_process import server_process
from tests.helpers.serving_runs import real_runtime, served_bundles


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server(real_runtime) as running:
        yield running


def test_an_image_row_by_row(page: Page, repository: Path) -> None:
    """Its file is that of generate, and the slider goes back to each row's estimate."""
    fill(page, "a red circle", table="ab2-20")
    run(page)
    bundle = served_bundles()["demo"]
    estimates: list[np.ndarray] = []
    with real_runtime(bundle) as runtime:
        result = generate(
            bundle,
            runtime,
            "a red circle",
            seed=7,
            table=bundle.table("ab2-20"),
            previews=True,
            on_frame=lambda frame: estimates.append(frame.estimate()[0]),
        )
    expected = np.asarray(result.images[0])
    assert np.array_equal(pixels(downloaded(page)), expected)
    assert np.array_equal(canvas(page), expected)
    assert page.inner_text("#row-text") == "20 of 20"
    for row in (1, 10):
        seek(page, "#row", row)
        shown = np.clip(estimates[row - 1], -1, 1) * 127.5 + 128
        assert np.abs(canvas(page) - shown.transpose(1, 2, 0).clip(0, 255)).max() <= 1
    seek(page, "#row", 20)
    assert np.array_equal(canvas(page), expected)
    screenshot(page, repository, "desk")


def test_two_bundles_side_by_side(page: Page, repository: Path) -> None:
    fill(page, "a blue square", other="demo-student")
    run(page)
    assert page.inner_text("#wipe-text") == "demo | demo-student"
    both = [canvas(page, index) for index in (0, 1)]
    assert not np.array_equal(*both)
    assert [np.array_equal(pixels(downloaded(page, side)), both[side]) for side in (0, 1)] == [
        True,
        True,
    ]
    seek(page, "#wipe", 20)
    clip = page.evaluate("document.querySelectorAll('#tiles canvas')[1].style.clipPath")
    assert clip == "inset(0px 0px 0px 20%)"
    # Both at half of their own rows.
    seek(page, "#row", 20)
    assert not np.array_equal(canvas(page, 1), both[1])
    screenshot(page, repository, "wipe")


def test_the_gallery_survives_a_reload_and_makes_an_image_again(page: Page) -> None:
    fill(page, "a green star", seed=str(2**64 - 2), table="euler-20")
    page.fill("#negative", "red")
    page.fill("#guidance", "3.5")
    page.fill("#count", "2")
    run(page)
    until(page, "document.querySelectorAll('#items li').length === 2")
    first = downloaded(page, 0)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.input_value("#prompt") == ""
    page.locator("#items li button:not(.delete)").last.click()
    until(page, "document.querySelector('#seed').value !== ''")
    values = [page.input_value(f"#{name}") for name in ("prompt", "negative", "guidance", "seed")]
    assert values == ["a green star", "red", "3.5", str(2**64 - 2)]
    assert (page.input_value("#table"), page.input_value("#count")) == ("euler-20", "1")
    run(page)
    until(page, "document.querySelector('#status').textContent.includes('rows in')")
    assert downloaded(page) == first
    page.locator("#items li").first.hover()
    page.get_by_label("Delete a green star").first.click()
    until(page, "document.querySelectorAll('#items li').length === 2")
    page.click("#clear")
    until(page, "document.querySelectorAll('#items li').length === 0")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#gallery").is_hidden()


def test_a_dropped_image_is_made_again(page: Page, tmp_path: Path) -> None:
    """One of the command line's, under a table that the bundle does not have."""
    bundle = served_bundles()["demo"]
    with real_runtime(bundle) as runtime:
        table = bundle.compile_table("heun", 3)
        made = generate(bundle, runtime, "two red stars", seed=11, table=table, guidance=2.0)
    path = tmp_path / "image.png"
    made.save(path)
    drop(page, path.read_bytes())
    until(page, "document.querySelector('#prompt').value === 'two red stars'")
    assert [page.input_value(f"#{name}") for name in ("table", "solver", "steps")] == [
        "custom",
        "heun",
        "3",
    ]
    assert np.array_equal(canvas(page), np.asarray(made.images[0]))
    run(page)
    until(page, "document.querySelector('#status').textContent.includes('rows in')")
    assert downloaded(page) == path.read_bytes()


def test_another_file_is_refused_in_a_line(page: Page, tmp_path: Path) -> None:
    drop(page, b"GIF89a")
    page.wait_for_selector("#status.bad")
    assert page.inner_text("#status").startswith("That is no PNG")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": plain_png()})
    until(page, "document.querySelector('#status').textContent.includes('no record')")


def plain_png() -> bytes:
    from PIL import Image

    from minit2i_deploy.io.images import encode_png

    return encode_png(Image.new("RGB", (2, 2)), {})


def test_keys_and_cancel(page: Page, server: Running) -> None:
    page.click("h1")
    page.keyboard.press("/")
    page.keyboard.type("a red circle")
    assert page.input_value("#prompt") == "a red circle"
    make_slow(page)
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(BUSY)
    # The estimate is painted while the image is under way.
    until(page, "document.querySelector('#tiles canvas').width === 64")
    first = canvas(page)
    until(page, "document.querySelector('#progress').value > 0.03")
    assert not np.array_equal(canvas(page), first)
    page.keyboard.press("Escape")
    page.wait_for_selector(IDLE)
    assert page.inner_text("#status") == "Cancelled."
    end = time.monotonic() + 20
    while server.server.engine.scheduler.num_live:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_control_has_a_name(page: Page) -> None:
    names = page.evaluate(
        """[...document.querySelectorAll("input, select, textarea, button, progress")].map(
            (each) => each.labels?.[0]?.textContent || each.getAttribute("aria-label")
                || each.textContent)"""
    )
    assert len(names) > 15
    assert all(names)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone(browser: Browser, server: Running, repository: Path, dark: bool) -> None:
    with open_page(browser, server.address, size=PHONE, dark=dark) as page:
        fill(page, "a blue circle", model="demo-student", other="demo")
        run(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        channels = page.evaluate("getComputedStyle(document.body).backgroundColor")
        values = [int(part) for part in channels.removeprefix("rgb(").rstrip(")").split(",")]
        assert (max(values) < 64) if dark else (min(values) > 192)
        screenshot(page, repository, "phone-dark" if dark else "phone")


def test_text_is_text_and_nothing_is_asked_of_other_places(
    browser: Browser, server: Running
) -> None:
    with open_page(browser, server.address) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        page.wait_for_selector("body[data-ready]")
        fill(page, "<img src=x onerror=alert(1)>", model="demo-student")
        run(page)
        page.wait_for_selector("#items img")
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("#items img").get_attribute("alt", timeout=5000).startswith("<img")  # type: ignore[union-attr]
        places = {url.partition(":")[0] for url in asked if not url.startswith(server.address)}
        assert places <= {"blob", "data"}


def test_the_policy_refuses_inline_scripts(server: Running) -> None:
    policy = server.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "unsafe" not in policy
    page = server.get("/").body
    assert b"style=" not in page and b"onclick" not in page and b"<script>" not in page


def test_a_page_asks_for_the_key(browser: Browser) -> None:
    with running_server(keys=("secret",)) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.address)
        page.wait_for_selector("#key")
        assert page.inner_text("#status") == "This server needs an API key."
        page.fill("#key", "secret")
        page.keyboard.press("Tab")
        until(page, "document.querySelector('#model').options.length === 2")
        fill(page, "a", model="demo-student")
        run(page)
        context.close()


def test_the_page_recovers_after_a_kill(browser: Browser) -> None:
    """Nothing of an image that was not finished is kept, and the next server is found."""
    place = f"demo={served_bundles()['demo'].path}"
    context = browser.new_context()
    with server_process(place, "--runtime", "fake") as (process, server):
        page = context.new_page()
        page.goto(server.address)
        page.wait_for_selector("body[data-ready]")
        fill(page, "a")
        page.fill("#count", "10")
        make_slow(page)
        page.click("#generate")
        until(page, "document.querySelector('#progress').value > 0")
        process.kill()
        page.wait_for_selector("#status.bad")
        page.wait_for_selector(IDLE)
    assert page.locator("figcaption a").count() == 0
    assert page.locator("#items li").count() == 0
    with server_process(place, "--runtime", "fake", port=server.port):
        until(page, "document.querySelector('#status').textContent.endsWith('The server is back.')")
        assert page.inner_text("#status.bad") != "The server is back."
        assert [page.input_value(f"#{name}") for name in ("table", "steps")] == ["custom", "1000"]
        page.select_option("#table", "ab2-20")
        page.fill("#count", "1")
        run(page)
        page.wait_for_selector("#items li")
    context.close()
