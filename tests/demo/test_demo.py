"""The demo: a small random checkpoint from export to report, and its parts by themselves."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import minit2i_deploy.demo
from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.config import ModelConfig, StudentConfig
from minit2i_deploy.demo import edits
from minit2i_deploy.demo.report import Run, median_times, residual_noise
from minit2i_deploy.demo.shipped import Shipped, shipped_model
from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.evaluation.shapes import (
    KINDS,
    Requirement,
    Spec,
    draw_scene,
    held_out_captions,
    sample_scene,
)
from minit2i_deploy.evaluation.shapes.judged_images import generate_judged_images
from minit2i_deploy.generate import Result
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.machine import describe_machine, machine_line
from minit2i_deploy.request import Request
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import draft, write_bundle, write_files
from tests.helpers.cli_runs import run

ASSETS = Path(str(minit2i_deploy.demo.__file__)).parent / "assets"
CONFIG = ModelConfig(
    image_size=64, patch_size=16, hidden_size=32, num_heads=2, head_dim=16, depth_double=1,
    pca_channels=16, txt_preamble_depth=1, txt_input_size=128, prompt_length=20,
)  # fmt: skip
CONDITIONS = {"omega": 4.0, "t_min": 0.1, "t_max": 0.9}


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network in the place of the shipped one; the text encoder is the shipped one."""
    folder = tmp_path_factory.mktemp("assets")
    _write_model(folder / "model", CONFIG)
    _write_model(
        folder / "student", dataclasses.replace(CONFIG, student=StudentConfig()), CONDITIONS
    )
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(ASSETS / name, folder / name)
    return folder


def _write_model(
    folder: Path, config: ModelConfig, conditions: dict[str, float] | None = None
) -> None:
    import torch
    from safetensors.torch import save_file

    from minit2i_deploy.model import MMJiT

    torch.manual_seed(0)
    weights = {
        name: (0.05 * torch.randn_like(value)).half().contiguous()
        for name, value in MMJiT(config).canonical_parameters().items()
    }
    folder.mkdir()
    save_file(weights, folder / "ema.safetensors")
    header: dict[str, Any] = {"format": "minit2i-training", "version": 1, "step": 1}
    header |= {"config": config.to_dict(), "recipe": {"ema_decay": 0.999}}
    header |= {} if conditions is None else {"told": conditions}
    (folder / "checkpoint.json").write_text(json.dumps(header), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder in which the demo has run once."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("empty")
    from minit2i_deploy.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("minit2i_deploy.demo.shipped.shipped_model", lambda: shipped_model(assets))
        assert main(["demo", "--export"]) == 0
        yield folder / "minit2i-demo"


def test_it_judges_one_caption_of_each_kind(finished: Path) -> None:
    values = json.loads((finished / "report.json").read_text())
    assert [entry["table"] for entry in values["runs"]] == [
        "euler-100",
        "ab2-20",
        "mean-flow-4",
    ]
    assert [entry["guidance"] for entry in values["runs"]] == [2.5, 2.5, CONDITIONS["omega"]]
    for entry in values["runs"]:
        assert [item["kind"] for item in entry["pictures"]] == list(KINDS)
        assert entry["score"]["overall"]["total"] == 6
        assert all((finished / item["file"]).is_file() for item in entry["pictures"])
        assert entry["seconds_p50"]["total"] >= entry["seconds_p50"]["steps"] > 0
    once = {"export", "export student", "verify", "open and warm up", "open and warm up student"}
    assert set(values["seconds"]) == once


def test_it_edits_scenes_and_judges_them(finished: Path) -> None:
    values = json.loads((finished / "report.json").read_text())
    stems = ["image-to-image", "inpainting", "outpainting"]
    assert [item["file"] for item in values["edits"]] == [f"pictures/edit-{n}.png" for n in stems]
    assert all((finished / item["first"]).is_file() for item in values["edits"])
    record = Record.read(finished / "pictures" / "edit-inpainting.png")
    assert record.edit is not None and record.edit.known is not None
    first, edited = (
        np.asarray(Image.open(finished / "pictures" / f"edit-inpainting{end}.png"))
        for end in ("-first", "")
    )
    assert np.array_equal(first[:, :32], edited[:, :32])
    page = (finished / "report.html").read_text(encoding="utf-8")
    right = sum(item["correct"] for item in values["edits"])
    assert f"Edits: {right} of 3 right" in page


def test_parity_numbers_are_those_of_the_manifest(finished: Path) -> None:
    values = json.loads((finished / "report.json").read_text())
    bundle = Bundle.open(finished / "bundle")
    assert values["bundle"]["digest"] == bundle.digest
    assert [item["measured"] for item in values["checks"]] == [
        check.measured for check in bundle.manifest.checks
    ]
    assert values["checks"]


def test_the_page_embeds_every_image_and_names_no_other_file(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    embedded = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page)]
    assert sorted(embedded) == sorted(path.read_bytes() for path in finished.glob("pictures/*.png"))
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "minit2i generate minit2i-demo/bundle" in page


