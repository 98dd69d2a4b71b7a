"""Arguments of other types than painting takes are wrong use, said in one line."""

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
    """A whole small bundle."""
    return Bundle.open(write_bundle(tmp_path / "b"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": ({"prompts": 3}, "prompts are 3, but a text, a Mix or a list of them is needed"),
    "bytes": ({"prompts": b"red"}, "prompts are b'red', but a text"),
    "list": ({"prompts": ["red", None]}, r"prompts are \['red', None\], but a text"),
    "none": ({"prompts": []}, "no prompt came"),
    "guidance": ({"guidance": "3"}, "guidance is '3', but a number is needed"),
    "complex": ({"guidance": 3j}, "guidance is 3j, but a number is needed"),
    "table": ({"table": "x"}, "table is 'x', but a Table, as solver_table"),
    "noise": ({"noise": [[1]]}, r"noise is \[\[1\]\], but a float32 numpy array is needed"),
    "long": ({"noise": list(range(99))}, r"noise is .{57}\.\.\., but a float32"),
    "negative": ({"negative": 3}, "negative is 3, but a text is needed"),
    "seed": ({"seed": "7"}, "seed is '7', but a whole number, or one for each prompt"),
    "half a seed": ({"seed": 0.5}, "seed is 0.5, but a whole number"),
    "seeds": ({"seed": [1, "2"]}, r"seed is \[1, '2'\], but a whole number"),
    "number": ({"seed": [1, 2]}, "2 seeds came for 1 prompts"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_type_is_wrong_use(name: str) -> None:
    given, said = WRONG[name]
    values: dict[str, Any] = dict.fromkeys(("table", "guidance", "negative", "noise"))
    with pytest.raises(UsageError, match=said) as caught:
        as_seeds(given.get("seed", 0), len(as_prompts(given.get("prompts", "red"))))
        check_settings(**values | {key: given[key] for key in values if key in given})
    assert "\n" not in str(caught.value)


_CALLS = """
import sys
import minit2i_deploy as m
bundle = m.Bundle.open(sys.argv[1])
with m.open_runtime(bundle, "fake") as runtime:
    for given in (
        {"prompts": 3}, {"guidance": "3"}, {"table": "x"}, {"noise": [[1]]}, {"seed": "7"},
        {"negative": 3},
    ):
        try:
            m.generate(bundle, runtime, **{"prompts": "red", **given})
        except m.UsageError as error:
            print(error)
"""


def test_generate_says_so_itself(tmp_path: Path) -> None:
    # In a process of its own, because here beartype would speak first.
    words = [sys.executable, "-c", _CALLS, str(write_bundle(tmp_path / "b"))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["prompts", "guidance", "table", "noise", "seed", "negative"]


def test_what_is_like_the_wanted_type_is_taken() -> None:
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
    with pytest.raises(UsageError, match="a finite number is needed, in float32 too"):
        Request.of(bundle, "red", guidance=guidance)
