"""Two sides down one table: errors by hand, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.errors import PromptTruncatedWarning, RuntimeFailure, UsageError
from minit2i_deploy.evaluation.compare import (
    CompareSettings,
    Contender,
    PromptCase,
    caption_cases,
    check_comparable,
    compare,
    is_shapes_model,
    prompt_cases,
)
from minit2i_deploy.evaluation.compare import comparison as measure_module
from minit2i_deploy.evaluation.compare.contenders import graph_bytes
from minit2i_deploy.evaluation.compare.lockstep import run_lockstep
from minit2i_deploy.evaluation.compare.prompt_cases import is_shapes_tokenizer, spread_indices
from minit2i_deploy.evaluation.quality import image_metrics
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.evaluation.shapes import Spec, Verdict, held_out_captions
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.tokenizer import Tokenizer
from tests.helpers.bundles import draft, write_bundle, write_files

GUIDANCE = 2.5
TASKS = (
    PromptCase(prompt="red", seed=3),
    PromptCase(prompt="a blue", seed=8),
    PromptCase(prompt="", seed=9),
)


class Louder(FakeRuntime):
    """The fake, whose tokens are 1% larger: a bundle with a small error."""

    name = "louder"
    factor = 1.01

    def adapt(self, context, mask, conditions=None):  # type: ignore[no-untyped-def]
        """The fake's tokens, scaled."""
        return super().adapt(context, mask, conditions) * np.float32(self.factor)


class Broken(FakeRuntime):
    """Gives NaN in its tokens."""

    def adapt(self, context, mask, conditions=None):  # type: ignore[no-untyped-def]
        """No number at all."""
        return super().adapt(context, mask, conditions) * np.float32("nan")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A whole small bundle."""
    return Bundle.open(write_bundle(tmp_path / "b"))


def side(bundle: Bundle, kind: type[FakeRuntime] = FakeRuntime) -> Contender:
    """That bundle on a runtime of that kind."""
    return Contender(bundle=bundle, runtime=kind(bundle), engine=kind.name)


def settings(table: Table, **changes: int) -> CompareSettings:
    """A table at GUIDANCE."""
    return CompareSettings(table=table, guidance=GUIDANCE, **changes)


def by_hand(
    bundle: Bundle, table: Table, forced: bool
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """States and estimates of B, from A's states or from its own, in plain numpy."""
    from minit2i_deploy.solvers.noise import batch_noise
    from minit2i_deploy.text.conditioning import branch_tokens

    prompts, seeds = [task.prompt for task in TASKS], [task.seed for task in TASKS]
    tones = [
        branch_tokens(bundle, kind(bundle), prompts, None, True, {}).mean(axis=(2, 3))
        for kind in (FakeRuntime, Louder)
    ]
    x = batch_noise(seeds, (3, 32, 32)) * np.float32(bundle.manifest.noise.scale)
    states_before = [(x, np.zeros_like(x)), (x, np.zeros_like(x))]
    states, estimates, reference = [], [], []
    for row in table.steps(GUIDANCE):
        weights = row.weights
        after = []
        for number, (state, tone) in enumerate(zip(states_before, tones, strict=True)):
            begin = states_before[0] if forced and number else state
            x0 = np.tanh(begin[0][None] + tone[: len(weights), :, None, None, None])
            after.append(advance(*begin, x0, weights, row.values))
            guided = (weights[:, None, None, None, None] * x0).sum(axis=0)
            (reference if number == 0 else estimates).append(guided)
        states.append((after[0][0], after[1][0]))
        states_before = after
    return states, estimates, reference


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "dpmpp2m"])
def test_rows_are_measured_from_equal_and_from_separate_states(bundle: Bundle, solver: str) -> None:
    table = solver_table(solver, steps=5)
    result = run_lockstep(side(bundle), side(bundle, Louder), TASKS, table, GUIDANCE, details=True)
    assert result.row_errors is not None
    states, estimates, reference = by_hand(bundle, table, forced=True)
    running, _, _ = by_hand(bundle, table, forced=False)
    for index in range(len(table)):
        # Measured 3e-6 of an error of 1e-3: the estimate is taken from h' = y + s x in float32.
        np.testing.assert_allclose(
            result.row_errors.estimate[index],
            l2_relative_errors(estimates[index], reference[index]),
            rtol=1e-3,
        )
        np.testing.assert_allclose(
            result.row_errors.step[index],
            l2_relative_errors(states[index][1], states[index][0]),
            rtol=1e-3,
        )
        np.testing.assert_allclose(
            result.row_errors.drift[index],
            l2_relative_errors(running[index][1], running[index][0]),
            rtol=1e-3,
        )
    np.testing.assert_allclose(result.row_errors.tokens, 0.01, rtol=1e-4)