def test_the_page_says_why_the_reference_is_grainier(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"These images are grainier because [^<]*", page)
    assert "euler-100 divides by max(1 - t, a_min)" in sentence
    assert "1.6% of the start noise remains" in sentence
    runs = {run["table"]: run for run in json.loads((finished / "report.json").read_text())["runs"]}
    assert runs["euler-100"]["residual_noise"] == pytest.approx(0.05 * 0.8**5)
    others = [name for name in runs if name != "euler-100"]
    assert all(name in sentence and runs[name]["residual_noise"] < 1e-9 for name in others)


def test_residual_noise_is_that_of_a_constant_estimate() -> None:
    table = solver_table("heun", steps=50)
    x, h = np.ones((1, 3, 1, 1), np.float32), np.zeros((1, 3, 1, 1), np.float32)
    for row in table.steps(1.0):
        x, h = advance(x, h, np.zeros((1, 1, 3, 1, 1), np.float32), row.weights, row.values)
    assert residual_noise(table) == pytest.approx(float(x[0, 0, 0, 0]), rel=1e-4)


def test_it_replaces_a_folder_of_the_demo_and_no_other(
    assets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _stub(assets, monkeypatch)
    first = run(capsys, "demo", "--export", "--output", tmp_path / "d", "--per-kind", 2)
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines()[0].split() == ["verdict", "kind", "caption", "image"]
    assert first.out.splitlines()[-1] == str(tmp_path / "d" / "report.html")
    second = run(capsys, "demo", "--export", "--output", tmp_path / "d", "--json")
    assert json.loads(second.out) == json.loads((tmp_path / "d" / "report.json").read_text())
    assert len(list((tmp_path / "d" / "pictures").iterdir())) == 18 + 6
    (tmp_path / "d" / "report.json").unlink()
    third = run(capsys, "demo", "--export", "--output", tmp_path / "d")
    assert (third.code, "not empty" in third.error) == (2, True)
    assert run(capsys, "demo", "--per-kind", 0).code == 2


def test_a_failed_check_leaves_nothing(
    assets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _stub(assets, monkeypatch)

    def corrupt(self: Bundle, progress: object = None) -> None:
        raise Minit2iError("a byte differs")

    monkeypatch.setattr(Bundle, "verify", corrupt)
    done = run(capsys, "demo", "--export", "--output", tmp_path / "d")
    assert (done.code, "sha256: a byte differs" in done.error) == (1, True)
    assert list(tmp_path.iterdir()) == []


def _stub(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle without a network and the runtime that needs none."""
    export = pytest.importorskip("minit2i_deploy.export")

    def stub(checkpoint: Path, bundle: Path, *options: object, **keywords: object) -> Bundle:
        write_files(bundle)
        presets = {name: draft().presets["default"] for name in ("reference", "fast")}
        changed = {"presets": presets, "default_preset": "reference"}
        write_manifest(bundle, dataclasses.replace(draft(), **changed))
        return Bundle.open(bundle)

    monkeypatch.setattr(export, "export_bundle", stub)
    monkeypatch.setattr("minit2i_deploy.cli.demo._RUNTIME", "fake")
    monkeypatch.setattr("minit2i_deploy.demo.shipped.shipped_model", lambda: shipped_model(assets))
    # The prompts are longer than the stub's twelve tokens.
    monkeypatch.setattr(
        "minit2i_deploy.evaluation.shapes.held_out_captions",
        lambda n, seed: [(Spec(kind=k, required=(Requirement(),)), "a") for k in KINDS] * n,
    )
    short = [dataclasses.replace(case, prompt="a") for case in edits.CASES]
    monkeypatch.setattr(edits, "CASES", short)


def test_a_missing_asset_is_one_clear_error(tmp_path: Path) -> None:
    for name in ("model", "student", "text_encoder"):
        (tmp_path / name).mkdir()
    with pytest.raises(Minit2iError, match="tokenizer: missing; install minit2i-deploy again"):
        shipped_model(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    assert shipped_model(tmp_path) == Shipped(
        checkpoint=tmp_path / "model",
        student=tmp_path / "student",
        text_encoder=tmp_path / "text_encoder",
        tokenizer=tmp_path / "tokenizer",
    )


def test_images_are_judged_by_their_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "b"))
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, kind) for kind in KINDS]
    drawn = {caption: draw_scene(scene) for scene, _, caption in scenes}
    shares: list[float] = []

    def perfect(bundle: Bundle, runtime: object, prompts: list[str], **options: object) -> Result:
        images = [Image.fromarray(drawn[prompt]) for prompt in prompts]
        empty = np.zeros((len(prompts), 3, 1, 1), dtype=np.float32)
        return Result(
            images=images, x=empty, timings={}, seeds=(), guidance=1.0, table="t", runtime="fake",
            bundle=bundle, request=Request.of(bundle, prompts),
        )  # fmt: skip

    monkeypatch.setattr("minit2i_deploy.evaluation.shapes.judged_images.generate", perfect)
    captions = [(spec, caption) for _, spec, caption in scenes]
    with FakeRuntime(bundle) as runtime:
        judged = list(
            generate_judged_images(
                bundle, runtime, captions, table=solver_table("euler", steps=1), guidance=1.0,
                batch=4, seed=3, progress=lambda share, label="": shares.append(share),
            )
        )  # fmt: skip
    assert [item.caption for item in judged] == [caption for _, caption in captions]
    assert [item.seed for item in judged] == [3, 4, 5, 6, 7, 8]
    assert all(item.verdict.correct for item in judged)
    outcome = Run(name="r", table=solver_table("euler", steps=1), guidance=1.0, images=judged)
    assert outcome.score().overall.num_correct == 6
    assert outcome.file_name(5) == "pictures/r-05-colour-attribution.png"


@pytest.mark.filterwarnings("ignore:prompt cut")
def test_progress_reaches_the_end_in_even_shares(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "b"))
    shares: list[float] = []
    with FakeRuntime(bundle) as runtime:
        list(
            generate_judged_images(
                bundle, runtime, held_out_captions(1, 0), table=solver_table("euler", steps=2),
                guidance=2.0, batch=3, progress=lambda share, label="": shares.append(share),
            )
        )  # fmt: skip
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_median_times() -> None:
    timings = [
        {"steps": 1.0, "image": 5.0},
        {"steps": 2.0, "image": 1.0},
        {"steps": 9.0, "image": 2.0},
    ]
    assert median_times(timings) == {"steps": 2.0, "image": 2.0, "total": 6.0}


def test_the_machine_is_one_line() -> None:
    machine = describe_machine()
    line = machine_line(machine)
    assert f"numpy {np.__version__}" in line and "\n" not in line
    assert f"{machine['cores']} core" in line
