"""The meter on the fake runtime: what it paints, counts, pairs and reports."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.formatting import json_text
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality import (
    Candidate,
    MeterReport,
    MeterSettings,
    Outcome,
    count_evaluations,
    image_metrics,
    iter_outcomes,
    measure_candidates,
    meter,
    plots,
)
from minit2i_deploy.evaluation.quality.candidates import list_candidates
from minit2i_deploy.evaluation.quality.fine_reference import fine_table
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes import ShapesScore, Spec, Verdict, held_out_captions
from minit2i_deploy.evaluation.shapes.score import Rate
from minit2i_deploy.generate import generate
from minit2i_deploy.protocol import FreshNoise
from minit2i_deploy.runtimes import fake
from minit2i_deploy.runtimes.fake import FakeRuntime, FakeTrajectory
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import CONFIG, write_bundle

# The test tokenizer has few words, so captions are longer than the model's 12 tokens.
pytestmark = pytest.mark.filterwarnings("ignore::minit2i_deploy.errors.PromptTruncatedWarning")
TABLES = [
    solver_table("dpmpp2m", steps=8),
    solver_table("dpmpp2m", steps=4),
    solver_table("euler", steps=6, interval=(0.4, 1.0)),
]
SETTINGS = MeterSettings(
    per_kind=3, seed=5, batch=4, reference_steps=64, reference_per_kind=2
)  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "b"))


def dark(image: np.ndarray, spec: Spec) -> Verdict:
    """A verdict that depends on picture and promise; the fake runtime's keep none."""
    correct = bool(image[:16].mean() < image[16:].mean() + len(spec.required))
    return Verdict(correct=correct, reason="")


@pytest.fixture(autouse=True)
def cheap_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector takes its time over the fake runtime's noise."""
    monkeypatch.setattr(meter, "judge", dark)


def report_of(bundle: Bundle, settings: MeterSettings = SETTINGS) -> MeterReport:
    with FakeRuntime(bundle) as runtime:
        return measure_candidates(bundle, runtime, list_candidates(TABLES, [2.5]), settings)


def without_seconds(report: MeterReport) -> list[dict[str, object]]:
    result = [one.to_dict() for one in report.outcomes]
    for one in result:
        del one["seconds_per_picture"]
    return result


def test_figures_are_those_of_pictures_painted_by_hand(bundle: Bundle) -> None:
    report = report_of(bundle)
    captions = held_out_captions(3, 5)
    with FakeRuntime(bundle) as runtime:
        painted = [
            [
                generate(bundle, runtime, text, seed=5 + i, table=table, guidance=2.5)
                for i, (_, text) in enumerate(captions)
            ]
            for table in TABLES
        ]
    verdicts = [
        [
            dark(np.asarray(r.images[0]), spec).correct
            for r, (spec, _) in zip(rs, captions, strict=True)
        ]
        for rs in painted
    ]
    assert 0 < sum(verdicts[0]) < 18
    for one, results, right in zip(report.outcomes, painted, verdicts, strict=True):
        x = np.concatenate([result.x for result in results])
        assert one.score.overall.num_correct == sum(right)
        assert one.outside == pytest.approx(image_metrics.share_outside(x).mean(), abs=1e-12)
        assert one.clipped == pytest.approx(image_metrics.share_clipped(x).mean(), abs=1e-12)
        gradients = image_metrics.seam_gradients(x, CONFIG.patch_size)
        assert one.seams == pytest.approx(image_metrics.seam_ratios(gradients), abs=1e-9)
    for one, right in zip(report.outcomes[1:], verdicts[1:], strict=True):
        pairs = list(zip(right, verdicts[0], strict=True))
        assert one.paired == PairedVerdicts(
            won=sum(a and not b for a, b in pairs), lost=sum(b and not a for a, b in pairs)
        )
    assert report.outcomes[0].paired is None


def test_distance_is_to_the_fine_grid_on_the_first_captions_of_each_kind(bundle: Bundle) -> None:
    (result,) = [one.distance for one in report_of(bundle).outcomes[:1]]
    captions, indices = held_out_captions(3, 5), [i for i in range(18) if i % 3 < 2]
    texts, seeds = [captions[i][1] for i in indices], [5 + i for i in indices]
    fine = fine_table(TABLES[0], 64)
    with FakeRuntime(bundle) as runtime:
        x, reference = (
            generate(bundle, runtime, texts, seed=seeds, table=table, guidance=2.5).x
            for table in (TABLES[0], fine)
        )
    assert result is not None and result.num_images == 12
    assert result.psnr_db == pytest.approx(image_metrics.psnr(x, reference).mean(), abs=1e-6)
    assert result.gmsd == pytest.approx(image_metrics.gmsd(x, reference).mean(), abs=1e-9)


