"""A real Chromium, driven by playwright."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "install_chromium.sh"
_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
_NO_WEBGPU = ("--disable-gpu",)
PHONE, DESK = (390, 844), (1280, 900)


@functools.cache
def chromium() -> str:
    """Path of the program; the test is skipped where there is none and none can be installed."""
    done = subprocess.run(["sh", str(SCRIPT)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip().splitlines()[-1]


@contextmanager
def open_browser(*, webgpu: bool = False) -> Iterator[Browser]:
    """A browser without a window.

    Args:
        webgpu: WebGPU on the processor; else there is no GPU, whatever the machine has.
    """
    program = chromium()
    with sync_playwright() as playwright:
        # Root has no sandbox of user namespaces in a container; the only page is our own.
        args = ["--no-sandbox", *(_WEBGPU if webgpu else _NO_WEBGPU)]
        browser = playwright.chromium.launch(executable_path=program, args=args)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    browser: Browser, address: str, *, size: tuple[int, int] = DESK, dark: bool = False
) -> Iterator[Page]:
    """A page in a profile of its own; anything in its console that is an error fails the test."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        accept_downloads=True,
    )
    context.set_default_timeout(20_000)
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    try:
        yield page
        assert errors == []
    finally:
        context.close()


def until(page: Page, expression: str, seconds: float = 20.0) -> None:
    """Wait until an expression of JavaScript is true.

    Asked from here: the page's policy refuses playwright's own polling, which evaluates a string
    inside the page.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)
