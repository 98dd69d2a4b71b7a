"""Calibration: the same bytes for the same draw, ranges that bound what is seen, bad input."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize import (
    Calibration,
    DrawSettings,
    Session,
    calibrate,
    compare_ranges,
    find_scheme,
    run_trajectories,
    smooth_and_scale,
)
from minit2i_deploy.export.quantize.calibration.prompts import (
    GENERAL,
    default_prompts,
    read_prompts,
)
from minit2i_deploy.export.quantize.calibration.range_collection import plan_calibration
from minit2i_deploy.export.quantize.calibration.ranges import round_range
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.tokenizer import Tokenizer
from tests.helpers.quantize_runs import PROMPTS, SETTINGS, ranges, source, step, step_graph


def test_the_same_draw_gives_the_same_bytes_and_another_seed_others() -> None:
    again = calibrate(source(), PROMPTS, SETTINGS)
    assert again.to_bytes() == ranges().to_bytes()
    assert len(again.digest) == 64
    other = calibrate(source(), PROMPTS, dataclasses.replace(SETTINGS, seed=1))
    assert other.digest != again.digest


def test_one_thread_and_two_give_the_same_ranges() -> None:
    sites = [site.value for site in step().sites if site.node < 0]
    plan = plan_calibration(source(), PROMPTS, SETTINGS)
    with GraphsRuntime(source()) as runtime:
        rows = [frozenset({3})]
        (trajectory,) = run_trajectories(
            source(), runtime, ["a star"], [1], rows, plan.table, plan.guidance
        )
    inputs, outputs = trajectory.states[0].inputs, []
    for threads in (1, 2):
        with Session(step_graph(), sites, threads=threads) as run:
            outputs.append(run({name: inputs[name] for name in run.inputs}))
    for one, two in zip(*outputs, strict=True):
        # Measured: equal; kernels split rows among threads, never sums.
        assert np.array_equal(round_range(np.abs(one).max(0)), round_range(np.abs(two).max(0)))


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    ranges().save(path)
    again = Calibration.load(path)
    assert again.to_bytes() == path.read_bytes()
    assert again.meta == ranges().meta
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(path) as plain:
        assert "absmax/double_blocks.0.img_qkv" in plain.files


def test_every_site_has_ranges_of_every_channel_and_time_above_its_activations() -> None:
    assert set(ranges().sites) == {site.name for site in step().sites}
    for site in ranges().sites:
        absmax, stored = ranges().absmax[site], ranges().activations[site]
        assert absmax.shape == (SETTINGS.strata, stored.shape[1])
        assert SETTINGS.activations <= len(stored) < 2 * SETTINGS.activations
        # Activations are rounded to 8 bits of mantissa, ranges to 12.
        assert (np.abs(stored).max(0) <= ranges().channel_absmax(site) * (1 + 2**-7)).all()
        assert ranges().percentile(site, 99.0) <= ranges().tensor_absmax(site) * (1 + 2**-7)


def test_ranges_are_rounded_to_twelve_bits() -> None:
    values = np.exp(np.random.default_rng(0).uniform(-20, 20, 999)).astype(np.float32)
    rounded = round_range(values)
    assert np.abs(rounded / values - 1).max() <= 2**-12
    assert np.array_equal(round_range(rounded * np.float32(1 + 2**-20)), rounded)
    assert round_range(np.zeros(1, np.float32)).tolist() == [0.0]


def test_the_plan_takes_a_row_of_every_stratum_and_prompts_in_turn() -> None:
    settings = DrawSettings(samples=7, strata=4)
    plan = plan_calibration(source(), PROMPTS, settings)
    assert plan.table.name == source().manifest.presets["fast"].table
    assert sorted(plan.prompts[:5]) == sorted(PROMPTS.texts)
    assert len(set(plan.seeds)) == 7
    for rows in plan.rows:
        parts = [
            sum(low <= row < high for row in rows)
            for low, high in zip(plan.edges, plan.edges[1:], strict=False)
        ]
        assert parts == [1, 1, 1, 1]
    assert plan.meta == plan_calibration(source(), PROMPTS, settings).meta


def test_a_calibration_of_another_network_is_refused() -> None:
    scheme = find_scheme("int8").transformer
    site = "double_blocks.0.img_qkv"
    complete = ranges()
    fewer = {name: value for name, value in complete.absmax.items() if name != site}
    with pytest.raises(UsageError, match=f"has nothing of {site}, which has"):
        smooth_and_scale(step(), scheme, dataclasses.replace(complete, absmax=fewer))
    narrow = {**complete.absmax, site: complete.absmax[site][:, :3]}
    with pytest.raises(UsageError, match=f"has 3 channels of {site}"):
        smooth_and_scale(step(), scheme, dataclasses.replace(complete, absmax=narrow))


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", "not a calibration file"), (b"PK\x05\x06" + bytes(18), "not a calibration file")],
)
def test_a_corrupt_file_is_refused(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=text):
        Calibration.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        Calibration.load(tmp_path / "none.npz")
    np.savez(path, meta=np.frombuffer(b'{"kind": "other"}', np.uint8))
    with pytest.raises(UsageError, match="kind 'other' version None"):
        Calibration.load(path)
    data = ranges().to_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="not a calibration file"):
        Calibration.load(path)


def test_comparing_puts_the_largest_difference_first() -> None:
    site = "double_blocks.0.img_qkv"
    moved = {**ranges().absmax, site: ranges().absmax[site] * 4}
    pairs = compare_ranges(ranges(), dataclasses.replace(ranges(), absmax=moved))
    assert pairs[0].site == site and pairs[0].ratio == 4.0
    assert {pair.ratio for pair in pairs[1:]} == {1.0}
    fewer = {name: value for name, value in ranges().absmax.items() if name != site}
    with pytest.raises(UsageError, match=f"different networks: only one has {site}"):
        compare_ranges(ranges(), dataclasses.replace(ranges(), absmax=fewer))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "0 different prompts, but at least 4"),
        ("one\n\n", "1 different prompts, but at least 4"),
        ("one\none\none\none\n", "1 different prompts"),
        ("\n".join(f"{i} " + "very " * 99 for i in range(5)), "all 5 prompts are longer than"),
    ],
    ids=["empty", "one line", "doubled", "all cut"],
)
def test_too_few_or_too_long_prompts_are_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=match):
        read_prompts(path, source())


def test_prompts_are_read_once_each(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\n\nc\na\nd\n", encoding="utf-8")
    assert read_prompts(path, source()).texts == ("a", "b", "c", "d")
    path.write_bytes(b"a\nb\n\xff\nc\nd\n")
    with pytest.raises(UsageError, match="line 3: not UTF-8"):
        read_prompts(path, source())
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / "none", source())


def test_shipped_prompts_are_many_and_different() -> None:
    assert len(GENERAL) == len(set(GENERAL)) == 64
    assert all(text.isascii() for text in GENERAL)


def test_default_prompts_are_shapes_for_a_tokenizer_trained_on_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As small a vocabulary, of other words.
    assert default_prompts(source()).name == "general"
    folder = repository / "minit2i_deploy" / "demo" / "assets" / "tokenizer"
    monkeypatch.setattr(Bundle, "tokenizer", lambda self: Tokenizer.open(folder, 20))
    assert default_prompts(source()).name == "shapes"


@pytest.mark.parametrize("field", ["samples", "strata", "activations", "seed"])
def test_settings_outside_their_range_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=field):
        DrawSettings(**{field: -1})


def test_a_table_with_fresh_noise_is_refused() -> None:
    table = solver_table("sde", steps=4)
    with GraphsRuntime(source()) as runtime, pytest.raises(UsageError, match="is stochastic"):
        run_trajectories(source(), runtime, ["a"], [1], [()], table, 2.5)
