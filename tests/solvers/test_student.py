"""The few-step student: network and sampler against the official outputs, and its tables."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import Preset
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.config import StudentConfig
from minit2i_deploy.errors import UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.model import MMJiT, Step, build_network
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.model.student import StudentAdapter, sinusoid
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import (
    COLUMNS,
    CONDITION_COLUMNS,
    Table,
    solver_table,
)
from tests.helpers.bundles import CONFIG, draft, write_files
from tests.helpers.checkpoint_forms import arrays, base_forms, student_forms

# Measured 2.2e-6 on outputs up to 4.1.
MAX_ABS_ERROR = 1e-5
# Measured 2.2e-6 over the four steps, on states up to 7.7.
MAX_STATE_ERROR = 1e-4


def network(form: str = "flax-msgpack", ema: bool | str = True) -> MMJiT:
    path, arguments = student_forms()[form]
    return build_network(load_checkpoint(path, ema=ema, **arguments))


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


def golden_inputs() -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    golden = arrays("mf_forward")
    return golden, {name: torch.from_numpy(golden[name]) for name in CONDITION_COLUMNS}


def forward(net: MMJiT) -> np.ndarray:
    golden, conditions = golden_inputs()
    context, mask = (torch.from_numpy(golden[name]) for name in ("context", "mask"))
    with torch.inference_mode():
        x0 = net(channels_first(golden["img"]), context, mask, **conditions)
    return np.moveaxis(x0.numpy(), 1, -1)


@pytest.mark.parametrize("form", sorted(student_forms()))
def test_deployed_weights(form: str) -> None:
    golden = arrays("mf_forward")
    error = np.abs(forward(network(form)) - golden["out"])
    assert error.max() <= MAX_ABS_ERROR
    # The time has no influence: it is given to the official network, two values, and not to ours.
    assert golden["t"][0] != golden["t"][1]


def test_ema_weights() -> None:
    golden = arrays("mf_forward")
    out = forward(network(ema="2000"))
    assert np.abs(out - golden["out_ema"]).max() <= MAX_ABS_ERROR
    assert np.abs(out - golden["out"]).max() > 1


def test_the_teacher_is_the_base_network() -> None:
    golden = arrays("mf_forward")
    path, arguments = base_forms()["flax-msgpack"]
    net = build_network(load_checkpoint(path, **arguments))
    context, mask = (torch.from_numpy(golden[name]) for name in ("context", "mask"))
    with torch.inference_mode():
        x0 = net(channels_first(golden["img"]), context, mask).numpy()
    # Measured 1.7e-6.
    assert np.abs(np.moveaxis(x0, 1, -1) - golden["teacher_out"]).max() <= MAX_ABS_ERROR


def test_conditions_of_the_wrong_kind_of_network_are_refused() -> None:
    golden, conditions = golden_inputs()
    x = channels_first(golden["img"])
    context, mask = (torch.from_numpy(golden[name]) for name in ("context", "mask"))
    path, arguments = base_forms()["huggingface"]
    base = build_network(load_checkpoint(path, **arguments))
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        base(x, context, mask, **conditions)
    with pytest.raises(TypeError, match="omega"):
        network()(x, context, mask)


def test_one_number_tells_every_image_the_same() -> None:
    net = network()
    golden, conditions = golden_inputs()
    x = channels_first(golden["img"])
    context, mask = (torch.from_numpy(golden[name]) for name in ("context", "mask"))
    values = {name: float(value[0]) for name, value in conditions.items()}
    each = {name: torch.full((len(x),), value) for name, value in values.items()}
    with torch.inference_mode():
        expected = net(x, context, mask, **each)
        for conditions in (values, {name: torch.tensor(value) for name, value in values.items()}):
            assert torch.equal(net(x, context, mask, **conditions), expected)
        with pytest.raises(UsageError, match=r"h must be one number or \[2\], .*, got \[3\]"):
            net(x, context, mask, **{**each, "h": torch.zeros(3)})
        with pytest.raises(UsageError, match=r"omega must be .*, got \[2, 1\]"):
            net(x, context, mask, **{**each, "omega": torch.ones(2, 1)})


def adapter() -> StudentAdapter:
    intermediate = network().text_adapter
    assert isinstance(intermediate, StudentAdapter)
    return intermediate


def test_embedders_and_prefix() -> None:
    golden, conditions = golden_inputs()
    net = adapter()
    context, mask = (torch.from_numpy(golden[name]) for name in ("context", "mask"))
    inputs = {**conditions, "omega": 1 - 1 / conditions["omega"]}
    with torch.inference_mode():
        masked = net._masked(context, mask)
        intermediate = {
            f"mid_{name}_embedder": getattr(net, f"{name}_embedder")(value)
            for name, value in inputs.items()
        }
        intermediate["mid_aux_pooled_embedder"] = net.aux_pooled_embedder(masked.mean(1))
        intermediate["mid_aux_tokens"] = net.condition_tokens(masked, **conditions)
    for name, value in intermediate.items():
        # Measured at most 3.9e-6.
        assert np.abs(value.numpy() - golden[name]).max() <= MAX_ABS_ERROR, name


def test_first_double_block() -> None:
    golden = arrays("mf_forward")
    net = network()
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = net.denoiser.double_blocks[0].register_forward_hook(
        lambda block, inputs, output: outputs.append(output)
    )
    forward(net)
    hook.remove()
    img, txt = outputs[0]
    # Measured 1.2e-6 and 4.8e-6.
    assert np.abs(img.numpy() - golden["mid_double_0_img"]).max() <= MAX_ABS_ERROR
    assert np.abs(txt.numpy() - golden["mid_double_0_txt"]).max() <= MAX_ABS_ERROR


def test_sinusoid_is_a_complex_exponential() -> None:
    value = np.array([0.0, 0.25, 0.916, 1.0])
    frequency = 10000.0 ** (-np.arange(128) / 128)
    wave = np.exp(1j * np.outer(value, frequency))
    got = sinusoid(torch.from_numpy(value).to(torch.bfloat16))
    assert got.dtype == torch.float32
    got = sinusoid(torch.from_numpy(value))
    # Float32 rounding; measured 6e-8.
    assert np.abs(got.numpy() - np.hstack([wave.real, wave.imag])).max() < 5e-7


def test_four_steps_through_the_table() -> None:
    golden = arrays("mf_sampler")
    conditions = {name: float(golden[name]) for name in ("omega", "t_min", "t_max")}
    table = solver_table("mean-flow", steps=4, **conditions)
    np.testing.assert_allclose(1 - table.column("t"), golden["timesteps"][:-1], atol=1e-7)
    net = network()
    context, mask = (torch.from_numpy(golden[name]) for name in ("context", "mask"))
    conditions = torch.tensor(table.conditions()[0], dtype=torch.float32).expand(2, 4)
    with torch.inference_mode():
        tokens = net.text_adapter(context, mask, *conditions.unbind(1))[None]
    x = channels_first(golden["z"][0])
    for index, (state, _) in enumerate(run_table(Step(net.denoiser), x, tokens, table, 12.0)):
        expected = np.moveaxis(golden["z"][index + 1], -1, 1)
        assert np.abs(state.numpy() - expected).max() <= MAX_STATE_ERROR
    assert index == 3
    assert np.array_equal(to_uint8(state.numpy()), golden["images_uint8"])


def test_table_is_the_textbook_sampler() -> None:
    rng = np.random.default_rng(4)
    table = solver_table("mean-flow", steps=25, a_min=0.05)
    z = x = rng.standard_normal(50)
    noise = np.linspace(1.0, 0.0, 26)
    pairs = itertools.pairwise(noise)
    for row, (now, after) in zip(table.steps(dtype=np.float64), pairs, strict=True):
        x0 = np.tanh(z + 0.1)
        z = z - (now - after) * (z - x0) / max(now, 0.05)
        a, b, c, s, *_ = row.values
        x = a * x + b * np.tanh(x + 0.1)
        assert c == s == 0.0
    # Float64 rounding; measured 2e-15.
    assert np.abs(x - z).max() < 1e-13


def test_table_tells_the_student_and_runs_one_branch(tmp_path: Path) -> None:
    table = solver_table("mean-flow", steps=3, omega=5.0)
    assert table.columns == COLUMNS + CONDITION_COLUMNS
    assert table.conditions().tolist() == [[1 / 3, 5.0, 0.2, 0.8]] * 3
    assert all(row.weights.tolist() == [1.0] for row in table.steps(7.0))
    assert table.is_conditioned and not solver_table("euler", steps=3).is_conditioned
    assert (table.student_guidance, solver_table("euler", steps=3).student_guidance) == (5.0, None)
    table.save(tmp_path / "t.json")
    assert Table.load(tmp_path / "t.json") == table


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"solver": "euler", "omega": 3.0},
            "euler has no omega; only a student's has, mean-flow",
        ),
        ({"interval": (0.2, 0.8)}, "takes no interval, got .*guides between t_min and t_max"),
        ({"omega": 0.5}, "omega must be 1"),
        ({"omega": float("nan")}, "every value must be finite"),
        ({"t_min": 0.9}, "t_min <= t_max"),
        ({"t_max": 1.1}, "t_min <= t_max"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        solver_table(**{"solver": "mean-flow", "steps": 4, **arguments})


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [("h", 1.5, "h must be"), ("share", 1.0, "share must be 0"), ("omega", 0.0, "omega must be")],
)
def test_wrong_columns_are_refused(column: str, value: float, text: str) -> None:
    table = solver_table("mean-flow", steps=4)
    rows = table.rows.copy()
    rows[2, table.columns.index(column)] = value
    with pytest.raises(UsageError, match=f"row 2: {text}"):
        Table(name="x", columns=table.columns, rows=rows)
    with pytest.raises(UsageError, match="has columns"):
        Table(name="x", columns=table.columns[:-1], rows=rows[:, :-1])


def fake_bundle(folder: Path) -> Bundle:
    write_files(folder)
    solver_table("mean-flow", steps=4).save(folder / "tables" / "mean-flow-4.json")
    manifest = draft()
    manifest = dataclasses.replace(
        manifest,
        model=dataclasses.replace(CONFIG, student=StudentConfig()),
        tables={**manifest.tables, "mean-flow-4": "tables/mean-flow-4.json"},
        presets={"default": Preset(table="mean-flow-4", guidance=12.0)},
    )
    write_manifest(folder, manifest)
    return Bundle.open(folder)


def test_guidance_of_a_student_is_omega(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path / "bundle")
    table = solver_table("mean-flow", steps=4, omega=5.0)
    with open_runtime(bundle, "fake") as runtime:
        preset = generate(bundle, runtime, "a")
        same = generate(bundle, runtime, "a", table=table, guidance=12.0)
        from_table = generate(bundle, runtime, "a", table=table)
        conditions = generate(bundle, runtime, "a", guidance=5.0)
    assert (preset.guidance, same.guidance, from_table.guidance, conditions.guidance) == (
        12,
        12,
        5,
        5,
    )
    assert np.array_equal(preset.x, same.x) and np.array_equal(from_table.x, conditions.x)
    assert np.abs(preset.x - from_table.x).max() > 0.1


def test_what_does_not_fit_a_student_is_refused(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path / "bundle")
    table = solver_table("mean-flow", steps=4)
    rows = table.rows.copy()
    rows[1, table.columns.index("h")] = 0.5
    uneven = Table(name="uneven", columns=table.columns, rows=rows)
    with open_runtime(bundle, "fake") as runtime:
        with pytest.raises(UsageError, match="takes no negative prompt"):
            generate(bundle, runtime, "a", negative="b")
        with pytest.raises(UsageError, match=r"table euler-4 does not fit .*, a student"):
            generate(bundle, runtime, "a", table=bundle.table("euler-4"))
        with pytest.raises(UsageError, match=r"guidance of a student must be .*, got 0\.5"):
            generate(bundle, runtime, "a", guidance=0.5)
        with pytest.raises(UsageError, match=r"guidance of a student must be .*, got nan"):
            generate(bundle, runtime, "a", guidance=float("nan"))
        with pytest.raises(UsageError, match="change from row to row"):
            generate(bundle, runtime, "a", table=uneven)
        with pytest.raises(UsageError, match="a few-step student needs conditions"):
            runtime.adapt(np.zeros((1, 12, 32), np.float32), np.zeros((1, 12), np.int64))


def test_a_base_model_takes_no_student_table(tmp_path: Path) -> None:
    write_files(tmp_path / "bundle")
    write_manifest(tmp_path / "bundle", draft())
    bundle = Bundle.open(tmp_path / "bundle")
    with open_runtime(bundle, "fake") as runtime:
        with pytest.raises(UsageError, match=r"table mean-flow-4 does not fit .*, a base model"):
            generate(bundle, runtime, "a", table=solver_table("mean-flow", steps=4))
        with pytest.raises(UsageError, match="a base model takes no conditions"):
            runtime.adapt(
                np.zeros((1, 12, 32), np.float32),
                np.zeros((1, 12), np.int64),
                np.ones((1, 4), np.float32),
            )
