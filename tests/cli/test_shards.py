"""minit2i shards and embed --shard: the same bytes from any number of processes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.cli.support.options.shard_options import shard_of_environment
from minit2i_deploy.errors import UsageError
from minit2i_deploy.shards.shard import Shard
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import Run, run

FAKE = ("--runtime", "fake", "--window", 3, "--pooled")
TEXTS = ["a red circle", "green", "", "red", "a", "a green circle", "green", "a red red circle"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a bundle named b and the texts t.txt."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    write_bundle(tmp_path / "b")
    return tmp_path


def embed(capsys: pytest.CaptureFixture[str], output: str, shard: str, *more: object) -> Run:
    return run(capsys, "embed", "b", "-i", "t.txt", "-o", output, *FAKE, "--shard", shard, *more)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embeddings_do_not_depend_on_the_shards(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    assert embed(capsys, f"one{suffix}", "0/1").code == 0
    for index in (2, 0, 1):
        done = embed(capsys, f"three{suffix}", f"{index}/3")
        assert (done.code, done.err) == (0, "")
    one, three = (contents(Path(f"{name}{suffix}.shards")) for name in ("one", "three"))
    assert one == three and f"part-000002{suffix}" in one
    for name in ("one", "three"):
        assert run(capsys, "shards", "merge", f"{name}{suffix}").code == 0
    assert Path(f"one{suffix}").read_bytes() == Path(f"three{suffix}").read_bytes()


def test_a_merge_has_what_embed_without_shards_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "embed", "b", "-i", "t.txt", "-o", "plain.npz", *FAKE).code == 0
    assert embed(capsys, "t.parquet", "0/1").code == 0
    assert run(capsys, "shards", "merge", "t.parquet", "-o", "merged.npz").code == 0
    with np.load("plain.npz") as plain, np.load("merged.npz") as merged:
        assert set(plain) == set(merged)
        assert all(np.array_equal(plain[name], merged[name]) for name in plain)


def test_pooled_vectors_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".npy", ".parquet"):
        command = ("embed", "b", "-i", "t.txt", "-o", f"p{suffix}", "--pooled-only", "--shard")
        assert run(capsys, *command, "0/1", "--runtime", "fake").code == 0
        assert run(capsys, "shards", "merge", f"p{suffix}", "-o", f"{suffix[1:]}.npz").code == 0
    with np.load("npy.npz") as first, np.load("parquet.npz") as second:
        assert set(first) == set(second) == {"pooled", "line"}
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_status_verify_repair(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed(capsys, "t.npz", "1/2").code == 0
    status = run(capsys, "shards", "status", "t.npz")
    assert "1 of 3 blocks of 3 are done" in status.out and "missing: 2 (blocks 0, 2)" in status.out
    incomplete = run(capsys, "shards", "merge", "t.npz")
    assert incomplete.code == 1 and "2 of 3 blocks are missing" in incomplete.error
    assert run(capsys, "shards", "verify", "t.npz").code == 1
    assert embed(capsys, "t.npz", "0/1").code == 0
    expected = contents(Path("t.npz.shards"))
    part = Path("t.npz.shards/part-000001.npz")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    corrupt = run(capsys, "shards", "verify", "t.npz.shards", "--repair")
    assert corrupt.code == 1 and "part-000001.npz: has sha256" in corrupt.out
    values = json.loads(run(capsys, "shards", "status", "t.npz", "--json").out)
    assert values["missing"] == [1] and not values["complete"]
    assert embed(capsys, "t.npz", "4/5").code == 0
    assert embed(capsys, "t.npz", "1/5").code == 0
    assert contents(Path("t.npz.shards")) == expected
    assert run(capsys, "shards", "verify", "t.npz").code == 0


def test_workers_without_a_common_disk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, name in enumerate(("x", "y")):
        Path(name).mkdir()
        assert embed(capsys, f"{name}/t.npz", f"{index}/2").code == 0
    assert run(capsys, "shards", "merge", "x/t.npz", "y/t.npz").code == 0
    assert embed(capsys, "t.npz", "0/1").code == 0
    assert run(capsys, "shards", "merge", "t.npz").code == 0
    assert Path("x/t.npz").read_bytes() == Path("t.npz").read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_full_disk_on_one_worker_loses_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """A disk of a few files' size, which says that it is full when a file is to be safe on it."""
    assert embed(capsys, f"one{suffix}", "0/1").code == 0
    shards = Path(f"small/t{suffix}.shards")
    for name in ("small", "large"):
        Path(name).mkdir()
    sizes = [path.stat().st_size for path in Path(f"one{suffix}.shards").glob("part-*")]

    def fsync_on_a_small_disk(descriptor: int) -> None:
        parts = Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent.glob("*part-*")
        if sum(path.stat().st_size for path in parts) > max(sizes) * 3 / 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_on_a_small_disk)
        full = embed(capsys, f"small/t{suffix}", "0/2")
    name = f"part-000002{suffix}"
    assert full.code == 1 and full.err.count("\n") == 1
    assert f"{shards / name}: cannot be written: No space left on device" in full.error
    assert [path.name for path in shards.glob("*part-*")] == [f"part-000000{suffix}"]
    # The other worker has a disk of its own; a third run finishes under another number.
    assert embed(capsys, f"large/t{suffix}", "1/2").code == 0
    done = embed(capsys, f"small/t{suffix}", "2/3", "--json")
    assert json.loads(done.out)["items"] == 2
    assert run(capsys, "shards", "merge", f"small/t{suffix}", f"large/t{suffix}").code == 0
    assert contents(shards) == contents(Path(f"one{suffix}.shards"))


