"""minit2i eval shapes --tables: the meter from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.errors import install_hint
from minit2i_deploy.evaluation.quality import meter
from minit2i_deploy.evaluation.shapes import Spec, Verdict
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

# The test tokenizer has few words, so captions are longer than the model's 12 tokens.
pytestmark = pytest.mark.filterwarnings("default")
ARGUMENTS = ("eval", "shapes", "b", "--runtime", "fake", "--per-kind", 1)


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle named b in an empty current folder, and a judge that costs nothing."""

    def judge(image: np.ndarray, spec: Spec) -> Verdict:
        return Verdict(correct=len(spec.required) == 1, reason="")

    monkeypatch.setattr(meter, "judge", judge)
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "b")


def test_tables_are_compared_and_the_report_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (*ARGUMENTS, "--tables", "euler-4, dpmpp2m:5", "--guidance", "1,3", "--clip", 1)
    arguments += ("--interval", 0.3, 1, "--rescale", 0.5, "--reference-steps", 20, "--seed", 7)
    done = run(capsys, *arguments, "-o", "report.json", "--plots", "plots")
    assert done.code == 0
    values = json.loads(Path("report.json").read_text())
    tail = "-i0.3-1-clip1-rescale0.5"
    named = [(one["name"], one["evaluations"]) for one in values["outcomes"]]
    assert named == [
        (f"euler-4{tail}@1", 4),
        (f"euler-4{tail}@3", 6),
        (f"dpmpp2m-5{tail}@1", 5),
        (f"dpmpp2m-5{tail}@3", 8),
    ]
    assert values["settings"] == {
        "per_kind": 1, "seed": 7, "batch": 8, "reference_steps": 20, "reference_per_kind": 4,
    }  # fmt: skip
    assert [line.split()[:2] for line in done.out.splitlines()[1:3]] == [
        ["*", f"euler-4{tail}@1"],
        [f"euler-4{tail}@3", "3"],
    ]
    assert sorted(path.name for path in Path("plots").iterdir()) == ["psnr.png", "score.png"]


def test_json_takes_the_texts_place(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*ARGUMENTS, "--tables", "euler:2,euler:3", "--reference-steps", 0, "--json")
    values = json.loads(run(capsys, *arguments).out)
    assert [one["distance"] for one in values["outcomes"]] == [None, None]
    assert [one["guidance"] for one in values["outcomes"]] == [2.5, 2.5]
    assert values["pareto"] == ["euler-2"]


def test_adjustments_reach_the_plain_score(capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(run(capsys, *ARGUMENTS, "--clip", 1, "--guidance", 3, "--json").out)
    assert (values["table"], values["guidance"]) == ("euler-4-clip1", 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plots", "p"], "--plots requires --tables"),
        (["--reference-steps", "9"], "--reference-steps requires --tables"),
        (["--guidance", "1,2"], "expected one --guidance, got 2"),
        (["--guidance", "two"], "argument --guidance"),
        (["--tables", "euler:4", "--steps", "4"], "--tables and --steps are mutually exclusive"),
        (
            ["--tables", "euler:4", "--preset", "fast"],
            "--tables and --preset are mutually exclusive",
        ),
        (["--tables", "euler:4,euler:4"], "duplicate tables euler-4"),
        (["--tables", "elder:4"], "choose one of euler"),
        (["--tables", ""], "euler-4"),
        (["--tables", "euler:4", "--interval", "0.7", "0.2"], "<= 1, got (0.7, 0.2)"),
        (["--tables", "euler:4", "--interval", "0", "1.5"], "<= 1, got (0.0, 1.5)"),
        (["--tables", "euler:4", "--rescale", "2"], "rescale must be in 0..1"),
        (["--tables", "euler:4", "--guidance", "nan"], "finite in float32, got nan"),
        (["--tables", "euler:400"], "expected at least 1600 for the 400 rows"),
        (["--tables", "euler:4", "--plots", "b"], "the folder is not empty"),
        (["--tables", "euler:4", "--batch", "0"], "batch: expected at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, *ARGUMENTS, *arguments)
    assert (done.code, message in done.error) == (2, True), done.err


def test_a_refused_run_leaves_no_folder_of_plots(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--tables", "euler:400", "--plots", "new/plots")
    assert run(capsys, *ARGUMENTS, *arguments).code == 2
    assert not Path("new").exists()


def test_a_missing_matplotlib_is_known_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run(capsys, *ARGUMENTS, "--tables", "euler:4", "--plots", "p")
    assert done.code == 1
    assert done.error == (f"matplotlib.figure is not installed; {install_hint('eval')}")
    assert not Path("p").exists()
