"""The server's page, driven as a person does."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
from playwright.sync_api import Page

from tests.helpers.serving_http import pixels

IDLE = "#generate:not([disabled])"
BUSY = "#cancel:not([disabled])"
DROP = """async ([data, name, type]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
}"""


def drop(page: Page, data: bytes, media_type: str = "image/png") -> None:
    """Drop a file on the page."""
    page.evaluate(DROP, [base64.b64encode(data).decode("ascii"), "image", media_type])


def fill(page: Page, prompt: str, *, seed: str = "7", **choices: str) -> None:
    page.fill("#prompt", prompt)
    page.fill("#seed", seed)
    for name, value in choices.items():
        page.select_option(f"#{name}", value)


def make_slow(page: Page) -> None:
    page.select_option("#table", "custom")
    page.select_option("#solver", "euler")
    page.fill("#steps", "1000")


def run(page: Page) -> None:
    page.click("#generate")
    page.wait_for_selector(IDLE)
    page.wait_for_selector("figcaption a")


def canvas(page: Page, index: int = 0) -> np.ndarray:
    """uint8 [H, W, 3] of a canvas."""
    url = page.evaluate(
        "index => document.querySelectorAll('#tiles canvas')[index].toDataURL('image/png')", index
    )
    return pixels(url.partition(",")[2])


def downloaded(page: Page, index: int = 0) -> bytes:
    """The file behind a link of a caption."""
    with page.expect_download() as download:
        page.locator("figcaption a").nth(index).click()
    return Path(download.value.path()).read_bytes()


def seek(page: Page, selector: str, value: int) -> None:
    page.evaluate(
        """([selector, value]) => {
            const slider = document.querySelector(selector);
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
        }""",
        [selector, value],
    )


def screenshot(page: Page, repository: Path, name: str) -> None:
    folder = repository / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
