"""Files of texts to files of embeddings: every format, interrupted, resumed, corrupt, refused."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.text import embed_job
from minit2i_deploy.text.embed import embed
from minit2i_deploy.text.embedding_parts import Part
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

FAKE = ("--runtime", "fake")
TEXTS = ["a red circle", "green", "red", "a", "a green circle", "green", "a red red circle"]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle named b beside t.txt in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return Bundle.open(write_bundle(tmp_path / "b"))


def expected_embeddings(bundle: Bundle, texts: list[str] = TEXTS) -> Any:
    with FakeRuntime(bundle) as runtime:
        return embed(bundle, runtime, texts)


def embed_command(*arguments: object) -> tuple[object, ...]:
    return ("embed", "b", *arguments, *FAKE)


@pytest.mark.parametrize("window", [1, 2, 256])
def test_npz_of_a_file(bundle: Bundle, capsys: pytest.CaptureFixture[str], window: int) -> None:
    arguments = embed_command("-i", "t.txt", "-o", "t.npz", "--pooled", "--window", window)
    done = run(capsys, *arguments)
    assert (done.code, done.err) == (0, "")
    expected = expected_embeddings(bundle)
    with np.load("t.npz") as written:
        assert set(written) == {"values", "mask", "pooled", "line"}
        assert np.array_equal(written["values"], expected.values)
        assert np.array_equal(written["mask"], expected.mask)
        assert written["mask"].dtype == np.int64
        # Measured 0: the sums over zero padding add nothing.
        assert np.abs(written["pooled"] - expected.pooled()).max() <= 1e-7
        assert written["line"].tolist() == list(range(1, 8))
    assert sorted(path.name for path in Path().iterdir()) == ["b", "t.npz", "t.txt"]


def test_npy_has_the_others_beside_it(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npy", "--pooled", "--window", 3))
    assert (done.code, done.err) == (0, "")
    expected = expected_embeddings(bundle)
    assert np.array_equal(np.load("t.npy", mmap_mode="r"), expected.values)
    assert np.array_equal(np.load("t.mask.npy"), expected.mask)
    assert np.abs(np.load("t.pooled.npy") - expected.pooled()).max() <= 1e-7
    assert np.load("t.line.npy").tolist() == list(range(1, 8))


def test_pooled_only(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *embed_command(*TEXTS, "-o", "p.npy", "--pooled-only")).code == 0
    assert np.abs(np.load("p.npy") - expected_embeddings(bundle).pooled()).max() <= 1e-7
    assert not Path("p.mask.npy").exists()


@pytest.mark.parametrize("from_file", [True, False])
def test_parquet_has_a_row_for_each_text(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], from_file: bool
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = ["-i", "t.txt", "--window", 3] if from_file else TEXTS
    done = run(capsys, *embed_command(*texts, "-o", "t.parquet", "--pooled"))
    assert (done.code, done.err) == (0, "")
    expected, table = expected_embeddings(bundle), parquet.read_table("t.parquet").to_pydict()
    assert table["text"] == TEXTS
    assert table["line"] == list(range(1, 8))
    for index, count in enumerate(expected.mask.sum(axis=1)):
        values = np.array(table["values"][index], np.float32)
        assert np.array_equal(values, expected.values[index, :count])
        assert table["mask"][index] == [1] * count
    assert np.abs(np.array(table["pooled"]) - expected.pooled()).max() <= 1e-7


def test_parquet_without_its_library_names_the_pip_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = run(capsys, *embed_command("red", "-o", "t.parquet"))
    assert done.code == 1
    assert "pip install -c constraints.txt '.[parquet]'" in done.error


class Stdin:
    """Standard input of these bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.mark.parametrize("arguments", [["-"], ["--input", "-"]])
def test_stdin_plain(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin("\n".join(TEXTS).encode()))
    # After an option, where the parser has to gather it.
    assert run(capsys, "embed", "b", "-o", "t.npz", *FAKE, *arguments).code == 0
    with np.load("t.npz") as written:
        assert np.array_equal(written["values"], expected_embeddings(bundle).values)


