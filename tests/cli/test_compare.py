"""minit2i compare: the command, its page and its refusals."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import write_manifest
from minit2i_deploy.evaluation.compare import comparison
from minit2i_deploy.evaluation.shapes import Spec, Verdict
from tests.helpers.bundles import draft, write_bundle, write_files
from tests.helpers.cli_runs import run

# The test tokenizer has few words, so captions are longer than the model's 12 tokens.
pytestmark = pytest.mark.filterwarnings("default")
ARGUMENTS = ("compare", "a", "b", "--runtime", "fake")
SHORT = (*ARGUMENTS, "--prompts", "p.txt", "--repeats", 0)


@pytest.fixture(autouse=True)
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles a and b in the current folder, of two flavours, and a file of prompts."""

    def judge(image: np.ndarray, spec: Spec) -> Verdict:
        return Verdict(correct=len(spec.required) == 1, reason="counted <objects>")

    monkeypatch.setattr(comparison, "judge", judge)
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "a")
    write_files(tmp_path / "b")
    (tmp_path / "b" / "transformer" / "model.onnx.data").write_bytes(bytes(512))
    flavour = dataclasses.replace(draft().flavour, a_min=0.1)
    write_manifest(tmp_path / "b", dataclasses.replace(draft(), flavour=flavour))
    (tmp_path / "p.txt").write_text("red & blue\na red\n", encoding="utf-8")


class Reader(HTMLParser):
    """Keeps tags, images, and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value is not None:
                (self.images if value.startswith("data:") else self.outside).append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_the_json_has_the_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    done = run(capsys, *ARGUMENTS, "--captions", 1, "--details", 2, "--repeats", 2, "-o", "out")
    assert done.code == 0, done.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["report.html", "report.json"]
    values = json.loads(Path("out/report.json").read_text())
    assert (values["num_pictures"], values["num_pictures_by_row"]) == (6, 2)
    assert values["table"] == "euler-4"
    assert [row["t"] for row in values["rows"]] == [0.0, 0.25, 0.5, 0.75]
    assert values["score"]["difference"] == 0.0
    assert values["a"]["bytes"]["transformer"] - values["b"]["bytes"]["transformer"] == 512
    assert set(values["speed"]["stages"]) == {"encode", "adapt", "step"}
    page = Reader()
    page.feed(Path("out/report.html").read_text())
    assert page.open == []
    assert page.outside == []
    assert "script" not in page.tags
    assert len(page.images) == 6
    data = base64.b64decode(page.images[0].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (32, 32)
    assert done.out.endswith("out/report.html\n")


def test_prompts_are_not_judged_and_every_seed_paints_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = run(capsys, *SHORT, "--seeds", "4,9", "--steps", 3, "--guidance", 1, "--json")
    values = json.loads(done.out)
    assert [(one["prompt"], one["seed"]) for one in values["pictures"]] == [
        ("red & blue", 4), ("red & blue", 9), ("a red", 4), ("a red", 9),
    ]  # fmt: skip
    assert (values["score"], values["speed"]) == (None, None)
    assert (values["table"], values["guidance"]) == ("euler-3", 1.0)
    assert "correct_a" not in values["pictures"][0]


def test_prompts_are_escaped_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *SHORT, "-o", "out").code == 0
    text = Path("out/report.html").read_text()
    assert "red &amp; blue" in text
    assert "red & blue" not in text


def test_text_names_both_sides_and_lists_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, *SHORT, "--runtime-b", "fake").out
    assert re.match(r"A  fp32  fake  .*/a\nB  fp32  fake  .*/b\n2 images, table euler-4", out)
    assert re.search(r"PSNR, dB: mean \(lowest\) +equal \(equal\)", out)
    assert "report.html" not in out


def test_several_bundles_have_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--captions", 1, "--details", 2, "--repeats", 2, "-o", "out")
    done = run(capsys, "compare", "a", "b", "a@fake", "--runtime", "fake", *settings)
    assert done.code == 0, done.err
    values = json.loads(Path("out/report.json").read_text())
    assert (values["kind"], values["num_images"]) == ("minit2i-side-by-side", 6)
    names = [one["name"] for one in values["bundles"]]
    assert names == ["a@fake (1)", "b@fake (2)", "a@fake (3)"]
    first, second, third = values["bundles"]
    assert (first["final"], first["speed"]["ratio"]) == (None, 1.0)
    assert second["score"]["difference"] == 0.0
    assert third["final"]["psnr_db"]["mean"] is None
    assert set(values["images"][0]["bundles"]) == set(names[1:])
    page = Reader()
    page.feed(Path("out/report.html").read_text())
    assert (page.open, page.outside) == ([], [])
    assert "script" not in page.tags
    # Of each of two cases three images and two differences.
    assert len(page.images) == 10
    assert "times as fast" in done.out and done.out.endswith("out/report.html\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*ARGUMENTS,), "there are captions for models of shapes only"),
        ((*SHORT, "--captions", 1), "--prompts and --captions are mutually exclusive"),
        ((*ARGUMENTS, "--captions", 0), "--captions: expected at least 1, got 0"),
        ((*ARGUMENTS, "--captions", 1, "--repeats", -1), "--repeats: expected at least 0, got -1"),
        ((*SHORT, "--details", 0), "--details: expected at least 1, got 0"),
        ((*SHORT, "--batch", 0), "--batch: expected at least 1, got 0"),
        ((*SHORT, "--seeds", "1,x"), "argument --seeds"),
        ((*SHORT, "--seeds=-1"), "seed"),
        ((*SHORT, "--runtime-b", "nothing"), "runtime 'nothing' is unknown"),
        (
            (*SHORT, "--runtime-b", "a:b:c:d"),
            "--runtime-b: expected RUNTIME[:PROVIDER[:PRECISION]]",
        ),
        (
            ("compare", "b", *SHORT[1:], "--runtime-b", "fake"),
            "--runtime-b is for two bundles; of more, write",
        ),
        (("compare", "a", "b@fake", *SHORT[3:], "--runtime-b", "fake"), "mutually exclusive"),
        (("compare", "a", "b@none", *SHORT[3:]), "runtime 'none' is unknown"),
        ((*SHORT, "-o", "a"), "the folder exists and is not empty"),
        ((*SHORT, "--table", "none"), "table 'none' is not in the bundle"),
        (("compare", "a"), "required: B"),
    ],
)
def test_wrong_use_is_refused(
    arguments: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, *arguments)
    assert (done.code, message in done.error) == (2, True), done.err


def test_what_cannot_be_compared_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_files(Path("c"))
    noise = dataclasses.replace(draft().noise, scale=1.0)
    write_manifest(Path("c"), dataclasses.replace(draft(), noise=noise))
    done = run(capsys, "compare", "a", "c", "--prompts", "p.txt", "-o", "out")
    assert done.code == 2
    assert "compare bundles with the same noise" in done.error
    assert not Path("out").exists()


def test_a_missing_bundle_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "compare", "a", "z", "--prompts", "p.txt")
    assert (done.code, "no bundle there" in done.error) == (1, True)
