"""What the tests of the page share; each names the ``server`` whose page it opens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.browser import open_browser, open_page
from tests.helpers.serving_http import Running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as each:
        yield each


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    with open_page(browser, server.address) as each:
        yield each
