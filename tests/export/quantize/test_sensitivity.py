"""One layer at a time: errors by another road, strata, and what an interrupted run keeps."""

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
    GraphsRuntime,
    Prepared,
    calibrate,
    find_scheme,
    linear_layers,
    prepare,
    quantize_graph,
    read_graph,
)
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.sensitivity import budget as sensitivity_budget
from minit2i_deploy.export.quantize.sensitivity.budget import score_loss_of
from minit2i_deploy.export.quantize.sensitivity.layers import (
    Laboratory,
    LayerError,
    SensitivitySettings,
    drawn_tasks,
    measure_layers,
    stratum_edges,
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
    return calibrate(bundle, PROMPTS, DrawSettings(samples=2, strata=2, rows=32))


@pytest.fixture(scope="module")
def prepared(bundle: Bundle, calibration: Calibration) -> Prepared:
    """Scales without smoothing, so that the graph is the bundle's own."""
    graph = read_graph(bundle.graph_path("transformer"))
    return prepare(graph, SCHEME.transformer, calibration, smoothing=False)


@pytest.fixture(scope="module")
def laboratory(bundle: Bundle, prepared: Prepared) -> Laboratory:
    """One stratum a row."""
    return Laboratory(bundle, SCHEME, prepared, PROMPTS, TABLE, GUIDANCE, SETTINGS)


@pytest.fixture(scope="module")
def alone(laboratory: Laboratory) -> LayerError:
    """The second layer of the laboratory."""
    return laboratory.layer(laboratory.layers[1].name)


def painted(bundle: Bundle, laboratory: Laboratory, layers: set[str] | None) -> np.ndarray:
    """Final states of generate with these layers quantised, None for all that may be."""
    graph = laboratory.prepared.graph
    meant = {layer.name for layer in laboratory.layers}
    kept = {layer.name for layer in linear_layers(graph)} - (meant if layers is None else layers)
    scales = laboratory.prepared.scales
    changed = (
        quantize_graph(graph, SCHEME.transformer, scales, exclude=kept)
        if (layers is None or layers)
        else graph
    )
    with GraphsRuntime(bundle, {"transformer": changed}) as runtime:
        return generate(
            bundle,
            runtime,
            list(laboratory.prompts),
            seed=list(laboratory.seeds),
            table=TABLE,
            guidance=GUIDANCE,
        ).x


def mean_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(l2_relative_errors(actual, expected).mean())


def test_a_layer_alone_is_what_generate_paints_with_it(
    bundle: Bundle, laboratory: Laboratory, alone: LayerError
) -> None:
    wanted = painted(bundle, laboratory, set())
    found = painted(bundle, laboratory, {alone.name})
    # Measured equal; a batch of another size may round otherwise.
    assert alone.whole == pytest.approx(mean_error(found, wanted), rel=1e-3)
    assert alone.whole is not None
    assert 0 < alone.whole < 0.2
    layer = laboratory.layers[1]
    assert (alone.name, alone.num_weights) == (layer.name, layer.num_inputs * layer.num_outputs)


def test_the_first_estimate_is_that_of_the_first_frame(
    bundle: Bundle, laboratory: Laboratory, alone: LayerError
) -> None:
    graph, scales = laboratory.prepared.graph, laboratory.prepared.scales
    kept = {layer.name for layer in linear_layers(graph)} - {alone.name}
    one = quantize_graph(graph, SCHEME.transformer, scales, exclude=kept)

    def frames(graphs: dict[str, object]) -> Iterator[Frame]:
        return trajectory(
            bundle,
            GraphsRuntime(bundle, graphs),  # type: ignore[arg-type]
            list(laboratory.prompts),
            seed=list(laboratory.seeds),
            table=TABLE,
            guidance=GUIDANCE,
            previews=True,
        )

    found, wanted = (next(frames(graphs)).estimate() for graphs in ({"transformer": one}, {}))
    # Measured 1e-6 off: the estimate is taken from h' = y + s x there, and given as it is here.
    assert alone.estimate[0] == pytest.approx(mean_error(found, wanted), rel=1e-3)
    assert len(alone.estimate) == len(alone.final) == 4


def test_a_stratum_is_quantised_alone(
    bundle: Bundle, prepared: Prepared, laboratory: Laboratory, alone: LayerError
) -> None:
    whole = Laboratory(
        bundle,
        SCHEME,
        prepared,
        PROMPTS,
        TABLE,
        GUIDANCE,
        SensitivitySettings(samples=2, strata=1, seed=3),
    ).layer(alone.name)
    # One stratum is the whole time, and a part of it does less than all of it may.
    assert whole.final == (whole.whole,)
    assert whole.whole == alone.whole
    last = alone.final[-1]
    # After the last row nothing is left to change, so it is the row itself that differs.
    reference = laboratory.reference
    others = {layer.name for layer in laboratory.layers if layer.name != alone.name}
    from minit2i_deploy.export.quantize import Session

    with Session(laboratory.graph(others)) as step:
        x, _ = reference.run(step, reference.states[3], 3, 4)
    assert last == pytest.approx(mean_error(x, reference.states[4][0]))


def test_splits_go_from_nothing_to_everything(bundle: Bundle, laboratory: Laboratory) -> None:
    splits = laboratory.splits()
    assert [split.row for split in splits] == [0, 1, 2, 3, 4]
    assert [split.t for split in splits] == [0.0, 0.25, 0.5, 0.75, 1.0]
    first, last = splits[0], splits[-1]
    assert (first.early_quantised.error, last.late_quantised.error) == (0.0, 0.0)
    assert first.to_dict()["early_quantised"] == {"error": 0.0, "psnr_db": None}
    wanted = painted(bundle, laboratory, set())
    found = painted(bundle, laboratory, None)
    for drift in (first.late_quantised, last.early_quantised):
        assert drift.error == pytest.approx(mean_error(found, wanted), rel=1e-3)
        assert drift.psnr_db == pytest.approx(image_metrics.psnr(found, wanted).mean(), rel=1e-3)
    assert first.late_quantised.error > 0


def test_a_score_is_lost_against_the_unquantised_graph(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str, float]] = []

    def paint(
        bundle: Bundle, runtime: GraphsRuntime, captions: list[object], **settings: object
    ) -> Iterator[SimpleNamespace]:
        step = linear_layers(runtime._graphs["transformer"])
        whole = {layer.name for layer in step} == {
            layer.name for layer in linear_layers(laboratory.prepared.graph)
        }
        table = settings["table"]
        assert isinstance(table, Table)
        asked.append((len(captions), table.name, settings["guidance"]))  # type: ignore[arg-type]
        for number in range(len(captions)):
            yield SimpleNamespace(verdict=SimpleNamespace(correct=whole or number % 4 > 0))

    monkeypatch.setattr(sensitivity_budget, "generate_judged_images", paint)
    loss = score_loss_of(laboratory, 2)
    # A quarter of twelve is lost with anything quantised, and nothing with nothing.
    assert loss([]) == pytest.approx(0.25)
    assert loss([layer.name for layer in laboratory.layers]) == 0.0
    assert asked == [(12, TABLE.name, GUIDANCE)] * 3