def test_stdin_as_json_lines(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(json.dumps({"c": text}) + "\n" for text in TEXTS)
    monkeypatch.setattr(sys, "stdin", Stdin(lines.encode()))
    assert run(capsys, *embed_command("-", "--field", "c", "-o", "t.npz")).code == 0
    with np.load("t.npz") as written:
        assert np.array_equal(written["values"], expected_embeddings(bundle).values)


def test_broken_lines_are_named_and_the_rest_is_embedded(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.jsonl").write_bytes(
        b'{"text": "red"}\n{"text": \n\n{"text": "caf\xe9"}\n{"text": "green"}\n'
    )
    done = run(capsys, *embed_command("-i", "t.jsonl", "-o", "t.npz", "--json"))
    assert done.code == 1
    assert done.err.splitlines() == [
        "minit2i: warning: line 2: not JSON (Expecting value); skipped",
        "minit2i: warning: line 4: not UTF-8 at byte 14; skipped",
        "minit2i: error: t.jsonl: skipped 2 lines without a text; the other 2 are in t.npz",
    ]
    assert [item["line"] for item in json.loads(done.out)["problems"]] == [2, 4]
    with np.load("t.npz") as written:
        assert written["line"].tolist() == [1, 5]
        assert np.array_equal(
            written["values"], expected_embeddings(bundle, ["red", "green"]).values
        )
    assert not Path("t.npz.parts").exists()


def test_many_broken_lines_are_counted_and_the_first_reported(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.jsonl").write_text("{\n" * 50 + '{"text": "red"}\n')
    done = run(capsys, *embed_command("-i", "t.jsonl", "-o", "t.npz", "--window", 7))
    assert len(done.err.splitlines()) == embed_job.MAX_REPORTED + 1
    assert "skipped 50 lines without a text" in done.err


def test_a_file_without_a_text_writes_nothing(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.txt").write_bytes(b"\n\xff\n")
    done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz"))
    assert done.code == 1
    assert "no text in 2 lines; line 2: not UTF-8 at byte 1" in done.error
    assert sorted(path.name for path in Path().iterdir()) == ["b", "t.txt"]


@pytest.mark.parametrize(("content", "count"), [(b"", 0), (b"\n \n", 2)])
def test_an_empty_file_is_wrong_use(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], content: bytes, count: int
) -> None:
    Path("t.txt").write_bytes(content)
    done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz"))
    assert done.code == 2
    assert f"no text in {count} lines; write one a line; nothing was written" in done.error
    assert sorted(path.name for path in Path().iterdir()) == ["b", "t.txt"]


@pytest.mark.filterwarnings("default")
def test_long_texts_are_cut_and_named(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.txt").write_text("red\n" + "green " * 60)
    done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz"))
    assert done.code == 0
    assert "warning: line 2: prompt cut after" in done.err
    assert "truncated 1 texts" in done.err
    assert "text 1: prompt cut" in run(capsys, *embed_command("red " * 60, "-o", "t.npz")).err


class Interrupted(FakeRuntime):
    """Ctrl-C comes in the third batch."""

    calls = 0

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        Interrupted.calls += 1
        if Interrupted.calls == 3:
            raise KeyboardInterrupt
        return super().encode(input_ids, attention_mask)


@pytest.fixture
def stopped(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """A run of windows of two texts that was interrupted in the third window."""
    Interrupted.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr("minit2i_deploy.runtimes.fake.FakeRuntime", Interrupted)
        return run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz", "--window", 2))


def test_an_interrupted_run_leaves_whole_rows_and_goes_on(
    bundle: Bundle, stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped.code == 130
    line = "embeddings so far are in t.npz.parts; the same command resumes"
    assert stopped.err == f"minit2i: interrupted: {line}\n"
    assert not Path("t.npz").exists()
    parts = sorted(Path("t.npz.parts").glob("part-*"))
    assert [Part.load(path).texts for path in parts] == [TEXTS[:2], TEXTS[2:4]]
    arguments = embed_command("-i", "t.txt", "-o", "t.npz", "--window", 2, "--json")
    done = run(capsys, *arguments)
    assert (done.code, json.loads(done.out)["resumed"]) == (0, 4)
    with np.load("t.npz") as written:
        assert np.array_equal(written["values"], expected_embeddings(bundle).values)
    assert not Path("t.npz.parts").exists()


def test_a_part_without_progress_is_written_again(
    bundle: Bundle, stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a kill between a part and its progress leaves it.
    Path("t.npz.parts/part-000002.npz").write_bytes(b"half")
    assert run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz")).code == 0
    with np.load("t.npz") as written:
        assert np.array_equal(written["values"], expected_embeddings(bundle).values)


def test_a_text_file_may_grow_between_two_runs(
    bundle: Bundle, stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("t.txt", "a", encoding="utf-8") as stream:
        stream.write("\nred\n")
    assert run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz")).code == 0
    with np.load("t.npz") as written:
        assert np.array_equal(
            written["values"], expected_embeddings(bundle, [*TEXTS, "red"]).values
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "t.txt", "--pooled"], "has parts of another run (different pooled)"),
        (["-i", "other.txt"], "has parts of another run (different input)"),
    ],
)
def test_rows_of_another_job_are_not_mixed_in(
    bundle: Bundle,
    stopped: Any,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    Path("other.txt").write_text("red\n")
    done = run(capsys, *embed_command(*arguments, "-o", "t.npz"))
    assert (done.code, message in done.error) == (2, True)
    assert len(list(Path("t.npz.parts").glob("part-*"))) == 2


def test_a_changed_text_file_is_refused(
    bundle: Bundle, stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.txt").write_text("\n".join(["blue", *TEXTS[1:]]))
    done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz"))
    assert (done.code, "first 4 lines of the texts have changed" in done.error) == (2, True)


def test_a_corrupt_progress_file_is_refused(
    bundle: Bundle, stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.npz.parts/progress.json").write_text("{")
    done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz"))
    assert (done.code, "progress.json: cannot be read" in done.error) == (2, True)


def test_a_full_disk_is_one_line_and_keeps_the_rows(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minit2i_deploy.text.embedding_files._write_array", full)
        done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz", "--window", 3))
    assert (done.code, done.error) == (1, "t.npz: cannot be written: No space left on device")
    assert sorted(path.name for path in Path().iterdir()) == ["b", "t.npz.parts", "t.txt"]
    assert run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz", "--json")).code == 0
    assert np.load("t.npz")["values"].shape[0] == len(TEXTS)


def test_a_full_disk_while_reading_stdin_leaves_nothing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("minit2i_deploy.text.embedding_files._write_array", full)
    monkeypatch.setattr(sys, "stdin", Stdin(b"red\n"))
    assert run(capsys, *embed_command("-", "-o", "t.npz")).code == 1
    assert sorted(path.name for path in Path().iterdir()) == ["b", "t.txt"]


def test_parts_of_a_killed_run_from_stdin_are_replaced(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        # As a kill leaves it: nothing is cleaned up.
        patch.setattr("minit2i_deploy.text.embed_job.shutil.rmtree", lambda *a, **k: None)
        patch.setattr(sys, "stdin", Stdin(b"red\ngreen\n"))
        run(capsys, *embed_command("-", "-o", "t.npz", "--window", 1))
    assert Path("t.npz.parts").exists()
    monkeypatch.setattr(sys, "stdin", Stdin(b"a\n"))
    assert run(capsys, *embed_command("-", "-o", "t.npz")).code == 0
    with np.load("t.npz") as written:
        assert np.array_equal(written["values"], expected_embeddings(bundle, ["a"]).values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "t.npz"], "no text given"),
        (["red", "-i", "t.txt", "-o", "t.npz"], "TEXT and --input are mutually exclusive"),
        (["red", "--field", "c", "-o", "t.npz"], "--field requires --input"),
        (["-i", "t.txt", "--field", "c", "-o", "t.npz"], "--field requires a .jsonl file"),
        (["-i", "t.csv", "-o", "t.npz"], "expected a .txt or .jsonl file"),
        (["-i", "none.txt", "-o", "t.npz"], "none.txt: cannot be read (No such file"),
        (["red", "-o", "t.csv"], "must be one of .npz, .npy, .parquet"),
        (["red", "-o", "none/t.npz"], "none: cannot be written"),
        (["-i", "t.txt", "-o", "t.npz", "--window", "0"], "window must be at least 1, got 0"),
        (["red", "-o", "t.npz", "--batch", "0"], "batch_size must be at least 1, got 0"),
        (["red", "-o", "t.npz", "--window", "0"], "--window requires --input"),
    ],
)
def test_wrong_use(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    done = run(capsys, *embed_command(*arguments))
    assert (done.code, message in done.error) == (2, True)
    assert sorted(path.name for path in Path().iterdir()) == ["b", "t.txt"]


def test_a_second_run_on_the_same_output_is_refused(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    with output_lock(Path("t.npz")):
        done = run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz"))
    assert done.code == 1
    assert done.error == (
        f"t.npz: process {os.getpid()} is writing it; wait for it to end, or name another output"
    )
    assert sorted(path.name for path in Path().iterdir()) == ["b", "t.txt"]
    assert run(capsys, *embed_command("-i", "t.txt", "-o", "t.npz")).code == 0
