"""What the page makes of the record in a PNG: the same image again, or a notice why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.browser import open_page, until
from tests.helpers.free_bundles import WIDE, free_bundle
from tests.helpers.serving_http import Running, pixels, running_server
from tests.helpers.serving_page import downloaded, drop, run
from tests.helpers.serving_runs import fake_runtime, served_bundles

STATUS = "document.querySelector('#status').textContent"
AGAIN = "Its settings are filled in: Generate makes it again, row by row."


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server() as running:
        yield running


def png(
    path: Path,
    table: Table,
    bundle: Bundle | None = None,
    size: tuple[int, int] | None = None,
) -> bytes:
    """An image's file, with its record."""
    bundle = bundle or served_bundles()["demo"]
    with fake_runtime(bundle) as runtime:
        result = generate(
            bundle, runtime, "two red stars", seed=11, table=table, guidance=2.0, size=size
        )
    result.save(path / "image.png")
    return (path / "image.png").read_bytes()


def tables_of_no_request() -> list[Table]:
    """Each is more than a solver and its steps."""
    bundle = served_bundles()["demo"]
    euler = bundle.compile_table("euler", 4)
    return [
        bundle.compile_table("heun", 3, grid="shifted", shift=2.0),
        bundle.compile_table("euler", 4, repeats=Repeats(count=2, jump=1)),
        adjust_guidance(euler, interval=(0.3, 1.0)),
        adjust_guidance(euler, rescale=0.5),
        # Of this one the columns alone say it.
        dataclasses.replace(solver_table("euler", steps=4, clip=1.0), name="clipped"),
        solver_table("euler", grid=[0.0, 0.5, 1.0]),
        solver_table("euler", steps=4, start=0.5),
        # A request leaves the floor to the bundle, whose is 0.05.
        solver_table("euler", steps=4, a_min=0.01),
    ]


def test_a_table_of_no_request_is_named(page: Page, tmp_path: Path) -> None:
    """And another one is not passed off for it."""
    for table in tables_of_no_request():
        page.select_option("#table", "euler-20")
        drop(page, png(tmp_path, table))
        until(page, f"{STATUS} === 'Table {table.name} of that image cannot be made here.'")
        assert page.input_value("#table") == ""


def test_another_table_of_a_name_of_the_bundle(page: Page, tmp_path: Path) -> None:
    """Its own content is compiled, and not the bundle's table of that name."""
    table = served_bundles()["demo"].compile_table("heun", 3)
    data = png(tmp_path, dataclasses.replace(table, name="ab2-20"))
    drop(page, data)
    until(page, f"{STATUS} === '{AGAIN}'")
    run(page)
    until(page, f"{STATUS}.includes('5 rows in')")
    assert (pixels(downloaded(page)) == pixels(data)).all()


def test_a_table_of_the_bundle_is_selected(page: Page, tmp_path: Path) -> None:
    data = png(tmp_path, served_bundles()["demo"].table("ab2-20"))
    drop(page, data)
    until(page, f"{STATUS} === '{AGAIN}'")
    assert page.input_value("#table") == "ab2-20"


def test_a_student_of_other_steps_is_made_again(page: Page, tmp_path: Path) -> None:
    bundle = served_bundles()["demo-student"]
    data = png(tmp_path, bundle.compile_table("mean-flow", 2), bundle)
    drop(page, data)
    until(page, f"{STATUS} === '{AGAIN}'")
    run(page)
    until(page, f"{STATUS}.includes('2 rows in')")
    assert downloaded(page) == data


def test_an_image_of_another_size_is_made_again(browser: Browser, tmp_path: Path) -> None:
    """Where the bundle's sizes are free; and the same field makes images of any size."""
    bundle = Bundle.open(free_bundle())
    bundles = {"demo": served_bundles()["demo"], "free": bundle}
    data = png(tmp_path, bundle.compile_table("euler", 2), bundle, size=WIDE)
    with (
        running_server(bundles=bundles) as server,
        open_page(browser, server.address) as page,
    ):
        assert page.locator("#size").is_hidden()
        drop(page, data)
        until(page, f"{STATUS} === '{AGAIN}'")
        assert (page.input_value("#model"), page.input_value("#size")) == ("free", "48x24")
        run(page)
        until(page, f"{STATUS}.includes('2 rows in')")
        assert downloaded(page) == data
        # An image that is edited is cut to it.
        page.get_by_role("button", name="Edit").click()
        page.wait_for_selector("#editor:not([hidden]):not([aria-busy])")
        shape = "(({ width, height }) => [width, height])(document.querySelector('#edit-image'))"
        assert page.evaluate(shape) == [48, 24]
        page.fill("#size", "16x32")
        page.keyboard.press("Tab")
        assert page.evaluate(shape) == [12, 24]
        run(page)
        until(page, f"{STATUS}.includes('2 rows in')")
        assert pixels(downloaded(page)).shape == (32, 16, 3)
        # One of the bundle's own size says so by having none.
        drop(page, png(tmp_path, bundle.compile_table("euler", 2), bundle))
        until(page, f"{STATUS} === '{AGAIN}'")
        assert page.input_value("#size") == ""


def test_a_size_that_no_bundle_here_has_is_named(page: Page, tmp_path: Path) -> None:
    bundle = Bundle.open(free_bundle())
    drop(page, png(tmp_path, bundle.compile_table("euler", 2), bundle, size=WIDE))
    text = "That image is 48x24, but this bundle generates 64x64."
    until(page, f"{STATUS}.endsWith('{text}')")
    assert page.inner_text("#status").startswith("Another bundle made that image")
