"""The few-step student through export and the runtimes, against the official sampler."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.flavours import flavour_for
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import CheckpointError, UsageError
from minit2i_deploy.export import ExportOptions, SourceOptions, export_bundle, verify_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import CONDITION_COLUMNS
from tests.helpers.checkpoint_forms import PUBLIC, STUDENT_CONFIG, arrays, base_forms, student_forms
from tests.helpers.tiny_tokenizer import write_tokenizer

# Measured 2.9e-6 in onnxruntime and 2.2e-6 in torch, on states up to 7.7.
MAX_STATE_ERROR = 1e-4
# Measured 2.7e-6 on images up to 3.8.
MAX_RUNTIME_DIFFERENCE = 5e-5


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden student as a training checkpoint, with text encoder and tokenizer beside it."""
    folder = tmp_path_factory.mktemp("student")
    path, arguments = student_forms()["flax-msgpack"]
    checkpoint = load_checkpoint(path, **arguments)
    (folder / "checkpoint").mkdir()
    save_file(checkpoint.tensors, folder / "checkpoint" / "ema.safetensors")
    header = {
        "format": "minit2i-training",
        "version": 1,
        "step": 1,
        "config": checkpoint.config.to_dict(),
        "recipe": {},
    }
    (folder / "checkpoint" / "checkpoint.json").write_text(json.dumps(header), encoding="utf-8")
    shutil.copytree(PUBLIC / "t5" / "text_encoder", folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def bundle(sources: Path) -> Bundle:
    return export_bundle(
        sources / "checkpoint",
        sources / "bundle",
        ExportOptions(text_encoder=sources / "text_encoder"),
    )


def test_the_adapter_graph_takes_conditions(bundle: Bundle) -> None:
    adapter = bundle.manifest.graphs["text_adapter"]
    assert set(adapter.inputs) == {"context", "mask", "conditions"}
    assert adapter.inputs["conditions"].shape == ("n", 4)
    assert adapter.outputs["tokens"].shape == ("n", 12 + 20, 64)
    assert set(bundle.manifest.graphs["transformer"].inputs) == {
        "x", "h", "tokens", "image", "sequence", "weights", "row", "known", "known_mask",
    }  # fmt: skip


def test_the_reference_preset_is_the_released_recipe(bundle: Bundle) -> None:
    table, guidance = bundle.preset()
    assert (bundle.manifest.default_preset, table.name, guidance) == (
        "reference",
        "mean-flow-4",
        12,
    )
    assert table.conditions().tolist() == [[0.25, 12.0, 0.2, 0.8]] * 4
    assert bundle.manifest.flavour.name == "mean-flow"
    assert {check.name for check in bundle.manifest.checks} >= {
        "text_encoder", "text_adapter", "transformer", "trajectory",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_official_trajectory(bundle: Bundle, name: str) -> None:
    golden = arrays("mf_sampler")
    table, _ = bundle.preset()
    states = np.ascontiguousarray(golden["z"].transpose(0, 1, 4, 2, 3))
    rows = np.tile(table.conditions()[0].astype(np.float32), (2, 1))
    with open_runtime(bundle, name) as runtime:
        tokens = runtime.adapt(golden["context"], golden["mask"].astype(np.int64), rows)
        state = runtime.start(states[0], tokens[None])
        for row in table.steps(12.0):
            state.step(row)
            assert np.abs(state.state()[0] - states[row.index + 1]).max() <= MAX_STATE_ERROR
        assert np.array_equal(to_uint8(state.state()[0]), golden["images_uint8"])


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_each_condition_reaches_the_tokens(bundle: Bundle, name: str) -> None:
    golden = arrays("mf_sampler")
    context, mask = golden["context"], golden["mask"].astype(np.int64)
    conditions = np.tile(np.array([0.25, 12.0, 0.2, 0.8], np.float32), (2, 1))
    with open_runtime(bundle, name) as runtime:
        tokens = runtime.adapt(context, mask, conditions)
        for index in range(len(CONDITION_COLUMNS)):
            other = conditions.copy()
            other[1, index] *= 0.5
            changed = np.abs(runtime.adapt(context, mask, other) - tokens).max(axis=(1, 2))
            # The first of the two keeps its condition; measured 0 there, at least 0.12 here.
            assert changed[0] < 1e-5 and changed[1] > 0.01, CONDITION_COLUMNS[index]


def test_runtimes_agree_and_omega_counts(bundle: Bundle) -> None:
    images, others = [], []
    for name in ("onnxruntime", "torch"):
        with open_runtime(bundle, name) as runtime:
            result = generate(bundle, runtime, ["red circle", ""], seed=3)
            assert (result.guidance, result.table) == (12.0, "mean-flow-4")
            images.append(result.x)
            others.append(generate(bundle, runtime, ["red circle", ""], seed=3, guidance=3.0).x)
    assert np.abs(images[0] - images[1]).max() <= MAX_RUNTIME_DIFFERENCE
    assert np.abs(others[0] - others[1]).max() <= MAX_RUNTIME_DIFFERENCE
    # Measured 0.079.
    assert np.abs(others[0] - images[0]).max() > 0.01


def test_a_base_models_flavour_is_refused_and_leaves_nothing(sources: Path) -> None:
    with pytest.raises(UsageError, match=r"'jax-b16' does not fit a few-step student"):
        export_bundle(
            sources / "checkpoint",
            sources / "other",
            ExportOptions(text_encoder=sources / "text_encoder", flavour="jax-b16"),
        )
    assert not (sources / "other").exists()
    path, arguments = base_forms()["huggingface"]
    with pytest.raises(UsageError, match=r"'mean-flow' does not fit a base model"):
        flavour_for(load_checkpoint(path, **arguments).config, "mean-flow")
    assert flavour_for(STUDENT_CONFIG, "mean-flow") == flavour_for(STUDENT_CONFIG, None)


def test_the_checkpoint_s_conditions_are_used(
    sources: Path, bundle: Bundle, tmp_path: Path
) -> None:
    conditions = {"omega": 4.0, "t_min": 0.1, "t_max": 0.7}
    source = _with_conditions(sources, tmp_path / "checkpoint", conditions)
    result = export_bundle(
        source, tmp_path / "bundle", ExportOptions(text_encoder=sources / "text_encoder")
    )
    for table, expected in (
        (result.preset()[0], [0.25, 4.0, 0.1, 0.7]),
        (result.compile_table("mean-flow", 2), [0.5, 4.0, 0.1, 0.7]),
        (bundle.preset()[0], [0.25, 12.0, 0.2, 0.8]),
    ):
        assert table.conditions().tolist() == [expected] * len(table)
    assert (result.preset()[1], bundle.preset()[1]) == (4.0, 12.0)
    for guidance, checks in (("4", result.manifest.checks), ("12", bundle.manifest.checks)):
        (where,) = {check.where for check in checks if check.name == "trajectory"}
        assert where.endswith(f"mean-flow-4 at guidance {guidance}")
    (again,) = (
        check
        for check in verify_bundle(
            result.path, source, SourceOptions(text_encoder=sources / "text_encoder")
        )
        if check.name == "trajectory"
    )
    assert again.where.endswith("at guidance 4")
    # The official code that is imitated stays what it is.
    assert result.manifest.flavour == bundle.manifest.flavour


@pytest.mark.parametrize(
    "conditions",
    [
        {"omega": 4.0},
        {"omega": 0.5, "t_min": 0.1, "t_max": 0.7},
        {"omega": 4.0, "t_min": 0.8, "t_max": 0.7},
        {"omega": "4", "t_min": 0.1, "t_max": 0.7},
        [4.0, 0.1, 0.7],
    ],
)
def test_wrong_conditions_are_refused(sources: Path, tmp_path: Path, conditions: object) -> None:
    source = _with_conditions(sources, tmp_path / "checkpoint", conditions)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: told is .* expected"):
        load_checkpoint(source)


def _with_conditions(sources: Path, folder: Path, conditions: object) -> Path:
    shutil.copytree(sources / "checkpoint", folder)
    header = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    (folder / "checkpoint.json").write_text(
        json.dumps(header | {"told": conditions}), encoding="utf-8"
    )
    return folder
