"""Numbers that no answer would come to are refused at once, in the options' own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.machine import memory_bytes
from minit2i_deploy.protocol import MAX_THREADS, check_threads
from minit2i_deploy.runtimes import open_runtime
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

HUGE = "99999999999"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder "b", in the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("red\nblue\n", encoding="utf-8")
    return write_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "b", "red", "--num-images", HUGE], "exceeds 1000000 images"),
        (
            ["generate", "b", "--prompts", "two.txt", "--num-images", "600000"],
            "--num-images 600000 for 2 prompts exceeds 1000000 images",
        ),
        (
            ["generate", "b", "red", "--seed", str(2**64 - 1), "--num-images", "2"],
            "goes past the last seed, 2**64 - 1",
        ),
        (["generate", "b", "red", "--repeat", HUGE], "--repeat: expected at most"),
        (["generate", "b", "red", "--guidance", "1e300"], "guidance must be finite in float32"),
        (["generate", "b", "red", "--runtime", "fake", "--provider", "cpu"], "has no --provider"),
        (["eval", "shapes", "b", "--per-kind", HUGE], "--per-kind: expected at most"),
        (["eval", "shapes", "b", "--per-kind", "-1"], "--per-kind: expected at least 1, got -1"),
        (
            ["eval", "shapes", "b", "--tables", "euler-4", "--reference-per-kind", HUGE],
            "--reference-per-kind: expected at most 10000, got",
        ),
        (["compare", "b", "b", "--captions", HUGE], "--captions: expected at most"),
        (["compare", "b", "b", "--repeats", HUGE], "--repeats: expected at most"),
        (["demo", "--per-kind", HUGE], "--per-kind: expected at most"),
        (["bench", "b", "--repeats", HUGE], "--repeats: expected at most 100000, got"),
        (["bench", "b", "--warm-up", HUGE], "--warm-up: expected at most 100000, got"),
        (["bench", "b", "--texts", HUGE], "--texts: expected at most 100000, got"),
        (["bench", "b", "--batch", "0"], "--batch: expected at least 1, got 0"),
    ],
)
def test_a_number_without_an_answer(
    bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    fake = (
        []
        if arguments[0] in ("demo", "eval") or "--provider" in arguments
        else ["--runtime", "fake"]
    )
    done = run(capsys, *arguments, *fake)
    assert done.code == 2
    assert message in done.error


def test_the_last_seed_is_accepted(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--seed", 2**64 - 2, "--num-images", 2, "--runtime", "fake", "-o", "p")
    assert run(capsys, "generate", "b", "red", *arguments).code == 0
    assert len(list(Path("p").glob("*.png"))) == 2


@pytest.mark.parametrize("threads", [-1, MAX_THREADS + 1, 100_000_000])
def test_threads_that_no_machine_has(bundle: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=rf"threads must be 0 .* to 4096, got {threads}"):
        check_threads(threads)
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(UsageError, match=f"to 4096, got {threads}"):
            open_runtime(Bundle.open(bundle), name, threads=threads)


@pytest.mark.parametrize(("command", "missing"), [("train", "RECIPE"), ("generate", "BUNDLE")])
def test_only_what_is_required_is_called_missing(
    capsys: pytest.CaptureFixture[str], command: str, missing: str
) -> None:
    assert f"are required: {missing}; see" in run(capsys, command).error


def test_a_batch_beyond_memory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = memory_bytes()
    assert there is not None
    batch = there // (3 * 64 * 64 * 4) + 1
    done = run(capsys, "train", "demo", "--output", tmp_path / "r", f"batch={batch}", "steps=1")
    assert done.code == 2
    assert f"batch is {batch}, whose images alone take" in done.error
    assert not (tmp_path / "r").exists()