def test_layers_that_the_scheme_leaves_alone_are_not_measured(laboratory: Laboratory) -> None:
    names = [layer.name for layer in laboratory.layers]
    assert "final_layer.linear" not in names
    assert names
    quantised = laboratory.graph()
    assert quantised.weights["final_layer.linear.weight"].dtype == np.float32
    assert quantised.weights[laboratory.layers[0].weight].dtype == np.int8


def test_estimates_alone_leave_final_states_out(bundle: Bundle, prepared: Prepared) -> None:
    settings = SensitivitySettings(samples=1, strata=2, finals=False)
    laboratory = Laboratory(bundle, SCHEME, prepared, PROMPTS, TABLE, GUIDANCE, settings)
    found = laboratory.layer(laboratory.layers[0].name)
    assert (len(found.estimate), found.final, found.whole) == (2, (), None)
    assert found.error == max(found.estimate)


def test_known_layers_are_not_measured_again(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def layer(self: Laboratory, name: str) -> LayerError:
        asked.append(name)
        return LayerError(name=name, num_weights=1, estimate=(0.1,))

    monkeypatch.setattr(Laboratory, "layer", layer)
    names = [one.name for one in laboratory.layers]
    known = {names[2]: LayerError(name=names[2], num_weights=7, estimate=(0.5,))}
    kept: list[int] = []
    shares: list[float] = []
    found = measure_layers(
        laboratory,
        known,
        lambda layers: kept.append(len(layers)),
        lambda _, share: shares.append(share),
    )
    assert [one.name for one in found] == names
    assert found[2] is known[names[2]]
    assert asked == [name for name in names if name != names[2]]
    # Kept after each layer that was measured, the known ones among them.
    assert kept == [1, 2, *range(4, len(names) + 1)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("length", "strata", "wanted"),
    [(20, 4, (0, 5, 10, 15, 20)), (5, 2, (0, 2, 5)), (3, 8, (0, 1, 2, 3)), (1, 1, (0, 1))],
)
def test_strata_are_nearly_equal_parts(length: int, strata: int, wanted: tuple[int, ...]) -> None:
    assert stratum_edges(length, strata) == wanted


def test_tasks_are_drawn_from_the_seed_and_differ() -> None:
    settings = SensitivitySettings(samples=4, seed=5)
    prompts, seeds = drawn_tasks(PROMPTS, settings)
    assert (prompts, seeds) == drawn_tasks(PROMPTS, settings)
    assert sorted(prompts) == sorted(PROMPTS.texts)
    assert len(set(seeds)) == 4
    assert drawn_tasks(PROMPTS, SensitivitySettings(samples=4, seed=6))[1] != seeds
    assert len(drawn_tasks(PROMPTS, SensitivitySettings(samples=11))[0]) == 11


@pytest.mark.parametrize("change", [{"samples": 0}, {"strata": 0}, {"seed": -1}])
def test_settings_refuse_numbers_out_of_range(change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(UsageError, match=f"{name} is"):
        SensitivitySettings(**change)


def test_a_stochastic_table_is_refused(bundle: Bundle, prepared: Prepared) -> None:
    table = solver_table("sde", steps=3)
    with pytest.raises(UsageError, match="sde-3 is stochastic"):
        Laboratory(bundle, SCHEME, prepared, PROMPTS, table, GUIDANCE, SETTINGS)
