"""embed, inspect, verify, table and eval, on a bundle whose graphs are not opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import MissingDependencyError
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.methods import SOLVERS
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.text.embed import embed
from tests.helpers.bundles import write_bundle
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

FAKE = ("--runtime", "fake")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return Bundle.open(write_bundle(tmp_path / "b"))


def test_embed_writes_what_the_library_gives(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["a red circle", "green"]
    # One text on each side of an option.
    done = run(capsys, "embed", "b", texts[0], "-o", "t.npz", "--pooled", *FAKE, texts[1])
    assert (done.code, done.err) == (0, "")
    with FakeRuntime(bundle) as runtime:
        expected = embed(bundle, runtime, texts)
    with np.load("t.npz") as actual:
        assert set(actual) == {"values", "mask", "pooled"}
        assert np.array_equal(actual["values"], expected.values)
        assert np.array_equal(actual["mask"], expected.mask)
        assert np.array_equal(actual["pooled"], expected.pooled())


def test_embed_without_pooled_and_as_json(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(run(capsys, "embed", "b", "", "-o", "t.npz", "--json", *FAKE).out)
    assert values == {"file": "t.npz", "shapes": {"values": [1, 1, 32], "mask": [1, 1]}}
    assert (
        "the suffix must be one of .npz"
        in run(capsys, "embed", "b", "a", "-o", "t.txt", *FAKE).error
    )


def test_inspect_tells_what_a_bundle_holds(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "inspect", "b").out
    for word in (bundle.digest, "32x32 px, patch 8", "transformer", "default", "euler-4", "3e-07"):
        assert word in text
    values = json.loads(run(capsys, "inspect", "b", "--json").out)
    assert values["digest"] == bundle.digest
    assert values["files"]["transformer/model.onnx.data"]["bytes"] == 1024
    assert values["checks"][0] == {
        "name": "step", "measured": 3e-7, "bound": 1e-5, "unit": "relative",
        "where": "onnx to torch",
    }  # fmt: skip


def test_inspect_of_nothing_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "inspect", tmp_path / "none")
    assert (done.code, "does not exist" in done.error) == (1, True)


def test_verify_has_one_line_a_check(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "verify", "b", *FAKE)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[0] for line in lines] == ["ok"] * 7
    assert [line[-1] if line[1] == "graph" else line[1] for line in lines][:4] == [
        "sizes", "sha256", "tokenizer", "table",
    ]  # fmt: skip
    assert [line[2] for line in lines[4:]] == ["text_encoder", "text_adapter", "transformer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "b", "--text-encoder", "x"], "--text-encoder requires --checkpoint"),
        (["verify", "b", "--lora", "x"], "--lora requires --checkpoint"),
        (["verify", "b", "--raw"], "--raw requires --checkpoint"),
        (["verify", "b", "--parity", "--image-size", "9"], "--image-size requires --checkpoint"),
        (["inspect", "b", "--lora", "x"], "--lora requires a checkpoint, but b is a bundle"),
        (["inspect", "b", "--prompt-length", "9"], "--prompt-length requires a checkpoint"),
    ],
)
def test_options_of_checkpoints_are_refused_without_one(
    arguments: list[str], message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, *arguments)
    assert (done.code, message in done.error) == (2, True), done.err


def test_a_changed_tokenizer_is_found_before_it_is_read(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("b/tokenizer/tokenizer.json")
    path.write_bytes(path.read_bytes().replace(b'"version"', b'"versioN"'))
    done = run(capsys, "verify", "b", "--runtime", "fake")
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert "tokenizer/tokenizer.json: sha256" in done.out
    embedded = run(capsys, "embed", "b", "a", "-o", "x.npz", "--runtime", "fake")
    assert embedded.code == 1
    assert embedded.error.startswith("tokenizer/tokenizer.json: sha256 ")


def test_verify_finds_a_flipped_byte_and_goes_on(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("b/transformer/model.onnx.data")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    done = run(capsys, "verify", "b", "--json", *FAKE)
    assert done.code == 1
    assert "1 of 7 checks failed (sha256)" in done.error
    states = {item["name"]: item["state"] for item in json.loads(done.out)}
    assert states.pop("sha256") == "FAILED"
    assert set(states.values()) == {"ok"}


def test_verify_reports_graphs_that_do_not_open(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    done = run(capsys, "verify", "b", "--threads", "1")
    assert done.code == 1
    assert "3 of 7 checks failed" in done.error
    assert done.out.count("onnxruntime cannot open it") == 3


def test_verify_reports_values_that_are_not_finite(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def overflow(self: FakeRuntime, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.full((*ids.shape, 32), np.nan, dtype=np.float32)

    monkeypatch.setattr(FakeRuntime, "encode", overflow)
    done = run(capsys, "verify", "b", *FAKE)
    assert done.code == 1
    assert "(graph text_encoder)" in done.error


def test_verify_says_that_graphs_were_not_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*args: object, **options: object) -> None:
        raise MissingDependencyError("onnxruntime is not installed; run: pip ...")

    monkeypatch.setattr("minit2i_deploy.runtimes.open_runtime", missing)
    done = run(capsys, "verify", "b")
    assert done.code == 0
    assert done.out.splitlines()[-1].split()[:2] == ["skipped", "graphs"]


def test_verify_refuses_a_cut_file_at_once(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b/tables/euler-4.json").write_bytes(b"{")
    done = run(capsys, "verify", "b", *FAKE)
    assert (done.code, done.out) == (1, "")
    assert "1 bytes but manifest says" in done.error


def test_a_checkpoint_is_inspected_and_a_real_bundle_measured_against_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxscript")
    arguments = ("verify", tiny_bundle(), "--checkpoint", hub_folder())
    done = run(capsys, *arguments, "--text-encoder", text_folder(), "--threads", 1)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == ["ok"] * 22
    assert "parity trajectory" in done.out
    values = json.loads(run(capsys, "inspect", hub_folder(), "--json").out)
    assert values["form"] == "huggingface"
    assert values["sha256"] == Bundle.open(tiny_bundle()).manifest.provenance.checkpoint_sha256
    text = run(capsys, "inspect", hub_folder()).out
    for what in (f"{values['num_parameters']:,}", values["sha256"], values["dropped"][0]["what"]):
        assert what in text


def test_table_prints_writes_and_lists(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    custom = run(capsys, "table", "--solver", "euler", "--times", "0,0.25,1", "--json")
    free = solver_table("euler", grid=[0.0, 0.25, 1.0])
    assert custom.out == free.to_json()
    arguments = ("table", "--solver", "euler", "--steps", "2", "--a-min", "0.1")
    expected = solver_table("euler", steps=2, a_min=0.1)
    lines = [line.split() for line in run(capsys, *arguments).out.splitlines()]
    assert lines[0] == ["row", *expected.columns]
    assert [[float(word) for word in line[1:]] for line in lines[1:]] == expected.rows.tolist()
    assert Table.from_json(run(capsys, *arguments, "--json").out) == expected
    assert run(capsys, *arguments, "-o", "t.json").out == "t.json  euler-2, 2 rows\n"
    assert Table.load("t.json") == expected
    listed = run(capsys, "table", "--list").out.splitlines()
    assert [line.split()[0] for line in listed] == list(SOLVERS)
    names = [item["solver"] for item in json.loads(run(capsys, "table", "--list", "--json").out)]
    assert names == list(SOLVERS)


def test_table_options_reach_the_compiler(capsys: pytest.CaptureFixture[str]) -> None:
    actual = run(
        capsys, "table", "--solver", "heun", "--steps", 3, "--interval", 0.2, 0.9, "--clip", 1,
        "--rescale", 0.5, "--shift", 2, "--json",
    ).out  # fmt: skip
    expected = solver_table(
        "heun", steps=3, interval=(0.2, 0.9), clip=1.0, rescale=0.5, grid="shifted", shift=2.0
    )
    assert Table.from_json(actual) == expected
    arguments = ("--omega", 8, "--t-min", 0.1, "--t-max", 0.9, "--json")
    actual = run(capsys, "table", "--solver", "mean-flow", "--steps", 2, *arguments).out
    assert Table.from_json(actual) == solver_table(
        "mean-flow", steps=2, omega=8.0, t_min=0.1, t_max=0.9
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --solver NAME with --steps N"),
        (["--solver", "euler", "--steps", "0"], "10000, got 0"),
        (["--solver", "euler", "--steps", "2", "-o", "t.txt"], "expected a .json file"),
        (["--solver", "euler", "--times", "0,0.5,0.5,1"], "0.5"),
        (
            ["--solver", "euler", "--times", "0,1", "--shift", "2"],
            "--times and --shift are mutually exclusive",
        ),
        (["--list", "--solver", "nope"], "--list and --solver are mutually exclusive"),
        (["--list", "--interval", "0", "1"], "--list and --interval are"),
        (["--list", "--a-min", "0"], "--list and --a-min are"),
        (["--list", "-o", "t.json"], "--list and --output are"),
    ],
)
def test_table_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "table", *arguments)
    assert (done.code, message in done.error) == (2, True)


@pytest.mark.filterwarnings("default")
def test_eval_counts_the_same_in_any_batch(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("eval", "shapes", "b", "--per-kind", 2, "--steps", 2, "--seed", 5, *FAKE)
    done = run(capsys, *arguments, "-o", "score.json")
    assert done.code == 0
    assert done.out.splitlines()[-1].split()[:2] == ["overall", "0/12"]
    values = json.loads(Path("score.json").read_text())
    assert (values["table"], values["guidance"], values["seed"]) == ("euler-2", 2.5, 5)
    assert values["overall"]["total"] == 12
    assert [item["seed"] for item in values["pictures"]] == list(range(5, 17))
    assert values == json.loads(run(capsys, *arguments, "--batch", 5, "--json").out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per-kind", "0"], "--per-kind: expected at least 1, got 0"),
        (["--per-kind", "-1"], "--per-kind: expected at least 1, got -1"),
        (["--batch", "0"], "--batch: expected at least 1, got 0"),
        (["-o", "none/score.json"], "none: cannot be written"),
        (["--preset", "default", "--solver", "heun"], "--preset and --solver are mutually"),
    ],
)
def test_eval_refuses(
    arguments: list[str], message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "eval", "shapes", "b", *arguments, *FAKE)
    assert (done.code, message in done.error) == (2, True)
