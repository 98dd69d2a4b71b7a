"""One layer at a time: errors by an independent path, strata, and resuming."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality import image_metrics
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.export.quantize import (
    Calibration,
    DrawSettings,
    Graph,
    GraphsRuntime,
    QuantizableGraph,
    ScaledGraph,
    calibrate,
    find_scheme,
    linear_layers,
    quantize_graph,
    smooth_and_scale,
)
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.calibration.range_collection import stratum_edges
from minit2i_deploy.export.quantize.sensitivity import budget as sensitivity_budget
from minit2i_deploy.export.quantize.sensitivity.budget import score_loss_of
from minit2i_deploy.export.quantize.sensitivity.layer_errors import (
    LayerError,
    SensitivityMeter,
    SensitivitySettings,
    Subject,
    draw_images,
    measure_layers,
)
from minit2i_deploy.generate import Frame, generate, trajectory
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.tiny_bundle import tiny_bundle

PROMPTS = PromptSet(name="test", texts=("red", "a blue", "a", "green"))
TABLE = solver_table("ab2", steps=4)
GUIDANCE = 2.5
SETTINGS = SensitivitySettings(samples=2, strata=4, seed=3)
SCHEME = find_scheme("int8")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The golden network in fp32."""
    return Bundle.open(tiny_bundle())


@pytest.fixture(scope="module")
def calibration(bundle: Bundle) -> Calibration:
    """Few samples: only the path matters here."""
    return calibrate(bundle, PROMPTS, DrawSettings(samples=2, strata=2, activations=32))


@pytest.fixture(scope="module")
def subject(bundle: Bundle, calibration: Calibration) -> Subject:
    """Scales without smoothing, so that the graph is the bundle's own."""
    step = QuantizableGraph.read(bundle.graph_path("transformer"))
    scaled = smooth_and_scale(step, SCHEME.transformer, calibration, smoothing=False)
    return Subject(bundle=bundle, scheme=SCHEME.transformer, scaled=scaled)


@pytest.fixture(scope="module")
def meter(subject: Subject) -> SensitivityMeter:
    """One stratum per row."""
    return SensitivityMeter(subject, PROMPTS, TABLE, GUIDANCE, SETTINGS)


@pytest.fixture(scope="module")
def alone(meter: SensitivityMeter) -> LayerError:
    """The second layer of the meter."""
    return meter.layer(meter.subject.layers[1].name)


def version(scaled: ScaledGraph, layers: set[str]) -> Graph:
    """The step graph with these layers quantized."""
    others = {layer.name for layer in scaled.step.linears} - layers
    return quantize_graph(scaled.step, SCHEME.transformer, scaled.scales, exclude=others)


def generated(meter: SensitivityMeter, layers: set[str] | None) -> np.ndarray:
    """Final states of generate with these layers quantized, None for all that may be."""
    subject = meter.subject
    names = {layer.name for layer in subject.layers} if layers is None else layers
    step = version(subject.scaled, names) if names else subject.unquantized
    with GraphsRuntime(subject.bundle, {"transformer": step}) as runtime:
        return generate(
            subject.bundle,
            runtime,
            list(meter.prompts),
            seed=list(meter.seeds),
            table=TABLE,
            guidance=GUIDANCE,
        ).x


def mean_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(l2_relative_errors(actual, expected).mean())


def test_a_layer_alone_has_the_error_of_generate_with_it(
    meter: SensitivityMeter, alone: LayerError
) -> None:
    actual, expected = generated(meter, {alone.name}), generated(meter, set())
    # Measured equal; a batch of another size may round otherwise.
    assert alone.whole == pytest.approx(mean_error(actual, expected), rel=1e-3)
    assert alone.whole is not None
    assert 0 < alone.whole < 0.2
    layer = meter.subject.layers[1]
    assert (alone.name, alone.num_weights) == (layer.name, layer.num_inputs * layer.num_outputs)


