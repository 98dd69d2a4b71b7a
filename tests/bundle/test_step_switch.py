"""Two step graphs, switched at a time: the switch itself, the format, and who refuses it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import Check, Manifest, StepSwitch
from minit2i_deploy.bundle.step_switch import SwitchRuntime, bundle_after_switch
from minit2i_deploy.errors import BundleError, RuntimeFailure, UsageError
from minit2i_deploy.evaluation.compare.contenders import Contender, graph_bytes
from minit2i_deploy.evaluation.compare.lockstep import run_lockstep
from minit2i_deploy.evaluation.compare.prompt_cases import PromptCase
from minit2i_deploy.evaluation.compare.summary import denoiser_label
from minit2i_deploy.export.quantize.switch_bundle import FOLDER, add_switch
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.bundles import draft, write_bundle, write_files
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle

GUIDANCE = 2.5
PROMPTS = ["red", "a blue"]


class Shifted(FakeRuntime):
    """The fake with other tokens in its steps: another graph of the same sizes."""

    def start(self, x, tokens):  # type: ignore[no-untyped-def]
        """As the fake, its tone moved."""
        return super().start(x, tokens + np.float32(0.25))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A complete small bundle."""
    return Bundle.open(write_bundle(tmp_path / "b"))


def switched_by_hand(bundle: Bundle, table: Table, t: float) -> np.ndarray:
    """The rows one after another in numpy, the tone moved from t on."""
    from minit2i_deploy.solvers.noise import batch_noise, standard_noise
    from minit2i_deploy.text.conditioning import branch_tokens

    tokens = branch_tokens(bundle, FakeRuntime(bundle), PROMPTS, None, True, {})
    x = batch_noise([5, 6], (3, 32, 32)) * np.float32(bundle.manifest.noise.scale)
    h = np.zeros_like(x)
    for row in table.steps(GUIDANCE):
        shift = 0.25 if row.t >= t - 1e-9 else 0.0
        tone = (tokens + np.float32(shift)).mean(axis=(2, 3))[: len(row.weights)]
        if row.draws_noise:
            h = np.stack([standard_noise(s, (3, 32, 32), stream=row.index + 1) for s in (5, 6)])
        x0 = np.tanh(x[None] + tone[..., None, None, None])
        x, h = advance(x, h, x0, row.weights, row.values)
    return x


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "dpmpp2m", "sde"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_a_split_keeps_state_and_history(bundle: Bundle, solver: str, t: float) -> None:
    table = solver_table(solver, steps=5)
    runtime = SwitchRuntime(FakeRuntime(bundle), Shifted(bundle), t)
    actual = generate(bundle, runtime, PROMPTS, seed=[5, 6], table=table, guidance=GUIDANCE)
    np.testing.assert_array_equal(actual.x, switched_by_hand(bundle, table, t))


def test_no_row_or_every_row_may_be_after_the_switch(bundle: Bundle) -> None:
    table = solver_table("ab2", steps=4)
    for t, kind in ((0.99, FakeRuntime), (1e-12, Shifted)):
        runtime = SwitchRuntime(FakeRuntime(bundle), Shifted(bundle), t)
        actual, expected = (
            generate(bundle, each, PROMPTS, seed=1, table=table, guidance=GUIDANCE).x
            for each in (runtime, kind(bundle))
        )
        np.testing.assert_array_equal(actual, expected)


def test_compare_follows_the_switch(bundle: Bundle) -> None:
    table = solver_table("ab2", steps=4)
    a = Contender(bundle=bundle, runtime=FakeRuntime(bundle), engine="fake")
    split = SwitchRuntime(FakeRuntime(bundle), Shifted(bundle), 0.5)
    b = Contender(bundle=bundle, runtime=split, engine="fake")
    tasks = [
        PromptCase(prompt=prompt, seed=seed) for prompt, seed in zip(PROMPTS, (5, 6), strict=True)
    ]
    errors = run_lockstep(a, b, tasks, table, GUIDANCE, details=True).row_errors
    assert errors is not None
    # Equal graphs before, another one from t = 0.5 on, seen from the same states.
    assert (errors.step > 0).all(axis=1).tolist() == [False, False, True, True]
    np.testing.assert_array_equal(errors.step[2], errors.drift[2])


def test_closing_closes_both(bundle: Bundle) -> None:
    first, second = FakeRuntime(bundle), Shifted(bundle)
    with SwitchRuntime(first, second, 0.5) as runtime:
        assert runtime.name == "fake"
    for one in (first, second):
        with pytest.raises(RuntimeFailure, match="is closed"):
            one.start(np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 1, 2, 4), np.float32))


