"""minit2i data embed --shard: the same shards from any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.shards import work
from minit2i_deploy.shards.blocks import BlockMark
from tests.helpers.cli_runs import Run, run
from tests.helpers.shard_files import good, write_set, write_tar
from tests.helpers.training_runs import tiny_recipe

RECIPE = tiny_recipe()
TEXT = (
    *("--text-encoder", RECIPE.text_encoder_folder),
    *("--tokenizer", RECIPE.tokenizer_folder),
    *("--prompt-length", "20"),
)
Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with four shards in ``in``."""
    monkeypatch.chdir(tmp_path)
    write_set(Path("in"), [2, 1, 2, 1])
    return tmp_path


def embed(capsys: Capsys, out: str, *more: object) -> Run:
    return run(capsys, "data", "embed", "in/*.tar", out, *TEXT, *more)


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_shards_of_a_run_are_those_of_any_other(folder: Path, capsys: Capsys) -> None:
    assert embed(capsys, "plain").code == 0
    expected = contents("plain")
    assert len(expected) == 8
    for out, shards in (("a", ("0/1",)), ("b", ("2/3", "0/3", "1/3")), ("c", ("7/8", "0/8"))):
        for shard in shards:
            assert embed(capsys, out, "--shard", shard).code == 0
    assert contents("a") == contents("b") == expected
    # Of eight processes only the first four have work.
    assert sorted(contents("c")) == ["00.tar", "00.tar.index.json"]
    done = embed(capsys, "c", "--shard", "0/1", "--json")
    assert json.loads(done.out)["before"] == 1 and contents("c") == expected
    assert contents("a.shards/_blocks") == contents("c.shards/_blocks")
    values = json.loads(run(capsys, "shards", "status", "c", "--json").out)
    assert values["complete"] and values["counts"]["samples"] == 6


def test_a_stopped_process_is_resumed_by_another_number(
    folder: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between a shard and its mark, where a kill leaves the most behind."""
    assert embed(capsys, "plain").code == 0
    write_mark = work.write_mark

    def mark_or_stop(folder: Path, data: Path, block: int, mark: BlockMark) -> None:
        if block == 2:
            raise Minit2iError("stopped")
        write_mark(folder, data, block, mark)

    with monkeypatch.context() as patch:
        patch.setattr(work, "write_mark", mark_or_stop)
        assert embed(capsys, "out", "--shard", "0/2").error == "stopped"
    assert Path("out/02.tar").exists()
    assert "missing: 3 (blocks 1, 2, 3)" in run(capsys, "shards", "status", "out").out
    for shard in ("0/3", "1/3", "2/3"):
        assert embed(capsys, "out", "--shard", shard).code == 0
    assert contents("out") == contents("plain")


def test_a_corrupt_shard_is_made_again_alone(folder: Path, capsys: Capsys) -> None:
    assert embed(capsys, "out", "--shard", "0/1").code == 0
    expected = contents("out")
    Path("out/01.tar").write_bytes(expected["01.tar"][:-1] + b"x")
    assert run(capsys, "shards", "verify", "out", "--repair").code == 1
    again = embed(capsys, "out", "--shard", "0/1", "--json")
    assert json.loads(again.out)["before"] == 3 and contents("out") == expected


def test_captions_that_are_missing(folder: Path, capsys: Capsys) -> None:
    write_tar(Path("in/01.tar"), {"0": good(0), "1": {"jpg": b""}})
    done = embed(capsys, "out", "--shard", "0/1")
    assert done.code == 1 and "1 bad samples exceed --bad-limit 0" in done.error
    done = embed(capsys, "out", "--shard", "1/2", "--bad-limit", 1)
    assert done.code == 0 and "sample 1: no caption (no .txt); skipped" in done.err
    assert embed(capsys, "out", "--shard", "0/1", "--bad-limit", 1).code == 0
    assert "excluded: 1 items" in run(capsys, "shards", "status", "out").out


def test_what_does_not_belong_together(folder: Path, capsys: Capsys) -> None:
    assert embed(capsys, "plain").code == 0
    done = embed(capsys, "plain", "--shard", "0/2")
    assert done.code == 2 and "00.tar: was written without --shard" in done.error
    assert embed(capsys, "out", "--shard", "0/2").code == 0
    done = embed(capsys, "out", "--shard", "1/2", "--dtype", "bf16")
    assert done.code == 2 and 'dtype "fp32", this one has dtype "bf16"' in done.error
    write_tar(Path("in/04.tar"), {"0": good(0)})
    done = embed(capsys, "out", "--shard", "1/2")
    assert done.code == 2 and "but this input has" in done.error
    done = embed(capsys, "out", "--shard", "2/2")
    assert done.code == 2 and "K from 0 to N - 1" in done.error
