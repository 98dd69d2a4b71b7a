"""What the page says and does when something fails: a field, the page itself, the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.helpers.browser import until
from tests.helpers.serving_http import Running, running_server
from tests.helpers.serving_page import IDLE, drop, fill, run
from tests.serving.test_page import plain_png

STATUS = "document.querySelector('#status').textContent"
GENERATIONS = "/v1/images/generations"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server() as running:
        yield running


@pytest.mark.parametrize("name", ["count", "steps"])
def test_a_number_that_is_absent_is_not_sent(page: Page, name: str) -> None:
    """The browser names the field, as it does with any other wrong value."""
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    fill(page, "a", table="custom", solver="euler")
    page.fill("#steps", "2")
    page.fill(f"#{name}", "")
    page.click("#generate")
    assert page.evaluate(f"document.querySelector('#{name}').validity.valueMissing")
    assert page.inner_text("#status") == ""
    # Another table needs no steps.
    page.select_option("#table", "ab2-20")
    assert page.evaluate("document.querySelector('#settings').checkValidity()") == (name == "steps")
    # Not only the browser's own check stands before a request.
    page.evaluate("document.querySelector('#settings').noValidate = true")
    page.select_option("#table", "custom")
    page.click("#generate")
    label = "Images" if name == "count" else "Steps"
    until(page, f"{STATUS} === '{label} must be an integer.'")
    page.wait_for_selector(IDLE)
    assert not [each for each in addresses if each.endswith(GENERATIONS)]


def test_an_error_of_the_page_ends_its_requests(page: Page) -> None:
    """It is displayed, and the next run works."""
    fill(page, "a", table="custom", solver="euler")
    page.fill("#steps", "1000")
    page.evaluate(
        """() => {
            const { pipeThrough } = ReadableStream.prototype;
            ReadableStream.prototype.pipeThrough = () => {
                ReadableStream.prototype.pipeThrough = pipeThrough;
                throw new Error("no decoder");
            };
        }"""
    )
    with page.expect_event("requestfailed") as failed:
        page.click("#generate")
    assert failed.value.url.endswith(GENERATIONS)
    page.wait_for_selector(IDLE)
    assert page.inner_text("#status") == "No decoder."
    page.fill("#steps", "2")
    run(page)
    until(page, f"{STATUS}.includes('2 rows in')")


def test_an_image_that_cannot_be_sent_does_not_stop_the_page(page: Page) -> None:
    drop(page, plain_png())
    page.wait_for_selector("#editor:not([hidden]):not([aria-busy])")
    page.evaluate("() => { HTMLCanvasElement.prototype.toBlob = (then) => then(null); }")
    fill(page, "a", table="ab2-20")
    page.click("#generate")
    until(page, f"{STATUS} === 'This browser cannot write the image that is edited.'")
    page.wait_for_selector(IDLE)
    assert page.locator("#cancel").is_disabled()


def cut(route: Route) -> None:
    """What a proxy does that ends a stream early."""
    route.fulfill(status=200, content_type="text/event-stream", body="")


def test_a_stream_that_is_cut_changes_no_setting(page: Page) -> None:
    fill(page, "a", table="custom", solver="heun")
    page.fill("#steps", "3")
    page.route(f"**{GENERATIONS}", cut)
    page.click("#generate")
    text = "The server ended before the images were finished. The server is back."
    until(page, f"{STATUS} === '{text}'")
    assert page.locator("#status.bad").is_visible()
    names = ("table", "solver", "steps")
    assert [page.input_value(f"#{name}") for name in names] == ["custom", "heun", "3"]
    page.unroute(f"**{GENERATIONS}")
    run(page)
    # Two evaluations a step, but for the last one.
    until(page, f"{STATUS}.includes('5 rows in')")


def test_a_server_that_comes_back_with_keys(browser: Browser, server: Running) -> None:
    """That it needs a key is what the page goes on to say."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("body[data-ready]")
    page.route(f"**{GENERATIONS}", cut)
    page.route("**/v1/models", lambda route: route.fulfill(status=401, json={}))
    fill(page, "a")
    page.click("#generate")
    page.wait_for_selector("#key-row:not([hidden])")
    page.wait_for_timeout(200)
    assert page.inner_text("#status") == "This server needs an API key."
    context.close()


def test_a_server_that_starts_later_than_the_page(browser: Browser, server: Running) -> None:
    """Nothing is said of the wait when it is over."""
    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/models", lambda route: route.abort())
    page.goto(server.address)
    until(page, f"{STATUS} === 'The server does not answer. Trying again…'")
    page.unroute("**/v1/models")
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text("#status") == ""
    assert page.locator("#status.bad").count() == 0
    context.close()
