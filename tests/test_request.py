"""What a request decides, against the arithmetic written out, and where its warnings point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.generate import frames, trajectory
from minit2i_deploy.request import Request
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.conditioning import branch_tokens
from minit2i_deploy.text.prompts import Mix
from tests.helpers.bundles import CONFIG, write_bundle
from tests.helpers.fakes.spies import SpyRuntime

SHAPE = (3, CONFIG.image_size, CONFIG.image_size)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("request") / "bundle"))


def test_defaults_are_the_presets(bundle: Bundle) -> None:
    request = Request.of(bundle, "red")
    table, guidance = bundle.preset()
    assert (request.table, request.guidance) == (table, guidance)
    assert (request.prompts, request.seeds, request.guided) == (("red",), (0,), True)
    assert request.conditions is None
    assert Request.of(bundle, "red", guidance=4.0).table == table
    table = solver_table("heun", steps=3)
    assert Request.of(bundle, "red", table=table).guidance == guidance


def test_weights_are_the_shares_times_the_scale_of_each_row(bundle: Bundle) -> None:
    mix = Mix(parts=(("red", 1.0), ("blue", 3.0)))
    table = solver_table("euler", steps=4, interval=(0.5, 1.0))
    request = Request.of(bundle, mix, table=table, guidance=3.0)
    expected = [[0.25, 0.75], [0.25, 0.75], [0.75, 2.25, -2.0], [0.75, 2.25, -2.0]]
    assert [row.weights.tolist() for row in request.rows] == expected
    assert request.guided
    unguided = Request.of(bundle, mix, table=table, guidance=1.0)
    assert not unguided.guided and {len(row.weights) for row in unguided.rows} == {2}


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_tokens_are_those_of_its_branches(bundle: Bundle, guidance: float) -> None:
    request = Request.of(bundle, ["red", "blue"], guidance=guidance, negative="green")
    guided = guidance != 1.0
    expected = branch_tokens(
        bundle, FakeRuntime(bundle), ["red", "blue"], "green" if guided else None, guided, {}
    )
    timings: dict[str, float] = {}
    actual = request.tokens(bundle, FakeRuntime(bundle), timings)
    assert np.array_equal(actual, expected) and len(actual) == 1 + guided
    assert set(timings) == {"tokenise", "encode", "adapt"}


def test_noise_is_of_each_seed_and_each_row(bundle: Bundle) -> None:
    request = Request.of(bundle, ["a", "b"], seed=[3, 9], table=solver_table("sde", steps=3))
    expected = np.stack([standard_noise(seed, SHAPE) for seed in (3, 9)])
    assert np.array_equal(request.start(bundle), 2.0 * expected)
    noisy = [row for row in request.rows if row.draws_noise]
    assert [row.index for row in noisy] == [0, 1]
    for row in noisy:
        drawn = np.stack([standard_noise(seed, SHAPE, stream=row.index + 1) for seed in (3, 9)])
        fresh = request.fresh_noise(bundle, row)
        assert fresh is not None and np.array_equal(fresh, drawn)
    plain = Request.of(bundle, "a")
    assert all(plain.fresh_noise(bundle, row) is None for row in plain.rows)
    same = Request.of(bundle, ["a", "b"], noise=expected)
    assert np.array_equal(same.start(bundle), request.start(bundle))


def test_noise_of_another_shape_is_refused(bundle: Bundle) -> None:
    request = Request.of(bundle, ["a", "b"], noise=np.zeros((1, *SHAPE), np.float32))
    with pytest.raises(UsageError, match=r"got float32 \[1, 3, 32, 32\]"):
        request.start(bundle)


def test_one_request_generates_the_same_on_two_runtimes(bundle: Bundle) -> None:
    request = Request.of(bundle, ["red", "a blue"], seed=[1, 2], table=solver_table("ab2", steps=3))
    runtimes = SpyRuntime(bundle), SpyRuntime(bundle)
    for first, second in zip(*(frames(bundle, each, request) for each in runtimes), strict=True):
        assert np.array_equal(first.x(), second.x())
    arguments = {"seed": [1, 2], "table": request.table, "guidance": request.guidance}
    *_, last = trajectory(bundle, FakeRuntime(bundle), ["red", "a blue"], **arguments)  # type: ignore[arg-type]
    assert np.array_equal(first.x(), last.x())


def test_warnings_name_the_line_that_wrote_the_prompt(tmp_path: Path) -> None:
    # In another process: the shape checks that tests run under add frames between the callers.
    script = """
import json, sys, warnings
import minit2i_deploy as m
from minit2i_deploy.runtimes.fake import FakeRuntime
bundle = m.Bundle.open(sys.argv[1])
runtime, long = FakeRuntime(bundle), "red " * 40
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    m.generate(bundle, runtime, long)
    list(m.trajectory(bundle, runtime, long))
    m.embed(bundle, runtime, long)
    list(m.embed_stream(bundle, runtime, [long]))
    m.generate(bundle, runtime, "red", guidance=1.0, negative="blue")
print(json.dumps([(w.filename, w.lineno, w.category.__name__) for w in caught]))
"""
    folder = write_bundle(tmp_path / "bundle")
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cut = "PromptTruncatedWarning"
    lines = [(9, cut), (10, cut), (11, cut), (12, cut), (13, "SettingIgnoredWarning")]
    assert json.loads(done.stdout) == [["<string>", line, kind] for line, kind in lines]