def test_pictures_are_those_of_generate(bundle: Bundle) -> None:
    table = solver_table("ab2", steps=4)
    result = run_lockstep(side(bundle), side(bundle, Louder), TASKS, table, GUIDANCE, details=False)
    for kind, x in ((FakeRuntime, result.x_a), (Louder, result.x_b)):
        expected = generate(
            bundle,
            kind(bundle),
            [task.prompt for task in TASKS],
            seed=[task.seed for task in TASKS],
            table=table,
            guidance=GUIDANCE,
        )
        np.testing.assert_array_equal(x, expected.x)
    assert result.row_errors is None


def test_rows_with_fresh_noise_draw_the_same_for_both(bundle: Bundle) -> None:
    table = solver_table("sde", steps=4)
    assert table.column("n").any()
    result = run_lockstep(side(bundle), side(bundle), TASKS, table, GUIDANCE, details=True)
    assert result.row_errors is not None
    np.testing.assert_array_equal(result.x_a, result.x_b)
    for kind in ("tokens", "estimate", "step", "drift"):
        assert not getattr(result.row_errors, kind).any(), kind


def test_one_side_on_itself_is_equal(bundle: Bundle) -> None:
    result = compare(side(bundle), side(bundle), TASKS, settings(solver_table("euler", steps=3)))
    values = result.to_dict()
    assert values["final"]["psnr_db"] == {"mean": None, "lowest": None}
    assert values["final"]["ssim"]["lowest"] == pytest.approx(1.0)
    assert values["final"]["bytes_off"] == {"mean": 0.0, "largest": 0.0}
    assert values["final"]["levels_off"] == 0
    assert values["score"] is None
    assert values["seams"]["a"] == values["seams"]["b"]


def test_figures_do_not_depend_on_batches(bundle: Bundle) -> None:
    table = solver_table("euler", steps=3)
    one, other = (
        compare(side(bundle), side(bundle, Louder), TASKS, settings(table, batch=b, details=2))
        for b in (1, 3)
    )
    assert [pair.case for pair in one.pairs] == list(TASKS)
    assert [states.index for states in one.states] == [0, 1]
    for first, second in zip(one.pairs, other.pairs, strict=True):
        assert first.psnr_db == pytest.approx(second.psnr_db, rel=1e-9)
    np.testing.assert_allclose(one.row_errors.drift, other.row_errors.drift, rtol=1e-9)


def test_final_figures_are_those_of_the_metrics(bundle: Bundle) -> None:
    table = solver_table("euler", steps=3)
    result = compare(side(bundle), side(bundle, Louder), TASKS, settings(table, details=3))
    x_a, x_b = (np.stack([getattr(one, name) for one in result.states]) for name in ("x_a", "x_b"))
    assert [pair.psnr_db for pair in result.pairs] == image_metrics.psnr(x_b, x_a).tolist()
    first, second = (
        np.floor(np.clip(np.clip(x, -1, 1) * 127.5 + 128, 0, 255)).astype(int) for x in (x_a, x_b)
    )
    off = np.abs(first - second)
    assert result.final()["levels_off"] == off.max() > 0
    assert result.final()["bytes_off"]["mean"] == pytest.approx((off > 0).mean())
    ratio = image_metrics.seam_ratios(image_metrics.seam_gradients(x_b, bundle.config.patch_size))
    assert result.seams[1] == pytest.approx(ratio)


def test_verdicts_make_a_paired_score(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Spec] = []

    def judge(image: np.ndarray, spec: Spec) -> Verdict:
        calls.append(spec)
        # A comes before B: A is right on every third caption, B on every second.
        number, is_b = divmod(len(calls) - 1, 2)
        return Verdict(correct=number % (2 if is_b else 3) == 0, reason="")

    monkeypatch.setattr(measure_module, "judge", judge)
    # The captions are longer than the small bundle takes; the verdict is made up anyway.
    tasks = [dataclasses.replace(task, prompt="red") for task in caption_cases(1)]
    result = compare(
        side(bundle), side(bundle, Louder), tasks, settings(solver_table("euler", steps=2))
    )
    score = result.score()
    assert score is not None
    # Of captions 0 to 5, A has 0 and 3, B has 0, 2 and 4.
    assert (score["a"]["overall"]["correct"], score["b"]["overall"]["correct"]) == (2, 3)
    assert (score["paired"]["won"], score["paired"]["lost"]) == (2, 1)
    assert score["difference"] == pytest.approx(1 / 6)
    low, high = score["difference_interval_95"]
    assert low < 1 / 6 < high