def test_more_steps_come_nearer(bundle: Bundle) -> None:
    eight, four, _ = (one.distance for one in report_of(bundle).outcomes)
    assert eight is not None and four is not None
    # Measured 13.9 dB against 11.2: the fake flow is a rough one.
    assert eight.psnr_db > four.psnr_db + 1
    assert 0 < eight.gmsd < four.gmsd


def test_no_figure_depends_on_the_batch(bundle: Bundle) -> None:
    one = without_seconds(report_of(bundle))
    other = without_seconds(report_of(bundle, MeterSettings(**{**SETTINGS.to_dict(), "batch": 18})))
    for first, second in zip(one, other, strict=True):
        for key in ("score", "paired", "evaluations", "name"):
            assert first[key] == second[key]
        # numpy adds up larger arrays in another order.
        for key in ("outside", "clipped"):
            assert first[key] == pytest.approx(second[key], abs=1e-12)
        for key in ("distance", "seams"):
            assert first[key] == pytest.approx(second[key], rel=1e-6)


def test_the_grid_must_be_finer_than_what_it_judges(bundle: Bundle) -> None:
    settings = MeterSettings(per_kind=1, reference_steps=31)
    with FakeRuntime(bundle) as runtime:
        with pytest.raises(
            UsageError, match="expected at least 32 for the 8 rows of table dpmpp2m-8, got 31"
        ):
            measure_candidates(bundle, runtime, list_candidates(TABLES, [2.5]), settings)


def test_planned_evaluations_are_those_spent(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = []
    step = FakeTrajectory.step

    def counted(self: FakeTrajectory, row: Row, noise: np.ndarray | None) -> None:
        spent.append(len(row.weights) * len(self.state()[0]))
        step(self, row, noise)

    monkeypatch.setattr(FakeTrajectory, "step", counted)
    shares: list[float] = []
    candidates = list_candidates(TABLES, [2.5, 1.0])
    with FakeRuntime(bundle) as runtime:
        measure_candidates(
            bundle, runtime, candidates, SETTINGS, lambda share, label="": shares.append(share)
        )
    assert sum(spent) == count_evaluations(candidates, SETTINGS)
    # dpmpp2m's two tables share a grid; euler's interval has one of its own; two scales.
    rows = 16 + 8 + 9 + 8 + 4 + 6
    assert count_evaluations(candidates, MeterSettings(per_kind=2, reference_steps=0)) == 12 * rows
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


class WholeTrajectory(FakeTrajectory):
    """Takes all rows at once, tells of every third, and is not to be asked for single ones."""

    def run_rows(
        self,
        rows: Sequence[Row],
        fresh_noise: FreshNoise,
        on_row: Callable[[int], None] | None = None,
    ) -> Mapping[str, float]:
        for row in rows:
            super().step(row, fresh_noise(row))
            if on_row is not None and (row.index % 3 == 0 or row.index == len(rows) - 1):
                on_row(row.index + 1)
        return {"capture": 1.0}

    def step(self, row: Row, noise: np.ndarray | None = None) -> None:
        raise AssertionError("a row came alone")


def test_an_engine_that_runs_trajectories_gets_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = without_seconds(report_of(bundle))
    monkeypatch.setattr(fake, "FakeTrajectory", WholeTrajectory)
    shares: list[float] = []
    with FakeRuntime(bundle) as runtime:
        report = measure_candidates(
            bundle,
            runtime,
            list_candidates(TABLES, [2.5]),
            SETTINGS,
            lambda share, label="": shares.append(share),
        )
    assert without_seconds(report) == expected
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0, abs=1e-12)


def test_leaving_the_loop_paints_no_more(bundle: Bundle) -> None:
    names = []
    with FakeRuntime(bundle) as runtime:
        run = iter_outcomes(
            bundle,
            runtime,
            list_candidates(TABLES, [2.5]),
            MeterSettings(per_kind=1, reference_steps=0),
            lambda _, name: names.append(name),
        )
        assert next(iter(run)).distance is None
    assert set(names) == {"dpmpp2m-8"}


