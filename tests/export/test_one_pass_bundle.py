"""Bundles whose weights give the guided estimate in one branch: tables, requests, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.other_steps import with_steps
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.lora_file import BASE_SHA256
from minit2i_deploy.cli import main
from minit2i_deploy.editing.edit import Edit
from minit2i_deploy.errors import BundleError, CheckpointError, UsageError
from minit2i_deploy.export import ExportOptions, export_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.request import Request
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.serving.engine.served_model import ImageSettings, ServedModel
from minit2i_deploy.solvers.guidance import adjust_guidance, one_pass_table
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.prompts import Mix
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

SCALE = 3.0


def adapter(folder: Path, **settings: Any) -> Path:
    """One that gives guidance, small enough for float32 to stay in range."""
    write_adapter(folder, targets=["final_layer.linear"], **{"one_pass_guidance": SCALE} | settings)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("one-pass")
    options = ExportOptions(text_encoder=text_folder(), lora=adapter(folder / "adapter"))
    return export_bundle(hub_folder(), folder / "bundle", options)


def edit_of(bundle: Bundle, strength: float) -> Edit:
    """Begins with a grey image."""
    image = np.zeros((1, *bundle.manifest.model.image_shape), np.float32)
    return Edit.of(bundle, 1, init_image=image, strength=strength)


def branches(bundle: Bundle, **arguments: Any) -> list[int]:
    prompts = arguments.pop("prompts", "a red circle")
    return [len(row.weights) for row in Request.of(bundle, prompts, **arguments).rows]


def test_the_manifest_names_the_scale_and_no_table_is_guided(bundle: Bundle) -> None:
    assert bundle.manifest.one_pass_guidance == SCALE
    assert '"one_pass_guidance": 3.0' in (bundle.path / "manifest.json").read_text("utf-8")
    for name in bundle.manifest.tables:
        table = bundle.table(name)
        assert name.endswith("-one-pass") and not table.column("share").any()
    assert {preset.guidance for preset in bundle.manifest.presets.values()} == {SCALE}
    assert branches(bundle) == [1] * len(bundle.preset()[0])


def test_presets_take_half_the_evaluations_of_two_branches(bundle: Bundle) -> None:
    assert len(bundle.preset("reference")[0]) == 100
    assert len(bundle.preset("balanced")[0]) <= 32
    assert len(bundle.preset("fast")[0]) <= 16


def test_images_are_those_of_the_merged_weights_in_one_branch(
    bundle: Bundle,
) -> None:
    manifest = dataclasses.replace(bundle.manifest, one_pass_guidance=None)
    other = dataclasses.replace(bundle, manifest=manifest)
    images = []
    for each, guidance in ((bundle, None), (bundle, SCALE), (other, 1.0)):
        table = each.compile_table("ab2", 4)
        with open_runtime(each, "onnxruntime") as runtime:
            images.append(generate(each, runtime, "red", table=table, guidance=guidance).x)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_tables_from_elsewhere_and_other_steps_have_one_branch(bundle: Bundle) -> None:
    assert branches(bundle, table=solver_table("heun", steps=3)) == [1] * 5
    assert not bundle.compile_table("dpmpp2m", 3).column("share").any()
    other = with_steps(bundle, bundle.preset("fast")[0], 5)
    assert other.name == "ab2-5-shift2-one-pass" and not other.column("share").any()
    started = start_table(bundle.preset()[0], 0.5)
    assert len(started) > 1 and not started.column("share").any()


def test_a_mix_costs_one_evaluation_a_part(bundle: Bundle) -> None:
    mix = Mix(parts=(("a red circle", 1.0), ("a blue square", 3.0)))
    request = Request.of(bundle, mix, table=solver_table("ab2", steps=2))
    assert [row.weights.tolist() for row in request.rows] == [[0.25, 0.75]] * 2


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_an_interval_is_refused(bundle: Bundle, strength: float) -> None:
    # Compiled again from a later start, the interval's rows would be guided once more.
    edit = edit_of(bundle, strength)
    for ends in ((0.2, 0.6), (0.0, 1.0), (1.0, 1.0)):
        table = adjust_guidance(bundle.preset()[0], interval=ends)
        with pytest.raises(UsageError, match=r"is part of the weights .*; omit the interval"):
            Request.of(bundle, "red", table=table, edit=edit)


def test_a_rescale_is_refused(bundle: Bundle) -> None:
    table = adjust_guidance(bundle.preset()[0], rescale=0.5)
    with pytest.raises(UsageError, match="has guidance rescale"):
        Request.of(bundle, "red", table=table)


def test_a_later_start_has_one_branch_whatever_the_meta_says(bundle: Bundle) -> None:
    table = bundle.preset()[0]
    meta = {name: value for name, value in table.meta.items() if name != "interval"}
    request = Request.of(
        bundle, "red", table=dataclasses.replace(table, meta=meta), edit=edit_of(bundle, 0.7)
    )
    assert len(request.rows) > 1 and not request.guided


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"guidance": 4.0}, "(one-pass adapter), got 4; omit it"),
        ({"guidance": 1.0}, "got 1; omit it"),
        ({"negative": "blur"}, "has no branch for a negative prompt"),
        (
            {"table": adjust_guidance(solver_table("ab2", steps=4), interval=(0.2, 0.8))},
            "guides some rows only",
        ),
        ({"table": solver_table("ab2", steps=4, rescale=0.5)}, "has guidance rescale"),
    ],
)
def test_what_one_branch_cannot_do_is_refused(
    arguments: dict[str, Any], text: str, bundle: Bundle
) -> None:
    with pytest.raises(UsageError) as caught:
        Request.of(bundle, "red", **arguments)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_refuses_another_scale(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", str(bundle.path), "red", "-o", str(tmp_path / "red.png")]
    assert main([*arguments, "--guidance", "5"]) == 2
    assert "guidance 3 is part of the weights" in capsys.readouterr().err
    assert main(["inspect", str(bundle.path)]) == 0
    assert "3, in one pass" in capsys.readouterr().out


def test_a_server_says_what_it_does_not_take(bundle: Bundle) -> None:
    model = ServedModel(name="shapes", bundle=bundle)
    settings = ImageSettings(prompt="red", negative="blur", guidance=7.0)
    planned = model.plan(settings, strict=False)
    assert planned.guidance == SCALE and not planned.requests[0].guided
    assert len(planned.notices) == 2 and "negative" in planned.notices[0]
    with pytest.raises(UsageError, match="takes no negative prompt"):
        model.plan(settings, strict=True)


def test_strengths_and_second_adapters_are_refused(tmp_path: Path) -> None:
    first, second = adapter(tmp_path / "first"), adapter(tmp_path / "second")
    with pytest.raises(UsageError, match=r"known at strength 1 alone, got 0\.5"):
        load_checkpoint(hub_folder(), lora={str(first): 0.5})
    with pytest.raises(UsageError, match="both give guidance in one pass"):
        load_checkpoint(hub_folder(), lora={str(first): 1.0, str(second): 1.0})
    style = adapter(tmp_path / "style", one_pass_guidance=None)
    merged = load_checkpoint(hub_folder(), lora={str(first): 1.0, str(style): 0.5})
    assert [item.one_pass_guidance for item in merged.report.adapters].count(SCALE) == 1


def test_another_base_is_refused_with_both_digests(tmp_path: Path) -> None:
    file = adapter(tmp_path / "adapter") / "adapter_model.safetensors"
    save_file(load_file(file), file, {BASE_SHA256: "3f" * 32})
    digest = load_checkpoint(hub_folder()).report.sha256
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(hub_folder(), lora=tmp_path / "adapter")
    assert "3f3f3f3f3f3f" in str(caught.value) and digest[:12] in str(caught.value)


@pytest.mark.parametrize("scale", [1.0, "high", True, float("inf")])
def test_scales_that_are_none_are_refused(scale: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="one_pass_guidance is"):
        load_checkpoint(hub_folder(), lora=adapter(tmp_path / "a", one_pass_guidance=scale))
    if type(scale) is float and scale == 1.0:
        manifest = Bundle.open(tiny_bundle()).manifest
        with pytest.raises(BundleError, match="one_pass_guidance must be a finite number above 1"):
            dataclasses.replace(manifest, one_pass_guidance=scale).to_bytes()


def test_a_refit_keeps_the_way_of_guidance(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The base's tables have two branches.
    lora = str(adapter(tmp_path / "adapter"))
    arguments = ["-o", str(tmp_path / "out"), "--engine", "onnxruntime"]
    assert main(["refit", str(tiny_bundle()), "--lora", lora, *arguments]) == 2
    error = capsys.readouterr().err
    assert "two branches and the new weights by one pass at 3" in error
    checkpoint = ["--checkpoint", str(hub_folder())]
    assert main(["refit", str(bundle.path), *checkpoint, *arguments]) == 2
    assert "one pass at 3 and the new weights by two branches" in capsys.readouterr().err


def test_an_unguided_table_stays_as_it_is() -> None:
    table = one_pass_table(solver_table("ab2", steps=4))
    assert one_pass_table(table) is table
    student = solver_table("mean-flow", steps=4)
    assert one_pass_table(student) is student
