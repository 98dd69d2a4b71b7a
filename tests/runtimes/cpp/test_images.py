"""The C++ client's noise, states, images and records against the Python side's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli import main
from minit2i_deploy.errors import SettingIgnoredWarning
from minit2i_deploy.generate import generate
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.io.images import read_metadata
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.text.prompts import Mix
from tests.helpers import cpp_client
from tests.helpers.cpp_bundles import (
    cpu_bundle,
    one_pass_bundle,
    shipped_bundle,
    shipped_student,
    switch_bundle,
)
from tests.helpers.cpp_client import program
from tests.helpers.looped import looped_bundle
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

# Measured 0; where numpy brings its own logarithm and sine, the last bit may differ.
MAX_NOISE_ERROR = 1e-6
# Measured 0: the same library runs the same graphs.
MAX_STATE_ERROR = 1e-4
MIN_EQUAL_SHARE = 0.999

# The shipped models as they are, and quantized in each form that onnxruntime runs on a CPU.
FORMS = (None, "int8", "int8-cpu", "int8-weights")


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**64 - 1])
@pytest.mark.parametrize("stream", [0, 3, 2**32 - 1])
def test_noise(seed: int, stream: int) -> None:
    for count in (1, 2, 3, 4, 3 * 64 * 64 + 1):
        actual = cpp_client.noise(seed, stream, count)
        expected = standard_noise(seed, [count], stream=stream)
        assert np.abs(actual - expected).max() <= MAX_NOISE_ERROR


def check(
    tmp_path: Path,
    bundle_path: Path,
    options: list[object],
    table: Table | None = None,
    also: tuple[tuple[str, float], ...] = (),
    **arguments: Any,
) -> None:
    """Generate in both languages; states, bytes and records must agree."""
    bundle = Bundle.open(bundle_path)
    prompt = Mix(parts=(("a red circle", 1.0), *also))
    files = ("-o", tmp_path / "a.png", "--save-state", tmp_path / "a.npy")
    program("minit2i-generate", bundle_path, "a red circle", *options, "--threads", 2, *files)
    with open_runtime(bundle, "onnxruntime") as runtime:
        expected = generate(bundle, runtime, prompt, table=table, **arguments)
    state = np.load(tmp_path / "a.npy")
    assert state.dtype == np.float32 and state.shape == expected.x.shape
    assert np.abs(state - expected.x).max() <= MAX_STATE_ERROR
    pixels = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    difference = np.abs(pixels - np.asarray(expected.images[0]).astype(int))
    assert (difference <= 1).mean() >= MIN_EQUAL_SHARE
    noise = arguments.get("noise")
    record = Record.of(
        bundle,
        table or bundle.preset()[0],
        prompt=prompt,
        seed=arguments.get("seed", 0),
        guidance=expected.guidance,
        negative=arguments.get("negative"),
        noise=None if noise is None else noise[0],
        runtime="onnxruntime",
    )
    assert read_metadata(tmp_path / "a.png") == record.fields(
        num_rows=len(table or bundle.preset()[0])
    )


@pytest.fixture(scope="module", params=FORMS)
def base(request: pytest.FixtureRequest) -> Path:
    return shipped_bundle(request.param)


@pytest.fixture(scope="module", params=FORMS)
def student(request: pytest.FixtureRequest) -> Path:
    return shipped_student(request.param)


def test_the_default_preset(tmp_path: Path, base: Path) -> None:
    check(tmp_path, base, [])


def test_guidance_seed_and_negative_prompt(tmp_path: Path, base: Path) -> None:
    table = solver_table("euler", steps=6)
    table.save(tmp_path / "own.json")
    options = ["--table", tmp_path / "own.json", "--guidance", "6.5", "--seed", 2**64 - 1]
    options += ["--negative", 'gr\u00fcn \u597d\n"\\']
    check(
        tmp_path, base, options, table, guidance=6.5, seed=2**64 - 1,
        negative="gr\u00fcn \u597d\n\"\\",
    )  # fmt: skip


def test_interval_runs_one_branch_outside(tmp_path: Path, base: Path) -> None:
    table = adjust_guidance(Bundle.open(base).table("euler-20"), interval=(0.3, 0.7))
    options = ["--table", "euler-20", "--guidance", "4", "--interval", "0.3,0.7"]
    check(tmp_path, base, options, table, guidance=4.0)


def test_guidance_in_one_pass(tmp_path: Path) -> None:
    options = ["--preset", "fast", "--seed", "3", "--guidance", "2.5"]
    bundle = one_pass_bundle()
    table = Bundle.open(bundle).table("ab2-20")
    assert not table.column("share").any()
    check(tmp_path, bundle, options, table, seed=3, guidance=2.5)


def test_student(tmp_path: Path, student: Path) -> None:
    check(tmp_path, student, ["--seed", "3"], seed=3)
    check(tmp_path, student, ["--guidance", "3"], guidance=3.0)


def test_a_looped_network(tmp_path: Path) -> None:
    """Two passes over its core blocks; the loop is in the graph, and its tables are the same."""
    check(tmp_path, looped_bundle(), ["--seed", "3"], seed=3)
    options = ["--seed", "3", "--guidance", "4", "--negative", "green"]
    check(tmp_path, looped_bundle(), options, seed=3, guidance=4.0, negative="green")


def test_a_bundle_for_this_provider_alone(tmp_path: Path) -> None:
    check(tmp_path, cpu_bundle(), ["--seed", "4"], seed=4)
    for provider in ("cuda", "tensorrt"):
        options = ("--provider", provider, "-o", tmp_path / "b.png")
        line = program("minit2i-generate", cpu_bundle(), "a red circle", *options, code=1)
        reason = "is for provider cpu of onnxruntime alone (export --for cpu), so "
        assert f"{cpu_bundle()}: {reason}{provider} cannot run it" in line and line.count("\n") == 1
        assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("solver", ["ab2", "heun", "dpmpp2m"])
def test_rows_after_the_switch_run_the_other_graph(tmp_path: Path, solver: str) -> None:
    table = solver_table(solver, steps=6)
    table.save(tmp_path / "own.json")
    options = ["--table", tmp_path / "own.json", "--guidance", "3", "--seed", "5"]
    check(tmp_path, switch_bundle(), options, table, guidance=3.0, seed=5)
    switched = np.load(tmp_path / "a.npy")
    for scheme in (None, "int8-cpu"):
        base = shipped_bundle(scheme)
        state = ("-o", tmp_path / "b.png", "--save-state", tmp_path / "b.npy")
        program("minit2i-generate", base, "a red circle", *options, "--threads", 2, *state)
        assert np.abs(np.load(tmp_path / "b.npy") - switched).max() > MAX_STATE_ERROR


@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        ("sde", {}),
        ("heun", {"clip": 1.0, "rescale": 0.7}),
        ("dpmpp2m", {"grid": "shifted", "shift": 3.0}),
        ("euler", {"a_min": 1e-5, "interval": (0.1, 0.2)}),
    ],
)
def test_a_table_from_a_file(tmp_path: Path, solver: str, settings: dict[str, Any]) -> None:
    table = solver_table(solver, steps=7, **settings)
    table.save(tmp_path / "own.json")
    options = ["--table", tmp_path / "own.json", "--guidance", "3", "--seed", "5"]
    check(tmp_path, shipped_bundle(), options, table, guidance=3.0, seed=5)


def test_noise_from_a_file(tmp_path: Path) -> None:
    size = Bundle.open(tiny_bundle()).config.image_size
    noise = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    check(tmp_path, tiny_bundle(), ["--noise", tmp_path / "noise.npy"], noise=noise)
    np.save(tmp_path / "noise.npy", noise[0])
    check(tmp_path, tiny_bundle(), ["--noise", tmp_path / "noise.npy"], noise=noise)


def test_a_mix_of_prompts(tmp_path: Path, base: Path) -> None:
    for text, weight in (("two blue squares", 0.5), ("it's \u597d", -0.25)):
        options = ["--also", f"{text}:{weight}", "--seed", "2"]
        check(tmp_path, base, options, also=((text, weight),), seed=2)


def test_a_mix_of_three_prompts(tmp_path: Path) -> None:
    options = ["--also", "green:0.5", "--also=two circles:0.25"]
    check(tmp_path, tiny_bundle(), options, also=(("green", 0.5), ("two circles", 0.25)))


def test_student_takes_its_tables_guidance(tmp_path: Path) -> None:
    table = solver_table("mean-flow", steps=2, omega=5.0)
    table.save(tmp_path / "own.json")
    check(tmp_path, shipped_student(), ["--table", tmp_path / "own.json"], table, guidance=5.0)


def test_images_do_not_depend_on_their_batch(tmp_path: Path) -> None:
    base = ("minit2i-generate", tiny_bundle(), "a red circle", "--table", "euler-20")
    program(*base, "--seed", "4,9", "-o", tmp_path / "a.png", "--save-state", tmp_path / "a.npy")
    program(*base, "--seed", "9", "-o", tmp_path / "b.png", "--save-state", tmp_path / "b.npy")
    both, one = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert np.abs(both[1] - one[0]).max() <= MAX_STATE_ERROR
    assert np.abs(both[0] - both[1]).max() > 0.1
    assert read_metadata(tmp_path / "a-9.png") == read_metadata(tmp_path / "b.png")


def test_what_json_says_of_each_image(tmp_path: Path) -> None:
    base = ("minit2i-generate", tiny_bundle(), "a red circle", "--table", "euler-20")
    output = ("--seed", "4,9", "-o", tmp_path / "a.png", "--json")
    values = [json.loads(line) for line in program(*base, *output).splitlines()]
    assert [value["path"] for value in values] == [
        str(tmp_path / name) for name in ("a-4.png", "a-9.png")
    ]
    for value in values:
        assert value["prompt"] == "a red circle" and value["rows"] == 20


def test_prompts_from_standard_input(tmp_path: Path) -> None:
    base = ("minit2i-generate", tiny_bundle(), "--table", "euler-20", "--seed", "4")
    output = tmp_path / "a.png"
    states = {name: tmp_path / f"{name}.npy" for name in ("two", "one")}
    lines = b"a red circle\n\ngreen\n"
    program(*base, "-", "-o", output, "--save-state", states["two"], stdin=lines)
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["a-0-4.png", "a-1-4.png"]
    program(*base, "green", "-o", output, "--save-state", states["one"])
    assert output.read_bytes() == (tmp_path / "a-1-4.png").read_bytes()
    # To the last bit: the text encoder is opened in the same way for one prompt and for many.
    two, one = (np.load(path) for path in states.values())
    assert np.array_equal(two[1], one[0])
    program(*base, "a", "--negative", "-", "-o", output, stdin=b"green\n")
    assert read_metadata(output)["negative"] == "green"
    line = program(*base, "-", "--negative", "-", "-o", output, code=2)
    assert "PROMPT and --negative cannot both be -" in line
    line = program(*base, "-", "-o", output, code=2, stdin=b"\n")
    assert "no prompt in it" in line


def test_python_makes_the_image_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--interval", "0.2,0.9", "--negative", "green", "--seed", "11")
    program("minit2i-generate", tiny_bundle(), "a red circle", *options, "-o", tmp_path / "a.png")
    again = ["generate", tiny_bundle(), "--from", tmp_path / "a.png", "-o", tmp_path / "b.png"]
    assert main([str(argument) for argument in again]) == 0, capsys.readouterr().err
    first, second = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in
                     ("a.png", "b.png"))  # fmt: skip
    assert (np.abs(first - second) <= 1).mean() >= MIN_EQUAL_SHARE
    assert read_metadata(tmp_path / "a.png") == read_metadata(tmp_path / "b.png")


def test_a_negative_prompt_without_guidance_warns(tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle())
    with (
        cpp_client.Client(tiny_bundle()) as client,
        open_runtime(bundle, "onnxruntime") as runtime,
        pytest.warns(SettingIgnoredWarning),
    ):
        generate(bundle, runtime, "a", negative="b", guidance=1.0)
        negative = cpp_client.ctypes.pointer(cpp_client.text(b"b"))
        params = cpp_client.generate_params(b"a", guidance=1.0, negative=negative)
        client.generate(params, bundle.config.image_size)
    assert client.warnings == [
        "the negative prompt has no effect at guidance 1.0 under table dpmpp2m-40"
    ]


def test_a_lean_client_reads_its_text_encoder_again() -> None:
    size, states = Bundle.open(tiny_bundle()).config.image_size, []
    for lean in (False, True):
        with cpp_client.Client(tiny_bundle(), lean) as client:
            for _ in range(2):
                params = cpp_client.generate_params(b"a red circle")
                states.append(client.generate(params, size))
    assert np.abs(states[0]).max() > 0
    assert all(np.array_equal(state, states[0]) for state in states)