def test_what_cannot_be_compared_is_refused(bundle: Bundle) -> None:
    with FakeRuntime(bundle) as runtime:
        twice = list_candidates([TABLES[0], TABLES[0]], [2.5])
        with pytest.raises(UsageError, match="duplicate tables dpmpp2m-8"):
            measure_candidates(bundle, runtime, twice, SETTINGS)
        with pytest.raises(UsageError, match="expected at least one table"):
            measure_candidates(bundle, runtime, [], SETTINGS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("per_kind", 0),
        ("batch", 0),
        ("reference_per_kind", 0),
        ("seed", -1),
        ("reference_steps", -1),
        ("reference_steps", 10_001),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(UsageError, match=str(value)):
        MeterSettings(**{"per_kind": 1, field: value})


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (2, 5), (4, 4), (9, 1)])
def test_mcnemar_counts_coin_tosses(won: int, lost: int) -> None:
    total = won + lost
    uneven = [abs(2 * tosses.bit_count() - total) >= abs(won - lost) for tosses in range(2**total)]
    # Measured 0.
    assert PairedVerdicts(won=won, lost=lost).p_value == pytest.approx(
        sum(uneven) / 2**total, abs=1e-15
    )


def test_mcnemar_holds_for_thousands() -> None:
    assert PairedVerdicts(won=1000, lost=1000).p_value == 1.0
    assert 0 < PairedVerdicts(won=900, lost=1100).p_value < 1e-4


def outcome(name: str, steps: int, correct: int, **figures: object) -> Outcome:
    """An outcome of 20 captions of one kind."""
    rate = Rate(num_correct=correct, num_total=20)
    table = solver_table("dpmpp2m", steps=steps)
    values: dict[str, object] = {
        "paired": None, "distance": None, "outside": 0.1, "clipped": 0.05,
        "seams": (1.1, None, 1.2), "seconds": 0.5, **figures,
    }  # fmt: skip
    return Outcome(
        candidate=Candidate(name=name, table=table, guidance=2.0),
        score=ShapesScore(overall=rate, kinds={"counting": rate}),
        **values,  # type: ignore[arg-type]
    )


def test_pareto_keeps_what_none_beats() -> None:
    result = [
        outcome("dear", 50, 18),
        outcome("best", 20, 18),
        outcome("twin", 20, 18),
        outcome("worse", 20, 17),
        outcome("cheap", 5, 10),
        outcome("poor", 6, 10),
    ]
    report = MeterReport(bundle="ab", runtime="fake", settings=SETTINGS, outcomes=tuple(result))
    assert [one.candidate.name for one in report.pareto()] == ["cheap", "best", "twin"]
    marked = [line.split()[1] for line in report.to_table().splitlines()[:7] if line[0] == "*"]
    assert marked == ["best", "twin", "cheap"]


def test_json_and_text_hold_every_figure(bundle: Bundle) -> None:
    report = report_of(bundle)
    values = json.loads(json_text(report.to_dict()))
    assert values == report.to_dict()
    assert values["settings"] == SETTINGS.to_dict()
    names = ["dpmpp2m-8", "dpmpp2m-4", "euler-6"]
    assert [one["name"] for one in values["outcomes"]] == names
    assert [one["evaluations"] for one in values["outcomes"]] == [16, 8, 9]
    lines = report.to_table().splitlines()
    widths = {len(line) for line in lines[:4]}
    assert len(widths) == 1
    assert f"{report.outcomes[1].seams[2]:.3f}" in lines[2].split()


def test_equal_pictures_are_null_in_json() -> None:
    one = outcome("a", 5, 3, distance=meter.Distance(psnr_db=math.inf, gmsd=0.0, num_images=2))
    report = MeterReport(bundle="ab", runtime="fake", settings=SETTINGS, outcomes=(one,))
    result = json.loads(json_text(report.to_dict()))["outcomes"][0]
    assert result["distance"] == {"psnr_db": None, "gmsd": 0.0, "pictures": 2}
    assert result["seams"] == {"horizontal": 1.1, "vertical": None, "both": 1.2}


def test_plots_are_pictures_and_repeat_byte_for_byte(bundle: Bundle, tmp_path: Path) -> None:
    from PIL import Image

    report = report_of(bundle)
    first = plots.write_plots(report, tmp_path)
    assert [path.name for path in first] == ["score.png", "psnr.png"]
    before = [path.read_bytes() for path in first]
    plots.write_plots(report, tmp_path)
    assert [path.read_bytes() for path in first] == before
    plots.plot_settings(report.outcomes, ["8", "4", "6"], "steps", tmp_path / "steps.png")
    for path in (*first, tmp_path / "steps.png"):
        colours = np.unique(np.asarray(Image.open(path)).reshape(-1, 4), axis=0)
        assert len(colours) > 20
    with pytest.raises(UsageError, match="a label for each of 3 outcomes, got 1"):
        plots.plot_settings(report.outcomes, ["8"], "steps", tmp_path / "steps.png")


def test_without_references_there_is_no_curve_of_distance(bundle: Bundle, tmp_path: Path) -> None:
    report = report_of(bundle, MeterSettings(per_kind=1, reference_steps=0))
    assert [path.name for path in plots.write_plots(report, tmp_path)] == ["score.png"]
