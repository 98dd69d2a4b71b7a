"""The gallery of the page in a real Chromium: without a database, under fingers, and undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.browser import PHONE, until
from tests.helpers.serving_http import Running, running_server
from tests.helpers.serving_page import downloaded, fill, run, screenshot

STATUS = "document.querySelector('#status').textContent"
NOT_STORED = "This browser does not store new images"
ITEMS = "#items li button:not(.delete)"
# What a browser does that blocks site data.
NO_SITE_DATA = """for (const name of ["indexedDB", "sessionStorage"]) {
    Object.defineProperty(window, name, {
        get() { throw new DOMException("Access is denied", "SecurityError"); },
    });
}"""
# A quota may be noticed only when the transaction ends, after the request's success.
FULL_DISK = """for (const name of ["add", "put"]) {
    const write = IDBObjectStore.prototype[name];
    IDBObjectStore.prototype[name] = function (...values) {
        const request = write.apply(this, values);
        request.addEventListener("success", () => this.transaction.abort());
        return request;
    };
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server() as running:
        yield running


def generate(page: Page, count: int, prompt: str = "a red circle") -> None:
    """Generate images and wait until the gallery has them."""
    before = page.locator(ITEMS).count()
    fill(page, prompt, table="custom", solver="euler")
    page.fill("#steps", "2")
    page.fill("#count", str(count))
    run(page)
    until(page, f"document.querySelectorAll('#items li').length === {before + count}")


def delete(page: Page, index: int) -> None:
    item = page.locator("#items li").nth(index)
    item.hover()
    item.locator(".delete").click()


@pytest.mark.parametrize("script", [NO_SITE_DATA, FULL_DISK])
def test_images_of_a_browser_that_stores_none(page: Page, script: str) -> None:
    """They are all generated, and the gallery has them until the page is closed."""
    page.add_init_script(script)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    if script == NO_SITE_DATA:
        until(page, f"{STATUS}.startsWith('{NOT_STORED}')")
    generate(page, 3)
    assert page.locator("figcaption a").count() == 3
    # Once: where the disk is full it is known only after the first image.
    until(page, f"{STATUS}.includes('2 rows in')")
    assert (NOT_STORED in page.inner_text("#status")) == (script == FULL_DISK)
    first = downloaded(page, 0)
    page.locator(ITEMS).last.click()
    until(page, f"{STATUS}.startsWith('Its settings are filled in')")
    assert downloaded(page) == first
    delete(page, 0)
    until(page, "document.querySelectorAll('#items li').length === 2")
    page.click("#undo")
    until(page, "document.querySelectorAll('#items li').length === 3")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator(ITEMS).count() == 0


def test_a_deletion_is_undone(page: Page) -> None:
    """In the order of before, and in the database."""
    generate(page, 2)
    generate(page, 1, "a blue square")
    titles = "[...document.querySelectorAll('#items img')].map(({ alt }) => alt.slice(0, 5))"
    before = page.evaluate(titles)
    assert page.locator("#undo").is_hidden()
    delete(page, 2)
    until(page, "document.querySelectorAll('#items li').length === 2")
    assert page.inner_text("#deletion") == "Image deleted."
    page.click("#undo")
    until(page, "document.querySelectorAll('#items li').length === 3")
    assert page.locator("#undo").is_hidden() and page.inner_text("#deletion") == ""
    page.click("#clear")
    until(page, "document.querySelectorAll('#items li').length === 0")
    assert page.inner_text("#deletion") == "3 images deleted."
    page.click("#undo")
    until(page, "document.querySelectorAll('#items li').length === 3")
    assert page.evaluate(titles) == before == ["a blu", "a red", "a red"]
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate(titles) == before


UNDER_THE_CORNER = """() => {
    const { left, top, width, height } = document.querySelector(".delete").getBoundingClientRect();
    return document.elementFromPoint(left + width / 2, top + height / 2).className;
}"""


def test_a_button_that_is_not_visible_takes_no_clicks(page: Page) -> None:
    generate(page, 1)
    page.locator("#items").scroll_into_view_if_needed()
    page.mouse.move(1, 1)
    assert page.evaluate(UNDER_THE_CORNER) == ""
    page.locator("#items li").hover()
    assert page.evaluate(UNDER_THE_CORNER) == "delete"
    assert opacity(page) == "1"


def opacity(page: Page) -> str:
    value: str = page.evaluate("getComputedStyle(document.querySelector('.delete')).opacity")
    return value


def test_a_finger_sees_what_it_deletes(browser: Browser, server: Running, repository: Path) -> None:
    width, height = PHONE
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("body[data-ready]")
    generate(page, 2)
    screenshot(page, repository, "gallery-phone")
    assert opacity(page) == "1"
    page.locator(".delete").first.tap()
    until(page, "document.querySelectorAll('#items li').length === 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    screenshot(page, repository, "gallery-undo-phone")
    page.locator("#undo").tap()
    until(page, "document.querySelectorAll('#items li').length === 2")
    context.close()