def with_switch(folder: Path, **changes: object) -> Path:
    """A bundle with a second step graph, or something like it."""
    plain = draft()
    info = dataclasses.replace(plain.graphs["transformer"], path=f"{FOLDER}/model.onnx")
    write_files(folder)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "model.onnx").write_bytes(b"late")
    switch = StepSwitch(t=0.8, graph=dataclasses.replace(info, **changes))  # type: ignore[arg-type]
    write_manifest(folder, dataclasses.replace(plain, switch=switch))
    return folder


def test_the_manifest_keeps_the_second_graph(tmp_path: Path) -> None:
    opened = Bundle.open(with_switch(tmp_path / "b"))
    opened.verify()
    assert opened.manifest.switch is not None
    assert opened.manifest.switch.t == 0.8
    assert Manifest.from_bytes(opened.manifest.to_bytes(), "m") == opened.manifest
    view = bundle_after_switch(opened)
    assert view.graph_path("transformer") == opened.path / FOLDER / "model.onnx"
    assert view.graph_path("text_encoder") == opened.graph_path("text_encoder")
    assert view.digest != opened.digest
    assert graph_bytes(opened)["late step graph"] == 4
    report = Contender(bundle=opened, runtime=FakeRuntime(opened), engine="fake").to_dict()
    assert denoiser_label(report) == "fp32, fp32 from t=0.8"


def test_a_manifest_without_one_does_not_mention_it(bundle: Bundle) -> None:
    assert "late" not in json.loads((bundle.path / "manifest.json").read_bytes())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "none/model.onnx"}, "late.graph.path names 'none/model.onnx'"),
        ({"path": "transformer/model.onnx"}, "late.graph needs graphs.transformer's inputs"),
        ({"inputs": {}}, "late.graph needs graphs.transformer's inputs"),
    ],
)
def test_a_second_graph_that_does_not_fit_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=message):
        with_switch(tmp_path / "b", **changes)