def test_the_first_estimate_is_that_of_the_first_frame(
    meter: SensitivityMeter, alone: LayerError
) -> None:
    bundle, one = meter.subject.bundle, version(meter.subject.scaled, {alone.name})

    def frames(graphs: dict[str, Graph]) -> Iterator[Frame]:
        return trajectory(
            bundle,
            GraphsRuntime(bundle, graphs),
            list(meter.prompts),
            seed=list(meter.seeds),
            table=TABLE,
            guidance=GUIDANCE,
            previews=True,
        )

    graphs: tuple[dict[str, Graph], ...] = ({"transformer": one}, {})
    actual, expected = (next(frames(each)).estimate() for each in graphs)
    # Measured 1e-6 off: there the estimate is computed from h' = y + s x, here it is x' itself.
    assert alone.estimate[0] == pytest.approx(mean_error(actual, expected), rel=1e-3)
    assert len(alone.estimate) == len(alone.final) == 4


def test_a_stratum_is_quantized_alone(
    subject: Subject, meter: SensitivityMeter, alone: LayerError
) -> None:
    settings = SensitivitySettings(samples=2, strata=1, seed=3)
    complete = SensitivityMeter(subject, PROMPTS, TABLE, GUIDANCE, settings).layer(alone.name)
    # One stratum is the complete time, and a part of it does less than all of it may.
    assert complete.final == (complete.whole,)
    assert complete.whole == alone.whole
    # After the last row nothing follows, so that its own result differs.
    reference = meter.reference
    with subject.open(version(subject.scaled, {alone.name})) as step:
        x, _ = reference.run(step, reference.states[3], reference.rows[3:4])
    assert alone.final[-1] == pytest.approx(mean_error(x, reference.states[4][0]))


def test_splits_go_from_nothing_to_everything(meter: SensitivityMeter) -> None:
    splits = meter.splits()
    assert [split.row for split in splits] == [0, 1, 2, 3, 4]
    assert [split.t for split in splits] == [0.0, 0.25, 0.5, 0.75, 1.0]
    first, last = splits[0], splits[-1]
    assert (first.quantized_before.error, last.quantized_after.error) == (0.0, 0.0)
    assert first.to_dict()["early_quantised"] == {"error": 0.0, "psnr_db": None}
    actual, expected = generated(meter, None), generated(meter, set())
    for drift in (first.quantized_after, last.quantized_before):
        assert drift.error == pytest.approx(mean_error(actual, expected), rel=1e-3)
        psnr = image_metrics.psnr(actual, expected).mean()
        assert drift.psnr_db == pytest.approx(psnr, rel=1e-3)
    assert first.quantized_after.error > 0


def test_a_score_is_lost_against_the_unquantized_graph(
    meter: SensitivityMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, str, float]] = []

    def judge(
        bundle: Bundle, runtime: GraphsRuntime, captions: list[object], **settings: object
    ) -> Iterator[SimpleNamespace]:
        step = linear_layers(runtime._graphs["transformer"])
        is_unquantized = len(step) == len(meter.subject.scaled.step.linears)
        table = settings["table"]
        assert isinstance(table, Table)
        calls.append((len(captions), table.name, settings["guidance"]))  # type: ignore[arg-type]
        for number in range(len(captions)):
            yield SimpleNamespace(verdict=SimpleNamespace(correct=is_unquantized or number % 4 > 0))

    monkeypatch.setattr(sensitivity_budget, "generate_judged_images", judge)
    loss = score_loss_of(meter, 2)
    # A quarter of twelve is lost with anything quantized, and nothing with nothing.
    assert loss([]) == pytest.approx(0.25)
    assert loss([layer.name for layer in meter.subject.layers]) == 0.0
    assert calls == [(12, TABLE.name, GUIDANCE)] * 3


