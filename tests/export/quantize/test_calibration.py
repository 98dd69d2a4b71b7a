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
    draw,
    find_scheme,
    prepare,
)
from minit2i_deploy.export.quantize.calibration.collection import plan
from minit2i_deploy.export.quantize.calibration.prompts import (
    GENERAL,
    default_prompts,
    read_prompts,
)
from minit2i_deploy.export.quantize.calibration.ranges import round_range
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.measured_values import attention_sites, linear_sites
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.tokenizer import Tokenizer
from tests.helpers.quantize_runs import PROMPTS, SETTINGS, ranges, source, step_graph


def test_the_same_draw_gives_the_same_bytes_and_another_seed_others() -> None:
    again = calibrate(source(), PROMPTS, SETTINGS)
    assert again.to_bytes() == ranges().to_bytes()
    assert len(again.digest) == 64
    other = calibrate(source(), PROMPTS, dataclasses.replace(SETTINGS, seed=1))
    assert other.digest != again.digest


def test_one_thread_and_two_see_the_same_values() -> None:
    sites = [site.value for site in linear_sites(step_graph())]
    (job,) = (plan(source(), PROMPTS, SETTINGS),)
    with GraphsRuntime(source()) as runtime:
        rows = [frozenset({3})]
        (drawn,) = draw(source(), runtime, ["a star"], [1], rows, job.table, job.guidance)
    seen = []
    for threads in (1, 2):
        with Session(step_graph(), sites, threads=threads) as run:
            seen.append(run({name: drawn.states[0].inputs[name] for name in run.inputs}))
    for one, two in zip(*seen, strict=True):
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


def test_every_site_has_ranges_of_every_channel_and_time_above_its_rows() -> None:
    sites = [*linear_sites(step_graph()), *attention_sites(step_graph())]
    assert set(ranges().sites) == {site.name for site in sites}
    for site in ranges().sites:
        absmax, rows = ranges().absmax[site], ranges().rows[site]
        assert absmax.shape == (SETTINGS.strata, rows.shape[1])
        assert SETTINGS.rows <= len(rows) < 2 * SETTINGS.rows
        # Rows are rounded to 8 bits of mantissa, ranges to 12.
        assert (np.abs(rows).max(0) <= ranges().channel_absmax(site) * (1 + 2**-7)).all()
        assert ranges().percentile(site, 99.0) <= ranges().tensor_absmax(site) * (1 + 2**-7)


def test_ranges_are_rounded_to_twelve_bits() -> None:
    values = np.exp(np.random.default_rng(0).uniform(-20, 20, 999)).astype(np.float32)
    found = round_range(values)
    assert np.abs(found / values - 1).max() <= 2**-12
    assert np.array_equal(round_range(found * np.float32(1 + 2**-20)), found)
    assert round_range(np.zeros(1, np.float32)).tolist() == [0.0]


def test_the_plan_takes_a_row_of_every_stratum_and_prompts_in_turn() -> None:
    job = plan(source(), PROMPTS, DrawSettings(samples=7, strata=4))
    assert job.table.name == source().manifest.presets["fast"].table
    assert sorted(job.prompts[:5]) == sorted(PROMPTS.texts)
    assert len(set(job.seeds)) == 7
    for rows in job.rows:
        parts = [
            sum(low <= row < high for row in rows)
            for low, high in zip(job.edges, job.edges[1:], strict=False)
        ]
        assert parts == [1, 1, 1, 1]
    assert job.meta == plan(source(), PROMPTS, DrawSettings(samples=7, strata=4)).meta


def test_a_calibration_of_another_network_is_refused() -> None:
    scheme = find_scheme("int8").transformer
    site = "double_blocks.0.img_qkv"
    ours = ranges()
    lacking = {name: value for name, value in ours.absmax.items() if name != site}
    with pytest.raises(UsageError, match=f"knows nothing of {site}, which has"):
        prepare(step_graph(), scheme, dataclasses.replace(ours, absmax=lacking))
    narrow = {**ours.absmax, site: ours.absmax[site][:, :3]}
    with pytest.raises(UsageError, match=f"knows 3 channels of {site}"):
        prepare(step_graph(), scheme, dataclasses.replace(ours, absmax=narrow))


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", "is no calibration file"), (b"PK\x05\x06" + bytes(18), "is no calibration file")],
)
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=text):
        Calibration.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        Calibration.load(tmp_path / "none.npz")
    np.savez(path, meta=np.frombuffer(b'{"kind": "other"}', np.uint8))
    with pytest.raises(UsageError, match="kind 'other' version None"):
        Calibration.load(path)
    whole = ranges().to_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is no calibration file"):
        Calibration.load(path)


def test_comparing_puts_what_moved_most_first() -> None:
    site = "double_blocks.0.img_qkv"
    moved = {**ranges().absmax, site: ranges().absmax[site] * 4}
    pairs = compare_ranges(ranges(), dataclasses.replace(ranges(), absmax=moved))
    assert pairs[0].site == site and pairs[0].ratio == 4.0
    assert {pair.ratio for pair in pairs[1:]} == {1.0}
    fewer = {name: value for name, value in ranges().absmax.items() if name != site}
    with pytest.raises(UsageError, match=f"different networks: {site}"):
        compare_ranges(ranges(), dataclasses.replace(ranges(), absmax=fewer))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 different prompts, but at least 4"),
        ("one\n\n", "1 different prompts, but at least 4"),
        ("one\none\none\none\n", "1 different prompts"),
        ("\n".join(f"{i} " + "very " * 99 for i in range(5)), "all 5 prompts are longer than"),
    ],
    ids=["empty", "one line", "doubled", "all cut"],
)
def test_prompts_that_show_nothing_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
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


def test_default_prompts_are_shapes_where_the_tokenizer_was_made_for_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As small a vocabulary, of other words.
    assert default_prompts(source()).name == "general"
    folder = repository / "minit2i_deploy" / "demo" / "assets" / "tokenizer"
    monkeypatch.setattr(Bundle, "tokenizer", lambda self: Tokenizer.open(folder, 20))
    assert default_prompts(source()).name == "shapes"


@pytest.mark.parametrize("field", ["samples", "strata", "rows", "seed"])
def test_settings_outside_their_range_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=field):
        DrawSettings(**{field: -1})


def test_a_table_with_fresh_noise_is_refused() -> None:
    table = solver_table("sde", steps=4)
    with GraphsRuntime(source()) as runtime, pytest.raises(UsageError, match="is stochastic"):
        draw(source(), runtime, ["a"], [1], [()], table, 2.5)
