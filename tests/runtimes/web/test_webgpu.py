"""WebGPU in a real Chromium, whose GPU is the processor; and what is said where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.demo.web_packages import library_folder
from minit2i_deploy.demo.web_site import SiteBundle, write_site
from minit2i_deploy.export import ExportOptions, export_bundle
from minit2i_deploy.export.quantize import QuantizeOptions, quantize_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.browser import open_browser
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cpp_bundles import shipped_student
from tests.helpers.tiny_bundle import text_folder
from tests.helpers.web_client import ENGINES, WEBGPU, case, floats, pixels, served, values

pytestmark = pytest.mark.web

PROMPT, GUIDANCE = "a red circle", 2.5
# Measured 5.7e-6 in WebAssembly and 5.4e-6 in WebGPU.
MAX_STATE_ERROR = 1e-4
MIN_EQUAL_SHARE = 0.999


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """A small network as the guide exports it for browsers, in fp32 and with INT8 weights."""
    folder = tmp_path_factory.mktemp("web")
    options = ExportOptions(text_encoder=text_folder(), only_for="cpu")
    exact = export_bundle(hub_folder(), folder / "fp32", options)
    light = QuantizeOptions(scheme="int8-weights", target="web")
    with pytest.warns(UserWarning, match="prompt cut"):
        return [exact, quantize_bundle(exact.path, folder / "int8", light)]


@pytest.mark.parametrize("engine", [WEBGPU, ENGINES[0]])
def test_images_are_those_of_python(forms: list[Bundle], engine: str) -> None:
    table = solver_table("ab2", steps=2)
    options = {"tableJson": table.to_json(), "guidance": GUIDANCE}
    questions = [case("generate", bundle.path, [PROMPT], options) for bundle in forms]
    for bundle, answer in zip(forms, values(engine, questions), strict=True):
        with open_runtime(bundle, "onnxruntime") as runtime:
            expected = generate(bundle, runtime, PROMPT, table=table, guidance=GUIDANCE)
        state = floats(answer["state"]).reshape(expected.x.shape)
        assert np.abs(state - expected.x).max() <= MAX_STATE_ERROR
        image = np.asarray(expected.images[0]).astype(int)
        close = np.abs(pixels(answer["images"][0], len(image)).astype(int) - image) <= 1
        assert close.mean() >= MIN_EQUAL_SHARE
        assert answer["warnings"] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the page."""
    folder = tmp_path_factory.mktemp("site")
    student = Bundle.open(shipped_student())
    item = SiteBundle(name="demo-student", title="student", bundle=student)
    write_site(folder / "site", [item], library_folder(folder))
    with served(folder / "site") as place:
        yield place


def providers(page: Page) -> list[str]:
    texts: list[str] = page.locator("#provider option").all_inner_texts()
    return texts


def test_the_page_offers_a_gpu(site: str) -> None:
    with open_browser(webgpu=True) as browser:
        page = browser.new_page()
        page.goto(site)
        page.wait_for_function("document.querySelector('#provider').options.length > 1")
        assert providers(page) == ["WebAssembly", "WebGPU"]
        assert page.inner_text("#gpu") == ""


NO_WEBGPU = "Object.defineProperty(navigator, 'gpu', { value: undefined });"
OPEN_ON_WEBGPU = """async () => {
    const { Engine } = await import("./src/engine/engine.js");
    const ort = { InferenceSession: { create: () => undefined } };
    const bundle = { name: "", manifest: { graphs: {}, onlyFor: null } };
    return new Engine(bundle, ort, { provider: "webgpu" }).session("transformer")
        .catch((error) => `${error.name}: ${error.message}`);
}"""


def test_without_a_gpu_the_page_says_so_and_the_module_refuses(site: str) -> None:
    with open_browser() as browser:
        for script, line in (
            ("", "WebGPU finds no GPU here, so the processor computes."),
            (NO_WEBGPU, "This browser has no WebGPU, so the processor computes."),
        ):
            page = browser.new_page()
            page.add_init_script(script)
            page.goto(site)
            page.wait_for_function("document.querySelector('#gpu').textContent")
            assert page.inner_text("#gpu") == line
            assert providers(page) == ["WebAssembly"]
            reason = page.evaluate(OPEN_ON_WEBGPU)
            assert reason.startswith("RuntimeFailure: ") and reason.endswith("; take provider wasm")
            page.close()