@pytest.mark.parametrize("name", ["fp8-attention", "int8-openvino"])
def test_attention_is_no_floor_under_a_layer_alone(
    name: str, bundle: Bundle, calibration: Calibration
) -> None:
    step, scheme = QuantizableGraph.read(bundle.graph_path("transformer")), find_scheme(name)
    scaled = smooth_and_scale(step, scheme.transformer, calibration, smoothing=False)
    subject = Subject(bundle=bundle, scheme=scheme.transformer, scaled=scaled)
    alone = subject.alone("double_blocks.0.img_qkv").model
    (pair,) = [node for node in alone.graph.node if node.op_type == "QuantizeLinear"]
    assert pair.name.startswith("double_blocks.0.img_qkv.input")
    assert any(".attention." in node.name for node in subject.quantized().model.graph.node)


def test_layers_that_the_scheme_excludes_are_not_measured(subject: Subject) -> None:
    names = [layer.name for layer in subject.layers]
    assert "final_layer.linear" not in names
    assert names
    quantized = subject.quantized()
    assert quantized.weights["final_layer.linear.weight"].dtype == np.float32
    assert quantized.weights[subject.layers[0].weight].dtype == np.int8


def test_final_states_may_be_omitted(subject: Subject) -> None:
    settings = SensitivitySettings(samples=1, strata=2, finals=False)
    meter = SensitivityMeter(subject, PROMPTS, TABLE, GUIDANCE, settings)
    error = meter.layer(subject.layers[0].name)
    assert (len(error.estimate), error.final, error.whole) == (2, (), None)
    assert error.error == max(error.estimate)


def test_known_layers_are_not_measured_again(
    meter: SensitivityMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def layer(self: SensitivityMeter, name: str) -> LayerError:
        calls.append(name)
        return LayerError(name=name, num_weights=1, estimate=(0.1,))

    monkeypatch.setattr(SensitivityMeter, "layer", layer)
    names = [one.name for one in meter.subject.layers]
    known = {names[2]: LayerError(name=names[2], num_weights=7, estimate=(0.5,))}
    saved: list[int] = []
    shares: list[float] = []
    errors = measure_layers(
        meter,
        known,
        lambda layers: saved.append(len(layers)),
        lambda share, _="", /: shares.append(share),
    )
    assert [one.name for one in errors] == names
    assert errors[2] is known[names[2]]
    assert calls == [name for name in names if name != names[2]]
    # Saved after each layer that was measured, with the known ones.
    assert saved == [1, 2, *range(4, len(names) + 1)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("length", "strata", "edges"),
    [(20, 4, (0, 5, 10, 15, 20)), (5, 2, (0, 2, 5)), (3, 8, (0, 1, 2, 3)), (1, 1, (0, 1))],
)
def test_strata_are_nearly_equal_parts(length: int, strata: int, edges: tuple[int, ...]) -> None:
    assert stratum_edges(length, strata) == edges


def test_images_are_drawn_from_the_seed_and_differ() -> None:
    settings = SensitivitySettings(samples=4, seed=5)
    prompts, seeds = draw_images(PROMPTS, settings)
    assert (prompts, seeds) == draw_images(PROMPTS, settings)
    assert sorted(prompts) == sorted(PROMPTS.texts)
    assert len(set(seeds)) == 4
    assert draw_images(PROMPTS, SensitivitySettings(samples=4, seed=6))[1] != seeds
    assert len(draw_images(PROMPTS, SensitivitySettings(samples=11))[0]) == 11


@pytest.mark.parametrize("change", [{"samples": 0}, {"strata": 0}, {"seed": -1}])
def test_settings_refuse_numbers_out_of_range(change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(UsageError, match=f"{name} is"):
        SensitivitySettings(**change)


def test_a_stochastic_table_is_refused(subject: Subject) -> None:
    table = solver_table("sde", steps=3)
    with pytest.raises(UsageError, match="sde-3 is stochastic"):
        SensitivityMeter(subject, PROMPTS, table, GUIDANCE, SETTINGS)