def test_a_truncated_prompt_warns_once(bundle: Bundle) -> None:
    tasks = prompt_cases(["red " * 40], [0, 1, 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare(
            side(bundle), side(bundle), tasks, settings(solver_table("euler", steps=2), batch=1)
        )
    assert [item.category for item in caught] == [PromptTruncatedWarning]


def test_progress_ends_at_one(bundle: Bundle) -> None:
    shares: list[float] = []
    table = solver_table("euler", steps=3)
    compare(
        side(bundle),
        side(bundle),
        TASKS,
        settings(table, batch=1, details=1),
        lambda share, label="": shares.append(share),
    )
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_nan_is_a_failure_that_names_the_bundle(bundle: Bundle) -> None:
    with pytest.raises(RuntimeFailure, match=rf"{bundle.path}: an image holds NaN .* fake"):
        compare(side(bundle), side(bundle, Broken), TASKS, settings(solver_table("euler", steps=2)))


def changed(tmp_path: Path, manifest: Manifest, name: str = "other") -> Bundle:
    """A bundle with another manifest."""
    write_files(tmp_path / name)
    write_manifest(tmp_path / name, manifest)
    return Bundle.open(tmp_path / name)


def test_what_cannot_be_compared_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    plain = draft()
    model = plain.model
    shorter = dataclasses.replace(model, prompt_length=9)
    others = {
        "image size": {"model": dataclasses.replace(model, image_size=64)},
        "prompt length": {
            "model": shorter,
            "tokenizer": dataclasses.replace(plain.tokenizer, prompt_length=9),
        },
        "noise": {"noise": dataclasses.replace(plain.noise, scale=1.0)},
    }
    for what, changes in others.items():
        other = changed(tmp_path, dataclasses.replace(plain, **changes), what.replace(" ", "-"))
        with pytest.raises(UsageError, match=rf"{what} is .*, but .* has .*; compare bundles"):
            check_comparable(bundle, other)


def test_another_tokenizer_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    write_files(tmp_path / "other")
    path = tmp_path / "other" / "tokenizer" / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    write_manifest(tmp_path / "other", draft())
    with pytest.raises(UsageError, match="tokenizer is"):
        compare(
            side(bundle),
            side(Bundle.open(tmp_path / "other")),
            TASKS,
            settings(solver_table("euler", steps=2)),
        )


def test_a_student_is_not_compared_with_a_base_model(bundle: Bundle, tmp_path: Path) -> None:
    from minit2i_deploy.config import StudentConfig

    student = dataclasses.replace(draft().model, student=StudentConfig())
    other = changed(tmp_path, dataclasses.replace(draft(), model=student))
    with pytest.raises(UsageError, match=r"kind is few-step student, but .* has base model"):
        check_comparable(bundle, other)


def test_sizes_add_up(bundle: Bundle) -> None:
    sizes = graph_bytes(bundle)
    assert sizes["total"] == sum(info.bytes for info in bundle.manifest.files.values())
    assert sum(sizes.values()) == 2 * sizes["total"]
    on_disk = (bundle.path / "transformer").iterdir()
    assert sizes["transformer"] == sum(path.stat().st_size for path in on_disk)


def test_tasks_pair_prompts_with_seeds() -> None:
    plain = caption_cases(2)
    assert [task.seed for task in plain] == list(range(12))
    assert [(task.spec, task.prompt) for task in plain] == held_out_captions(2, 0)
    crossed = prompt_cases(["a", "b"], [5, 7])
    assert [(task.prompt, task.seed) for task in crossed] == [
        ("a", 5), ("a", 7), ("b", 5), ("b", 7),
    ]  # fmt: skip
    assert all(task.spec is None for task in crossed)


def test_tasks_refuse_nothing() -> None:
    with pytest.raises(UsageError, match="no prompts; give at least one"):
        prompt_cases([])
    with pytest.raises(UsageError, match="at least 1"):
        caption_cases(0)
    with pytest.raises(UsageError, match="seed"):
        prompt_cases(["a"], [-1])


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 5]), (4, [0, 2, 5, 7]), (99, list(range(10)))]
)
def test_details_are_spread_over_the_tasks(count: int, expected: list[int]) -> None:
    assert spread_indices([PromptCase(prompt="", seed=i) for i in range(10)], count) == expected


@pytest.mark.parametrize("name", ["batch", "details"])
def test_settings_refuse_less_than_one(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: expected at least 1, got 0"):
        settings(solver_table("euler", steps=2), **{name: 0})


def test_no_prompts_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no prompts; give at least one"):
        compare(side(bundle), side(bundle), [], settings(solver_table("euler", steps=2)))


def test_a_model_of_shapes_is_known_by_its_vocabulary(bundle: Bundle, repository: Path) -> None:
    assert not is_shapes_model(bundle)
    folder = repository / "minit2i_deploy" / "demo" / "assets" / "tokenizer"
    assert is_shapes_tokenizer(Tokenizer.open(folder, 20))
    assert not is_shapes_tokenizer(Tokenizer.open(folder, 4))
