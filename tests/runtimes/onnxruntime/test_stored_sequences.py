"""Encoded prompts in a cache: the same bits without the encoder, and nothing wrong in silence."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import CacheWarning, Minit2iError, PrecisionWarning
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes.onnxruntime import runtime, stored_sequences
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.runtimes.onnxruntime.stored_sequences import MAX_TEXTS, StoredSequences
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.tiny_bundle import tiny_bundle

TABLE = solver_table("euler", steps=2)
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


def image(bundle: Bundle, cache: Path | None = None, **settings: Any) -> np.ndarray:
    changes = {"prompt": PROMPT, "threads": 1, "lean": True} | settings
    prompt, negative = changes.pop("prompt"), changes.pop("negative", None)
    with OnnxRuntime(bundle, cache=cache, **changes) as engine:
        return generate(bundle, engine, prompt, negative=negative, table=TABLE).x


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/sequences-*/*"))


@pytest.mark.parametrize("negative", [None, "two circles"])
def test_a_prompt_that_was_encoded_needs_no_encoder(
    bundle: Bundle, tmp_path: Path, opened: list[Path], negative: str | None
) -> None:
    expected = image(bundle, negative=negative)
    assert np.array_equal(image(bundle, tmp_path, negative=negative), expected)
    assert len(files(tmp_path)) == 1
    assert bundle.graph_path("text_encoder") in opened
    opened.clear()
    assert np.array_equal(image(bundle, tmp_path, negative=negative), expected)
    assert [file.parent.name for file in opened] == ["packed", "packed"]


def test_other_prompts_threads_and_weights_are_others(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(bundle, tmp_path)
    for changes in ({"prompt": "two circles"}, {"threads": 2}, {"negative": "two circles"}):
        before = len(files(tmp_path))
        assert np.array_equal(image(bundle, tmp_path, **changes), image(bundle, **changes))
        assert len(files(tmp_path)) == before + 1
    monkeypatch.setattr(runtime, "device_name", lambda *_: "another")
    image(bundle, tmp_path)
    assert len(list(tmp_path.glob("*/sequences-1-threads"))) == 2


def test_who_keeps_nothing(bundle: Bundle, tmp_path: Path) -> None:
    image(bundle, tmp_path, lean=False)
    with OnnxRuntime(bundle, threads=1, lean=True, cache=tmp_path) as engine:
        generate(bundle, engine, ["a red circle", "two circles", "red"], table=TABLE)
    assert MAX_TEXTS == 2 and not files(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"7 bytes", "flipped", "cut"])
def test_a_corrupt_file_is_encoded_anew_in_one_line(
    bundle: Bundle, tmp_path: Path, damage: bytes | str
) -> None:
    expected = image(bundle, tmp_path)
    (place,) = files(tmp_path)
    whole = place.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    place.write_bytes({"flipped": flipped, "cut": whole[:-4]}.get(damage, damage))  # type: ignore[arg-type]
    with pytest.warns(CacheWarning, match=r"\.f32: is corrupt; the prompt is encoded anew$"):
        assert np.array_equal(image(bundle, tmp_path), expected)
    assert place.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(image(bundle, tmp_path), expected)


def test_what_cannot_be_written_costs_no_image(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise Minit2iError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(stored_sequences, "atomic_write_bytes", full)
    with pytest.warns(CacheWarning, match="No space left on device; the next start encodes the"):
        assert np.array_equal(image(bundle, tmp_path), image(bundle))
    assert not files(tmp_path)


def test_a_file_in_place_of_the_folder_is_said(bundle: Bundle, tmp_path: Path) -> None:
    image(bundle, tmp_path)
    (place,) = files(tmp_path)
    place.unlink()
    place.parent.rmdir()
    place.parent.touch()
    with pytest.warns(CacheWarning, match=r"sequences-1-threads: cannot be made \(File exists\)"):
        image(bundle, tmp_path)


def test_the_ones_read_least_recently_leave(tmp_path: Path) -> None:
    store = StoredSequences(tmp_path / "new", 3, max_entries=2)
    mask = np.ones((1, 2), np.int64)
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    first, second, third = (np.full((1, 2), k, np.int64) for k in range(3))
    for age, ids in ((30, first), (20, second)):
        store.write(ids, mask, values)
        newest = max((tmp_path / "new").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, ns=(10**18 - age * 10**9,) * 2)
    found = store.read(first, mask)
    assert found is not None and np.array_equal(found, values) and found.flags.writeable
    store.write(third, mask, values)
    assert store.read(second, mask) is None
    assert store.read(first, mask) is not None and store.read(third, mask) is not None
    # Other masks are other calls.
    assert store.read(first, 0 * mask) is None


def test_a_warning_of_the_encoder_comes_without_it_too(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this processor computes wrong is as wrong when it is read."""

    def warned(_: Bundle, graph: str, *__: Any) -> None:
        if graph == "text_encoder":
            warnings.warn("it saturates", PrecisionWarning, stacklevel=2)

    monkeypatch.setattr(runtime, "warn_of_saturation", warned)
    for _ in range(2):
        with pytest.warns(PrecisionWarning, match="it saturates"):
            image(bundle, tmp_path)
