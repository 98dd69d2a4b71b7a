"""The demo page in Chromium: what it downloads, and the seconds to its images.

    sh scripts/setup_web.sh .venv/bin/python
    python -m benchmarks.web_page --rounds 5

Each round is a visit with an empty profile: the few-step student, then the base model at the
page's own settings, twice each. Bytes are those that the server sent; seconds are the page's own,
from a click to the last row, and to load a model from a server on this machine.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from playwright.sync_api import Browser, Page

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.demo.ready import default_cache
from minit2i_deploy.demo.web_packages import library_folder
from minit2i_deploy.demo.web_server import SiteHandler, address, site_server
from minit2i_deploy.demo.web_site import ready_site_bundles, write_site
from minit2i_deploy.machine import describe_machine, machine_line
from tests.helpers.browser import open_browser

MODELS: Final = ("demo-student", "demo")
# Limits of this benchmark, for a page on two cores.
LIMITS_S: Final = {"demo-student": 0.5, "demo": 3.0}
MAX_DOWNLOAD_MB: Final = 30.0
_TIMEOUT_MS: Final = 120_000
_END: Final = "['Done', 'Canc'].includes(status.textContent.slice(0, 4)) || status.className"


class CountingHandler(SiteHandler):
    """Counts the bytes of all files that it sends."""

    num_bytes = 0

    def copyfile(self, source: Any, outputfile: BinaryIO) -> None:
        """Send a file."""
        data = source.read()
        CountingHandler.num_bytes += len(data)
        outputfile.write(data)


def visit(browser: Browser, place: str) -> dict[str, dict[str, float]]:
    """A first visit: by model, megabytes and seconds."""
    CountingHandler.num_bytes = 0
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(_TIMEOUT_MS)
        page.goto(place)
        page.wait_for_selector("#generate:not([disabled])")
        return {model: _measure(page, model) for model in MODELS}
    finally:
        context.close()


def _measure(page: Page, model: str) -> dict[str, float]:
    before = CountingHandler.num_bytes if model != MODELS[0] else 0
    page.select_option("#model", model)
    first_s = _generate(page)
    loaded = re.search(r"loaded in ([\d.]+) s", page.inner_text("#facts"))
    assert loaded is not None, page.inner_text("#facts")
    megabytes = (CountingHandler.num_bytes - before) / 1e6
    next_s = _generate(page)
    return {"MB": megabytes, "load": float(loaded[1]), "first": first_s, "next": next_s}


def _generate(page: Page) -> float:
    """Seconds that the page says an image took."""
    page.click("#generate")
    page.wait_for_function(
        f"() => {{ const status = document.querySelector('#status'); return {_END}; }}"
    )
    line = page.inner_text("#status")
    seconds = re.fullmatch(r"Done in ([\d.]+) s\.", line)
    if seconds is None:
        raise SystemExit(f"the page says: {line}")
    return float(seconds[1])


@contextmanager
def served() -> Iterator[str]:
    """Address of the page, whose files are written anew."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        write_site(site, ready_site_bundles(), library_folder(default_cache()))
        with site_server(site, handler=CountingHandler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield address(server)
            finally:
                server.shutdown()
                thread.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each model; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(machine_line(describe_machine()))
    with served() as place, open_browser() as browser:
        print(f"Chromium {browser.version}")
        visits = [visit(browser, place) for _ in range(options.rounds)]
    for model in MODELS:
        values = {name: [each[model][name] for each in visits] for name in visits[0][model]}
        seconds = ", ".join(
            f"{name} {_spread(values[name])} s" for name in ("load", "first", "next")
        )
        print(f"{model}: {statistics.median(values['MB']):.1f} MB, {seconds}")
    first_s = {
        model: statistics.median(each[model]["first"] for each in visits) for model in MODELS
    }
    slow = [model for model in MODELS if first_s[model] > LIMITS_S[model]]
    download_mb = max(each[MODELS[0]]["MB"] for each in visits)
    print(f"over its limit: {', '.join(slow) or 'none'}; download {download_mb:.1f} MB")
    return int(bool(slow) or download_mb > MAX_DOWNLOAD_MB)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(run_script(main))
