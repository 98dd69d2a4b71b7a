"""Arguments of other types than generating takes are wrong use, reported in one line."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.request import Request
from minit2i_deploy.request_checks import as_prompts, as_seeds, check_settings
from minit2i_deploy.text.prompts import Mix
from tests.helpers.bundles import write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A complete small bundle."""
    return Bundle.open(write_bundle(tmp_path / "b"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": ({"prompts": 3}, "prompts must be a string, a Mix or a list of them, got 3"),
    "bytes": ({"prompts": b"red"}, "prompts must be a string, .*, got b'red'"),
    "list": ({"prompts": ["red", None]}, r"list of them, got \['red', None\]"),
    "none": ({"prompts": []}, "at least one prompt .*, got none"),
    "guidance": ({"guidance": "3"}, "guidance must be a number, got '3'"),
    "complex": ({"guidance": 3j}, "guidance must be a number, got 3j"),
    "table": ({"table": "x"}, "table must be a Table of solver_table or Bundle.table, got 'x'"),
    "noise": ({"noise": [[1]]}, r"noise must be a float32 numpy array, got \[\[1\]\]"),
    "long": ({"noise": list(range(99))}, r"a float32 numpy array, got .{57}\.\.\.$"),
    "negative": ({"negative": 3}, "negative must be a string, got 3"),
    "seed": ({"seed": "7"}, "seed must be an integer, or one for each prompt, got '7'"),
    "half a seed": ({"seed": 0.5}, "seed must be an integer, .*, got 0.5"),
    "seeds": ({"seed": [1, "2"]}, r"seed must be an integer, .*, got \[1, '2'\]"),
    "number": ({"seed": [1, 2]}, "expected one seed, or one for each of 1 prompts, got 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_type_is_wrong_use(name: str) -> None:
    arguments, message = WRONG[name]
    values: dict[str, Any] = dict.fromkeys(("table", "guidance", "negative", "noise"))
    with pytest.raises(UsageError, match=message) as caught:
        as_seeds(arguments.get("seed", 0), len(as_prompts(arguments.get("prompts", "red"))))
        check_settings(**values | {key: arguments[key] for key in values if key in arguments})
    assert "\n" not in str(caught.value)


_CALLS = """
import sys
import minit2i_deploy as m
bundle = m.Bundle.open(sys.argv[1])
with m.open_runtime(bundle, "fake") as runtime:
    for arguments in (
        {"prompts": 3}, {"guidance": "3"}, {"table": "x"}, {"noise": [[1]]}, {"seed": "7"},
        {"negative": 3},
    ):
        try:
            m.generate(bundle, runtime, **{"prompts": "red", **arguments})
        except m.UsageError as error:
            print(error)
"""


def test_generate_refuses_them_itself(tmp_path: Path) -> None:
    # In another process, because here beartype would raise first.
    command = [sys.executable, "-c", _CALLS, str(write_bundle(tmp_path / "b"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["prompts", "guidance", "table", "noise", "seed", "negative"]


def test_similar_types_are_accepted() -> None:
    mix = Mix(parts=(("red", 1.0), ("blue", 0.5)))
    assert as_prompts(mix) == [mix]
    assert as_prompts(text for text in ("a", "b")) == as_prompts(("a", "b")) == ["a", "b"]
    assert as_prompts(np.array(["a", "b"])) == ["a", "b"]
    assert as_seeds(np.arange(2), 2) == (0, 1)
    assert as_seeds(np.int64(5), 3) == (5, 5, 5)
    for guidance in (3, 2.5, np.float32(3), np.float64(3), np.int64(3), Fraction(5, 2)):
        check_settings(None, guidance, "", np.zeros(1))


@pytest.mark.parametrize("guidance", [1e300, -1e300, 3.5e38, float("inf"), float("nan")])
def test_guidance_fits_float32(bundle: Bundle, guidance: float) -> None:
    with pytest.raises(UsageError, match="guidance must be finite in float32, got"):
        Request.of(bundle, "red", guidance=guidance)
