"""A browser without WebGPU: the page says so, and the module refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.demo.web_packages import library_folder
from minit2i_deploy.demo.web_site import SiteBundle, write_site
from tests.helpers.browser import open_browser
from tests.helpers.cpp_bundles import shipped_student
from tests.helpers.web_client import served

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def student() -> Bundle:
    return Bundle.open(shipped_student())


def test_without_a_gpu_the_page_says_so_and_the_module_refuses(
    student: Bundle, tmp_path: Path
) -> None:
    item = SiteBundle(name="demo-student", title="student", bundle=student)
    write_site(tmp_path / "site", [item], library_folder(tmp_path))
    with served(tmp_path / "site") as place, open_browser() as browser:
        for script, line in (
            ("", "WebGPU finds no GPU here, so the processor computes."),
            (
                "Object.defineProperty(navigator, 'gpu', { value: undefined });",
                "This browser has no WebGPU, so the processor computes.",
            ),
        ):
            page = browser.new_page()
            page.add_init_script(script)
            page.goto(place)
            page.wait_for_function("document.querySelector('#gpu').textContent")
            assert page.inner_text("#gpu") == line
            assert page.locator("#provider option").all_inner_texts() == ["WebAssembly"]
            reason = page.evaluate(
                """async () => {
                    const { Engine } = await import("./src/engine/engine.js");
                    const ort = { InferenceSession: { create: () => undefined } };
                    const bundle = { name: "", manifest: { graphs: {}, onlyFor: null } };
                    return new Engine(bundle, ort, { provider: "webgpu" }).session("transformer")
                        .catch((error) => `${error.name}: ${error.message}`);
                }"""
            )
            assert reason.startswith("RuntimeFailure: ") and reason.endswith("; take provider wasm")
            page.close()