def test_a_line_without_a_text_fails_at_the_end(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.txt").write_bytes(b"red\n\xff\ngreen\n")
    done = embed(capsys, "t.npz", "0/1")
    assert done.code == 1
    assert "line 2: not UTF-8" in done.err and "skipped 1 lines without a text" in done.err
    assert run(capsys, "shards", "merge", "t.npz").code == 0
    with np.load("t.npz") as merged:
        assert merged["line"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a text", "-o", "t.npz", "--shard", "0/2"), "--shard requires --input"),
        (("-", "-o", "t.npz", "--shard", "0/2"), "requires --input FILE, which every process"),
        (("-i", "t.txt", "-o", "t.npz", "--shard", "2/2"), "K from 0 to N - 1"),
        (("-i", "t.txt", "-o", "t.npz", "--shard", "auto"), "write --shard K/N"),
        (
            ("-i", "t.txt", "-o", "t.npz", "--shard", "0/2", "--provider", "auto"),
            "chosen by auto are mutually exclusive",
        ),
    ],
)
def test_wrong_use(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    for name in ("RANK", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    done = run(capsys, "embed", "b", *arguments)
    assert done.code == 2 and message in done.error
    assert not Path("t.npz.shards").exists()


def test_other_texts_are_refused_with_both_digests(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(capsys, "t.npz", "0/2").code == 0
    Path("t.txt").write_text("other\n")
    done = embed(capsys, "t.npz", "1/2")
    assert done.code == 2 and done.error.count("..") >= 2 and "but this input has" in done.error


def array(index: int, first: int, count: int, step: int = 1) -> dict[str, str]:
    values = {"ID": index, "MIN": first, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "count", "expected"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8"}, None, (3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, None, (1, 4)),
        (array(7, 1, 10), None, (6, 10)),
        (array(9, 1, 5, step=2), None, (4, 5)),
        (array(7, 3, 2), 16, (7, 16)),
        ({"JOB_COMPLETION_INDEX": "2"}, 5, (2, 5)),
        # A batch script is process 0 of a job whose count is no count of a step.
        ({**array(2, 0, 4), "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None, (2, 4)),
        ({**array(2, 0, 4), "RANK": "1", "WORLD_SIZE": "8"}, None, (17, 32)),
        ({"JOB_COMPLETION_INDEX": "1", "RANK": "0", "WORLD_SIZE": "2"}, 3, (2, 6)),
    ],
)
def test_schedulers_name_the_shard(
    environment: dict[str, str], count: int | None, expected: tuple[int, int]
) -> None:
    shard, _ = shard_of_environment(environment, count)
    assert (shard.index, shard.count) == expected


@pytest.mark.parametrize(
    ("environment", "count", "message"),
    [
        ({}, None, "is set; write --shard K/N"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 4, "neither SLURM_ARRAY_TASK_ID nor"),
        ({"JOB_COMPLETION_INDEX": "0"}, None, "write --shard auto/N"),
        ({"JOB_COMPLETION_INDEX": "5"}, 5, "K from 0 to N - 1"),
        (array(8, 3, 2), None, "an array that is no range"),
        (array(4, 3, 2, step=2), None, "an array that is no range"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, None, "RANK is 'x', expected a number"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, None, "SLURM_ARRAY_TASK_MIN is not set"),
    ],
)
def test_what_no_shard_can_be_read_from(
    environment: dict[str, str], count: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        shard_of_environment(environment, count)


def test_the_array_of_a_second_submission_shares_what_is_missing() -> None:
    shards = [shard_of_environment(array(index, 3, 2))[0] for index in (3, 4)]
    assert shards == [Shard(index=0, count=2), Shard(index=1, count=2)]
