"""Batches are a function of the recipe, the seed and what was seen, whoever reads them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minit2i_deploy.errors import DataWarning, TrainingError, UsageError
from minit2i_deploy.evaluation.shapes import draw_scene, is_held_out, sample_scene
from minit2i_deploy.training.data import Batches, DataBatch
from minit2i_deploy.training.data.batches import BatchReader
from minit2i_deploy.training.data.mixture import ATTEMPTS
from minit2i_deploy.training.recipe.data import parse_data
from minit2i_deploy.training.recipe.recipe import Recipe
from tests.helpers.shard_files import good, greys, numbers, picture, served, write_set, write_tar
from tests.helpers.training_runs import tiny_recipe

# Python 3.12 warns of any fork beside other threads; the worker reads with Python alone.
FORK = "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"


def recipe_of(*sources: object, workers: int = 0, **changes: Any) -> Recipe:
    keys = ("window", "bad_limit", "threads", "cache")
    data = {key: changes.pop(key) for key in keys if key in changes}
    return tiny_recipe(data=parse_data({"sources": sources, "workers": workers} | data), **changes)


def shard_recipe(folder: Path, counts: list[int], **changes: Any) -> Recipe:
    paths = write_set(folder, counts)
    return recipe_of({"shards": [str(path) for path in paths]}, **changes)


def read(recipe: Recipe, steps: int, **options: int) -> list[DataBatch]:
    return list(Batches(recipe, **options).read(steps))


def captions_of(batches: list[DataBatch]) -> list[str]:
    return [caption for batch in batches for caption in batch.captions]


def assert_same(one: list[DataBatch], other: list[DataBatch]) -> None:
    assert captions_of(one) == captions_of(other)
    assert torch.equal(
        torch.cat([batch.images for batch in one]), torch.cat([batch.images for batch in other])
    )


def test_shapes_are_the_generator_of_their_step_in_order() -> None:
    recipe = recipe_of("shapes", seed=3)
    batch = read(recipe, 12)[11]
    rng = np.random.default_rng([1, 3, 11])
    drawn = [sample_scene(rng) for _ in range(4)]
    assert batch.captions == [caption for _, _, caption in drawn]
    images = [draw_scene(scene, 16) for scene, _, _ in drawn]
    assert np.array_equal(batch.images.numpy(), np.stack(images)) and batch.values is None
    assert read(recipe_of("shapes", seed=4), 12)[11].captions != batch.captions


def test_no_caption_of_shapes_is_held_out() -> None:
    captions = captions_of(read(recipe_of("shapes", batch=100), 20))
    assert len(set(captions)) > 500
    assert not any(is_held_out(caption) for caption in captions)


def test_kinds_come_as_often_as_their_weights_say() -> None:
    weights = {"counting": 3, "colours": 1}
    captions = captions_of(read(recipe_of("shapes", batch=400, kind_weights=weights), 12))
    share = sum("two" in c or "three" in c or "four" in c for c in captions) / len(captions)
    assert share == pytest.approx(0.75, abs=0.025)  # standard error 0.006


def test_images_stay_with_their_captions(tmp_path: Path) -> None:
    batches = read(shard_recipe(tmp_path, [5, 8]), 6)
    for batch in batches:
        assert batch.images.shape == (4, 16, 16, 3) and batch.images.dtype == torch.uint8
        expected = [4 + number * 5 for number in numbers(batch.captions)]
        assert (
            np.abs(np.array(greys(batch.images.numpy())) - expected).max() <= 2
        )  # JPEG; measured 1


def test_an_epoch_holds_every_sample_once(tmp_path: Path) -> None:
    recipe = shard_recipe(tmp_path, [5, 4, 7])
    actual = numbers(captions_of(read(recipe, 8)))
    assert sorted(actual[:16]) == sorted(actual[16:]) == list(range(16))
    assert actual[:16] != actual[16:] != list(range(16))


@pytest.mark.parametrize("source", ["shapes", "shards", "both"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_read_what_one_reads(
    tmp_path: Path, source: str, world_size: int
) -> None:
    shards = {"shards": [str(path) for path in write_set(tmp_path, [5, 4])]}
    sources = {"shapes": ["shapes"], "shards": [shards], "both": ["shapes", shards]}[source]
    recipe = recipe_of(*sources, batch=8)
    parts = [read(recipe, 3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(read(recipe, 3)):
        images, captions = torch.empty_like(whole.images), [""] * 8
        for rank, part in enumerate(parts):
            images[rank::world_size] = part[step].images
            captions[rank::world_size] = part[step].captions
        assert captions == whole.captions and torch.equal(images, whole.images)


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_threads_change_nothing(tmp_path: Path, workers: int) -> None:
    expected = read(shard_recipe(tmp_path, [5, 4, 7], threads=1), 6)
    assert_same(read(shard_recipe(tmp_path, [5, 4, 7], workers=workers, threads=3), 6), expected)


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("stop", range(1, 8))
def test_a_run_stopped_anywhere_goes_on_with_the_same_samples(tmp_path: Path, stop: int) -> None:
    """In an epoch, at its end (after 13 samples) and in the next; through JSON, read ahead."""
    sources = [{"shards": f"{tmp_path}/*.tar", "weight": 2}, "shapes"]
    write_set(tmp_path, [5, 8])
    recipe = recipe_of(*sources, window=6, workers=stop % 2)
    straight = read(recipe, 9)
    first = Batches(recipe)
    stream = first.read(9)
    before = [next(stream) for _ in range(stop)]
    state = json.loads(json.dumps(first.state_dict()))
    stream.close()
    second = Batches(recipe)
    second.load_state_dict(state)
    assert_same([*before, *second.read(9 - stop)], straight)
    assert second.state_dict() == {**state, "samples_seen": 36}


def test_another_number_of_processes_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    recipe = shard_recipe(tmp_path, [5, 4, 7], batch=8)
    straight = read(recipe, 4)
    one = Batches(recipe)
    list(one.read(2))
    parts = []
    for rank in range(4):
        source = Batches(recipe, rank=rank, world_size=4)
        source.load_state_dict(one.state_dict())
        parts.append(list(source.read(2)))
    for step in range(2):
        together = [""] * 8
        for rank, part in enumerate(parts):
            together[rank::4] = part[step].captions
        assert together == straight[2 + step].captions


def test_other_data_goes_on_with_a_warning(tmp_path: Path) -> None:
    one = Batches(shard_recipe(tmp_path, [5, 4]))
    list(one.read(2))
    other = Batches(shard_recipe(tmp_path / "other", [5, 5]))
    with pytest.warns(
        DataWarning, match="differs from the checkpoint.s; reading continues at sample 8"
    ):
        other.load_state_dict(one.state_dict())
    moved = Batches(shard_recipe(tmp_path / "moved", [5, 4]))
    moved.load_state_dict(one.state_dict())
    assert moved.samples_seen == 8


def test_a_mix_keeps_its_weights(tmp_path: Path) -> None:
    few, many = write_set(tmp_path / "a", [3]), write_set(tmp_path / "b", [50], first=100)
    recipe = recipe_of(
        {"shards": str(few[0]), "weight": 3}, {"shards": str(many[0]), "weight": 1}, batch=40
    )
    actual = numbers(captions_of(read(recipe, 20)))
    assert sum(n < 100 for n in actual) / 800 == pytest.approx(
        0.75, abs=0.06
    )  # standard error .015
    small = [n for n in actual if n < 100]
    assert all(sorted(small[i : i + 3]) == [0, 1, 2] for i in range(0, len(small) - 2, 3))


BAD = {
    "corrupt picture": ({"jpg": picture(1)[:150], "txt": b"a"}, "image cannot be read"),
    "no image": ({"txt": b"a"}, r"no image \(has txt, expected jpg or jpeg or png or webp\)"),
    "no caption": ({"jpg": picture(1)}, r"no caption \(no .txt\)"),
    "not utf-8": ({"jpg": picture(1), "txt": b"\xff\xfe"}, r"caption is not UTF-8 \(byte 0\)"),
    "blank": ({"jpg": picture(1), "txt": b" \n"}, "caption is empty"),
    "nul": ({"jpg": picture(1), "txt": b"a\0b"}, "caption has a NUL character"),
    "too small": ({"jpg": picture(1, (20, 9)), "txt": b"a"}, r"image too small \(20 x 9\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sample_is_passed_over_and_named_once(tmp_path: Path, name: str) -> None:
    members, message = BAD[name]
    samples = {f"{n:02d}": good(n) for n in range(12)}
    path = write_tar(tmp_path / "a.tar", {**samples, "05": members})
    source = Batches(recipe_of({"shards": str(path), "min_side": 12}, batch=12))
    with pytest.warns(DataWarning, match=f"a.tar: sample 05: {message}.*; skipped") as caught:
        batches = list(source.read(3))
    assert len(caught) == 1
    for batch in batches:
        actual = numbers(batch.captions)
        # The others stay where they are; one of them stands in for the bad one.
        assert set(actual) == set(range(12)) - {5} and len(actual) == 12
    assert source.state_dict()["bad"] == [(str(path), "05")]
    assert [len(batch.bad) for batch in batches] >= [1, 1, 1]


def test_what_stands_in_is_the_same_for_any_reader(tmp_path: Path) -> None:
    samples = {f"{n:02d}": good(n) if n % 3 else {"jpg": b"", "txt": b"a"} for n in range(12)}
    path = write_tar(tmp_path / "a.tar", samples)
    recipe = recipe_of(str(path), batch=8)
    with pytest.warns(DataWarning):
        expected, part = read(recipe, 3), read(recipe, 3, rank=1, world_size=2)
    assert [c for batch in expected for c in batch.captions[1::2]] == captions_of(part)


def test_too_many_bad_samples_stop_the_run(tmp_path: Path) -> None:
    samples = {f"{n:02d}": good(n) if n > 2 else {"txt": b"a"} for n in range(12)}
    path = write_tar(tmp_path / "a.tar", samples)
    with pytest.warns(DataWarning) as caught:
        list(Batches(recipe_of(str(path), batch=12, bad_limit=3)).read(3))
    assert len(caught) == 3
    with pytest.warns(DataWarning), pytest.raises(TrainingError) as error:
        list(Batches(recipe_of(str(path), batch=12, bad_limit=2)).read(3))
    text = str(error.value)
    assert f"{path}: sample 0" in text and "no image" in text
    assert "3 bad samples so far and data.bad_limit is 2; run minit2i data check" in text
    # Those of before the checkpoint count, and none counts twice.
    source = Batches(recipe_of(str(path), batch=12, bad_limit=3))
    source.load_state_dict(
        source.state_dict() | {"bad": [[str(path), "00"], [str(path), "01"], ["other", "x"]]}
    )
    with pytest.raises(TrainingError, match="4 bad samples so far"):
        list(source.read(3))


def test_data_that_is_bad_as_a_whole_stops_the_run(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"0": {"txt": b"a"}, "1": {"txt": b"b"}})
    with pytest.raises(TrainingError, match=f"no image .*the {ATTEMPTS - 1} samples drawn"):
        read(recipe_of(str(path)), 1)


def test_captions_from_json_fields_and_other_files(tmp_path: Path) -> None:
    image = picture(1)
    message = {"caption": "from json", "n": 3}
    members = {"jpg": image, "json": json.dumps(message).encode(), "long.txt": b"long"}
    path = str(write_tar(tmp_path / "a.tar", {"0": members}))
    expected = {"json:caption": "from json", "long.txt": "long"}
    for caption, text in expected.items():
        batch = read(recipe_of({"shards": path, "caption": caption}), 1)[0]
        assert batch.captions == [text] * 4
    for caption, reason in {
        "json:n": "no string in field n",
        "json:x": "no string",
        "txt": "no .txt",
    }.items():
        with pytest.raises(TrainingError, match=f"no caption .{reason}"):
            read(recipe_of({"shards": path, "caption": caption}), 1)
    for data in (b"[]", b"{", b"[" * 10**5):
        path = str(write_tar(tmp_path / "b.tar", {"0": {"jpg": image, "json": data}}))
        with pytest.raises(TrainingError, match=r"no caption|caption is not JSON"):
            read(recipe_of({"shards": path, "caption": "json:caption"}), 1)


def test_a_file_twice_in_a_sample_is_bad(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"0": {"txt": b"a", "TXT": b"b", "jpg": picture(1)}})
    with pytest.raises(TrainingError, match=r"duplicate file \(.txt\)"):
        read(recipe_of(str(path)), 1)


def test_an_empty_shard_is_named_and_a_set_without_samples_refused(tmp_path: Path) -> None:
    paths = [str(path) for path in write_set(tmp_path, [0, 3])]
    with pytest.warns(DataWarning, match="00.tar: has no sample"):
        batches = read(recipe_of({"shards": paths}), 3)
    assert set(numbers(captions_of(batches))) == {0, 1, 2}
    with pytest.raises(TrainingError, match=r"00.tar: 1 shards have no sample; name others"):
        Batches(recipe_of(paths[0]))


def test_more_processes_than_data_are_refused(tmp_path: Path) -> None:
    recipe = shard_recipe(tmp_path, [3], batch=8)
    with pytest.raises(
        TrainingError, match="the data has 3 samples for 4 processes; start at most 3"
    ):
        Batches(recipe, rank=0, world_size=4)
    assert len(read(recipe, 1, rank=1, world_size=2)[0].captions) == 4
    with pytest.raises(UsageError, match="batch is 8, but 3 processes need a multiple of 3"):
        Batches(recipe, rank=0, world_size=3)
    assert len(read(recipe_of("shapes", batch=8), 1, rank=7, world_size=8)[0].captions) == 1


def test_fewer_shards_than_processes_are_enough(tmp_path: Path) -> None:
    recipe = shard_recipe(tmp_path, [16], batch=8)
    parts = [captions_of(read(recipe, 2, rank=rank, world_size=8)) for rank in range(8)]
    assert sorted(n for part in parts for n in numbers(part)) == list(range(16))


@pytest.mark.filterwarnings(FORK)
def test_shards_on_a_server_are_read_by_workers(tmp_path: Path) -> None:
    recipe = shard_recipe(tmp_path, [5, 8])
    with served(tmp_path) as (address, _):
        names = f"{address}/{{00..01}}.tar"
        expected = read(recipe, 4)
        assert_same(read(recipe_of(names, workers=2), 4), expected)
        for retained in tmp_path.glob("*.json"):
            retained.unlink()
        with pytest.warns(
            DataWarning, match="no index beside it; 2 such shards were read completely"
        ):
            assert_same(read(recipe_of(names), 4), expected)


@pytest.mark.filterwarnings(FORK)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_goes_away_ends_the_run(tmp_path: Path, workers: int) -> None:
    source = Batches(shard_recipe(tmp_path, [5, 8], workers=workers))
    (tmp_path / "01.tar").unlink()
    with pytest.raises(TrainingError, match=r"01.tar: cannot be read") as caught:
        list(source.read(4))
    assert "\n" not in str(caught.value)


def test_a_long_opening_shows_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = shard_recipe(tmp_path, [2, 2])
    Batches(recipe)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("minit2i_deploy.training.data.batches._PROGRESS_AFTER_S", -1.0)
    Batches(recipe, rank=1, world_size=2)
    assert capsys.readouterr().err == ""
    Batches(recipe)
    assert "tiny: shards 100% 2/2" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["shapes", "shards"])
def test_a_reader_may_be_sent_to_a_process_that_starts_anew(kind: str, tmp_path: Path) -> None:
    write_set(tmp_path, [4, 4])
    data = parse_data("shapes" if kind == "shapes" else [f"{tmp_path}/*.tar"])
    source = Batches(tiny_recipe(data=data))
    reader = BatchReader(source.mixture, source.positions, threads=2)
    here, there = reader[0], pickle.loads(pickle.dumps(reader))[0]
    assert isinstance(here, DataBatch) and isinstance(there, DataBatch)
    assert here.captions == there.captions and torch.equal(here.images, there.images)
