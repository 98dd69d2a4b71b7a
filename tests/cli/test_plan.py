"""minit2i plan: forecasts against the arithmetic they are made of, and their units."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minit2i_deploy.cli.plan import amount
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.planning.forecast import Forecast, Measured
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

FAKE = ("--runtime", "fake", "--seconds", 0.01)


def forecast(num_items: int = 1000, num_blocks: int = 100, opening_s: float = 5.0) -> Forecast:
    measured = Measured(items_per_s=2.0, opening_s=opening_s, item_bytes=10.5, memory_bytes=7)
    return Forecast(measured=measured, num_items=num_items, num_blocks=num_blocks, price=3.0)


def test_shards_share_the_work_and_each_opens_an_engine() -> None:
    one = forecast()
    assert one.work_s == 500.0
    assert one.wall_s(1) == 505.0 and one.wall_s(10) == 55.0
    # 100 blocks on 64 shards: some have two.
    assert one.wall_s(64) == one.wall_s(50) == 15.0
    assert one.device_hours(10) == pytest.approx(550 / 3600)


def test_the_best_number_of_shards_opens_for_one_twentieth_of_the_time() -> None:
    # With n shards 5 / (5 + 500 / n) <= 0.05, so n <= 5.26.
    assert forecast().best_shards == 5
    assert forecast(num_items=10**9).best_shards == 100
    assert forecast(num_items=1, num_blocks=1).best_shards == 1
    assert forecast(opening_s=0.0).best_shards == 100
    assert forecast(num_items=10**6).shard_counts() == [1, 8, 64, 100]


def test_values_for_programs() -> None:
    values = forecast().to_dict()
    assert values["disk_bytes"] == 10_500 and values["best_shards"] == 5
    assert [each["shards"] for each in values["runs"]] == [1, 5]
    assert values["runs"][0]["cost"] == pytest.approx(3 * 505 / 3600)
    with pytest.raises(UsageError, match="at least 1 item"):
        forecast(num_items=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a bundle named b."""
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "b")
    Path("t.txt").write_text("a red circle\ngreen\n")
    return tmp_path


def test_plan_embed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("plan", "embed", "b", "--texts", "100k", "-i", "t.txt", *FAKE)
    values = json.loads(run(capsys, *command, "--json").out)
    assert values["items"] == 100_000 and values["blocks"] == 25 and values["items_per_s"] > 0
    # Of about 3 tokens of 32 float32 numbers, texts and lengths.
    assert 100_000 * 300 < values["disk_bytes"] < 100_000 * 700
    text = run(capsys, *command, "--price", 2).out
    assert text.startswith("100,000 texts: ") and "cost" in text


def test_plan_paint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(
        capsys, "plan", "paint", "b", "--suite", "geneval", "--solver", "euler", "--steps", 3, *FAKE
    )
    assert done.code == 0 and done.out.startswith("2,212 images, table euler-3, guidance 6: ")
    assert "139 blocks" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "b", "--texts", "many"), "expected a number such as 2000 or 100M"),
        (("embed", "b", "--texts", "1k", "--batch", 0), "--batch: expected at least 1"),
        (("embed", "b", "--texts", "1k", "--seconds", 0), "--seconds: expected above 0"),
        (("embed", "b", "--texts", "1k", "-i", "none.txt"), "cannot be read"),
        (("paint", "b"), "expected one of --suite and --images"),
        (("paint", "b", "--suite", "prism"), "has no official size"),
    ],
)
def test_wrong_use(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    done = run(capsys, "plan", *arguments, "--runtime", "fake")
    assert done.code == 2 and message in done.error


def test_amounts_have_units() -> None:
    assert [amount(text) for text in ("7", "50k", "100M", "2G")] == [7, 50_000, 10**8, 2 * 10**9]


def test_the_disk_forecast_is_of_images_and_not_of_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The measured rows are the first of the table, where the state is noise."""
    bundle, sampling = ready_bundle("demo", tmp_path), ("--solver", "euler", "--steps", 10)
    plan = ("plan", "paint", bundle, "--images", 4, "--batch", 4, "--seconds", 0.01, *sampling)
    forecast = json.loads(run(capsys, *plan, "--json").out)["disk_bytes"]
    prompts, out = tmp_path / "p.txt", tmp_path / "out"
    prompts.write_text("a red circle\ntwo blue squares\na green star\na red star\n")
    paint = ("eval", "paint", "folder", bundle, "--prompts", prompts, "-o", out, *sampling)
    assert run(capsys, *paint).code == 0
    actual = sum(path.stat().st_size for path in out.iterdir())
    # Measured 0.02; the state that was encoded before was twice as large.
    assert abs(forecast / actual - 1) < 0.3
