"""Results of generate: an image saved with its record, from which it is made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.io.image_record import Record, noise_digest
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import CONFIG, write_bundle
from tests.helpers.fakes.spies import SpyRuntime

SHAPE = (3, CONFIG.image_size, CONFIG.image_size)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("result") / "bundle"))


@pytest.fixture
def runtime(bundle: Bundle) -> Iterator[SpyRuntime]:
    with SpyRuntime(bundle) as opened:
        yield opened


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_an_image_is_saved_with_its_record(
    name: str, bundle: Bundle, runtime: SpyRuntime, tmp_path: Path
) -> None:
    noise = batch_noise([1, 2], SHAPE)
    table = solver_table("heun", steps=2)
    result = generate(
        bundle, runtime, ["a red circle", "green"], seed=[5, 6], table=table, guidance=3.0,
        negative="blue", noise=noise,
    )  # fmt: skip
    result.save(tmp_path / name, index=1)
    record = Record.read(tmp_path / name)
    assert record == result.record(1)
    assert (record.seed, record.guidance, record.negative) == (6, 3.0, "blue")
    assert record.mix().texts == ("green",) and record.solver(bundle) == table
    assert record.noise == noise_digest(noise[1]) and record.runtime == runtime.name
    again = generate(
        bundle, runtime, record.mix(), seed=record.seed, table=record.solver(bundle),
        guidance=record.guidance, negative=record.negative, noise=noise[1:],
    )  # fmt: skip
    assert np.array_equal(again.x[0], result.x[1])


@pytest.mark.parametrize("index", [-1, 1])
def test_an_image_that_is_not_there_is_refused(
    index: int, bundle: Bundle, runtime: SpyRuntime, tmp_path: Path
) -> None:
    result = generate(bundle, runtime, "red")
    with pytest.raises(UsageError, match=f"index must be 0 to 0, got {index}"):
        result.save(tmp_path / "a.png", index=index)