@pytest.mark.parametrize("t", [0.0, 1.0, -0.5, float("nan")])
def test_a_time_outside_is_refused(t: float, bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        StepSwitch(t=t, graph=draft().graphs["transformer"])
    with pytest.raises(UsageError, match="between 0 and 1"):
        add_switch(bundle, bundle, t)


@pytest.mark.parametrize("name", ["torch", "tensorrt", "tensorrt-rtx"])
def test_runtimes_that_do_not_switch_say_so(name: str, tmp_path: Path) -> None:
    opened = Bundle.open(with_switch(tmp_path / "b"))
    with pytest.raises(RuntimeFailure, match=rf"from t=0\.8 on, which runtime {name} does not"):
        open_runtime(opened, name)


def test_the_fake_switches_too(tmp_path: Path) -> None:
    opened = Bundle.open(with_switch(tmp_path / "b"))
    with open_runtime(opened, "fake") as runtime:
        assert isinstance(runtime, SwitchRuntime)
        generate(opened, runtime, PROMPTS, table=solver_table("euler", steps=4), guidance=1.0)


def test_another_checkpoint_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    write_files(tmp_path / "o")
    origin = dataclasses.replace(draft().provenance, checkpoint_sha256="cd" * 32)
    write_manifest(tmp_path / "o", dataclasses.replace(draft(), provenance=origin))
    with pytest.raises(UsageError, match="made from checkpoint cdcdcdcd"):
        add_switch(bundle, Bundle.open(tmp_path / "o"), 0.5)


def test_a_third_step_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = Bundle.open(with_switch(tmp_path / "o"))
    with pytest.raises(UsageError, match="has two step graphs already"):
        add_switch(bundle, other, 0.5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_run_each_graph_in_its_time(engine: str, tmp_path: Path) -> None:
    from minit2i_deploy.export.quantize import (
        QuantizableGraph,
        find_scheme,
        quantize_graph,
        write_graph,
    )

    source = Bundle.open(tiny_bundle())
    shutil.copytree(source.path, tmp_path / "b")
    step = QuantizableGraph.read(source.graph_path("transformer"))
    coarse = quantize_graph(
        step,
        find_scheme("int8-weights").transformer,
        {},
        exclude={layer.name for layer in step.linears[2:]},
    )
    write_graph(coarse, tmp_path / "b" / "transformer")
    write_manifest(tmp_path / "b", source.manifest)
    early = Bundle.open(tmp_path / "b")
    shutil.copytree(early.path, tmp_path / "s")
    both = add_switch(Bundle.open(tmp_path / "s"), source, 0.5)
    table = solver_table("ab2", steps=4)
    finals = {}
    for name, each in (("early", early), ("late", source), ("split", both)):
        with open_runtime(each, engine) as runtime:
            result = generate(each, runtime, "red", seed=3, table=table, guidance=GUIDANCE)
        finals[name] = result.x
    with open_runtime(early, engine) as first, open_runtime(source, engine) as second:
        runtime = SwitchRuntime(first, second, 0.5)
        expected = generate(early, runtime, "red", seed=3, table=table, guidance=GUIDANCE).x
    np.testing.assert_array_equal(finals["split"], expected)
    gaps = [float(np.abs(finals["split"] - finals[name]).max()) for name in ("early", "late")]
    assert min(gaps) > 1e-5
    apart = float(np.abs(finals["early"] - finals["late"]).max())
    assert max(gaps) < 3 * apart


def test_verify_and_inspect_name_both_graphs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = with_switch(tmp_path / "b")
    lines = run(capsys, "verify", opened, "--runtime", "fake").out.splitlines()
    (line,) = [line for line in lines if "transformer after the switch" in line]
    assert "ok" in line
    assert "transformer from t=0.8  fp32" in run(capsys, "inspect", opened).out


# The tiny model truncates every general prompt.
@pytest.mark.filterwarnings("ignore:prompt cut")
def test_quantize_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("quantize", tiny_bundle(), tmp_path / "q", "--scheme", "int8-weights")
    done = run(capsys, *command, "--switch-at", 1.5)
    assert (done.code, "between 0 and 1" in done.error) == (2, True)
    assert not (tmp_path / "q").exists()
    done = run(capsys, *command, "--switch-at", 0.75)
    assert done.code == 0, done.err
    assert "from t=0.75 on: fp32" in done.out
    opened = Bundle.open(tmp_path / "q")
    opened.verify()
    assert opened.manifest.switch is not None
    source = Bundle.open(tiny_bundle())
    assert bundle_after_switch(opened).graph_path("transformer").read_bytes() == (
        source.graph_path("transformer").read_bytes()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q"]


# The tiny model truncates every general prompt.
@pytest.mark.filterwarnings("ignore:prompt cut")
def test_the_checks_are_of_both_graphs(tmp_path: Path) -> None:
    from minit2i_deploy.export.quantize import QuantizeOptions, quantize_bundle

    def measured(name: str, switch_at: float | None) -> dict[str, Check]:
        bundle = quantize_bundle(
            tiny_bundle(),
            tmp_path / name,
            QuantizeOptions(scheme="int8-weights", switch_at=switch_at),
        )
        return {check.name: check for check in bundle.manifest.checks}

    plain, early = measured("a", None), measured("b", 0.5)
    # The step graph's own error where it runs, and nothing where the source's runs.
    assert early["transformer@t=0.2"].measured == plain["transformer@t=0.2"].measured
    assert "transformer@t=0.5" in plain and "transformer@t=0.5" not in early
    assert "rows before t=0.5" in early["transformer"].where
    assert "source's step graph from t=0.5 on" in early["trajectory"].where
    # Measured: 0.0104 without and 0.0055 with it.
    assert plain["trajectory"].measured > 1.1 * early["trajectory"].measured
    expected = _rms_of_images(Bundle.open(tmp_path / "b"), Bundle.open(tiny_bundle()))
    assert early["trajectory"].measured == pytest.approx(expected, rel=1e-3)


def _rms_of_images(bundle: Bundle, source: Bundle) -> float:
    """The same images from the files, in the arithmetic of the checks."""
    from minit2i_deploy.export.quantize import GraphsRuntime, default_prompts

    prompts = list(default_prompts(source).texts[1:3])
    table = solver_table("euler", steps=20, a_min=source.manifest.flavour.a_min)
    guidance, seeds = source.manifest.flavour.guidance, [1_000_003, 1_000_004]
    split = SwitchRuntime(GraphsRuntime(bundle), GraphsRuntime(bundle_after_switch(bundle)), 0.5)
    finals = [
        generate(each, runtime, prompts, seed=seeds, table=table, guidance=guidance).x
        for each, runtime in ((bundle, split), (source, GraphsRuntime(source)))
    ]
    return float(np.sqrt(np.square(finals[0] - finals[1], dtype=np.float64).mean())) / 2


# The tiny model truncates every general prompt.
@pytest.mark.filterwarnings("ignore:prompt cut")
def test_an_interrupted_run_leaves_no_bundle_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minit2i_deploy.export.quantize import QuantizeOptions, bundle_writing, quantize_bundle

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_writing, "copy_graph_after_switch", stop)
    with pytest.raises(KeyboardInterrupt):
        quantize_bundle(
            tiny_bundle(), tmp_path / "q", QuantizeOptions(scheme="int8-weights", switch_at=0.5)
        )
    assert list(tmp_path.iterdir()) == []
