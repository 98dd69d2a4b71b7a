"""The contract of shards: blocks whole or absent, whoever makes them, in whatever order."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.progress import Progress
from minit2i_deploy.shards.blocks import BlockResult, mark_path
from minit2i_deploy.shards.check import find_job, foreign_marks, job_status, remove_marks
from minit2i_deploy.shards.gather import gather_blocks
from minit2i_deploy.shards.job import BESIDE, INSIDE, JOB_FILE, Job, job_folder
from minit2i_deploy.shards.line_blocks import LineBlocks
from minit2i_deploy.shards.shard import Shard
from minit2i_deploy.shards.work import MakeBlock, run_shard

JOB = Job(
    kind="embed",
    bundle="b" * 64,
    input_sha256="i" * 64,
    num_items=23,
    block_items=4,
    data=INSIDE,
    settings={"suffix": ".txt"},
)


def writer(folder: Path, log: list[int] | None = None) -> MakeBlock:
    """Writes the numbers of a block's items to a file; the last item of every block is bad."""

    def make(block: int, items: range, progress: Progress) -> BlockResult:
        if log is not None:
            log.append(block)
        name = f"part-{block}.txt"
        atomic_write_text(folder / name, ",".join(map(str, items)))
        return BlockResult(
            files=[name], counts={"texts": len(items), "max": max(items)}, problems=["bad"]
        )

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_all(folder: Path, count: int) -> dict[str, bytes]:
    for index in reversed(range(count)):
        run_shard(JOB, folder, Shard(index=index, count=count), writer(folder))
    return contents(folder)


@pytest.mark.parametrize("count", [3, 8, 64])
def test_the_number_of_shards_changes_no_byte(tmp_path: Path, count: int) -> None:
    assert make_all(tmp_path / "one", 1) == make_all(tmp_path / "many", count)
    status = job_status(tmp_path / "many", hashes=True)
    assert status.is_complete and status.counts == {"texts": 23, "max": 22}
    assert status.num_problems == 6


def test_another_number_of_shards_finishes_what_one_began(tmp_path: Path) -> None:
    expected, folder = make_all(tmp_path / "one", 1), tmp_path / "many"
    run_shard(JOB, folder, Shard(index=1, count=3), writer(folder))
    assert job_status(folder).missing == (0, 2, 3, 5)
    log: list[int] = []
    reports = [
        run_shard(JOB, folder, Shard(index=index, count=2), writer(folder, log)) for index in (0, 1)
    ]
    assert log == [0, 2, 3, 5]
    assert [(report.num_before, report.num_items) for report in reports] == [(1, 8), (1, 7)]
    assert contents(folder) == expected


def test_a_killed_process_leaves_no_half_block(tmp_path: Path) -> None:
    expected, folder = make_all(tmp_path / "one", 1), tmp_path / "killed"
    script = f"""
import os, signal
from pathlib import Path
from tests.shards import test_work
folder = Path({str(folder)!r})
make = test_work.writer(folder)
def make_or_die(block, items, progress):
    result = make(block, items, progress)
    if block == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
test_work.run_shard(test_work.JOB, folder, test_work.Shard(index=0, count=2), make_or_die)
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=root, timeout=60)
    assert done.returncode == -signal.SIGKILL
    # The file of block 4 is there without a mark, so the block does not count.
    assert (folder / "part-4.txt").exists() and job_status(folder).missing == (1, 3, 4, 5)
    make_in_three = [Shard(index=index, count=3) for index in range(3)]
    for shard in make_in_three:
        run_shard(JOB, folder, shard, writer(folder))
    assert contents(folder) == expected


def test_a_full_disk_keeps_the_blocks_before(tmp_path: Path) -> None:
    expected, folder = make_all(tmp_path / "one", 1), tmp_path / "full"
    make = writer(folder)

    def full(block: int, items: range, progress: Progress) -> BlockResult:
        if block == 2:
            raise Minit2iError(f"{folder}: cannot be written: {os.strerror(errno.ENOSPC)}")
        return make(block, items, progress)

    with pytest.raises(Minit2iError, match="No space left"):
        run_shard(JOB, folder, Shard(), full)
    assert job_status(folder).missing == (2, 3, 4, 5)
    run_shard(JOB, folder, Shard(), make)
    assert contents(folder) == expected


def test_a_corrupt_file_is_noticed_and_made_again_alone(tmp_path: Path) -> None:
    expected = make_all(tmp_path, 2)
    (tmp_path / "part-3.txt").write_text("15,14,13,12")
    # Of the right size, so only its hash tells.
    assert job_status(tmp_path).is_complete
    status = job_status(tmp_path, hashes=True)
    assert list(status.corrupt) == [3] and "part-3.txt: has sha256" in status.corrupt[3]
    with pytest.raises(Minit2iError, match="verify --repair"):
        status.require_complete()
    remove_marks(status)
    log: list[int] = []
    run_shard(JOB, tmp_path, Shard(), writer(tmp_path, log))
    assert log == [3] and contents(tmp_path) == expected


@pytest.mark.parametrize("text", ["", "{}", '{"bundle": 1}'])
def test_a_corrupt_mark_is_a_missing_block(tmp_path: Path, text: str) -> None:
    expected = make_all(tmp_path, 1)
    mark_path(tmp_path, 1).write_text(text)
    assert list(job_status(tmp_path, hashes=True).corrupt) == [1]
    log: list[int] = []
    run_shard(JOB, tmp_path, Shard(), writer(tmp_path, log))
    assert log == [1] and contents(tmp_path) == expected


def test_a_file_of_another_size_is_a_missing_block(tmp_path: Path) -> None:
    make_all(tmp_path, 1)
    (tmp_path / "part-0.txt").write_text("0")
    assert job_status(tmp_path).missing == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bundle": "c" * 64}, "of bundle bbbbbbbbbbbb.., but this is bundle cccccccccccc"),
        ({"input_sha256": "j" * 64}, "sha256 iiiiiiiiiiii.., but this input has jjjjjjjjjjjj"),
        ({"block_items": 5}, "block_items 4, this one has block_items 5"),
        ({"settings": {"suffix": ".npz"}}, 'suffix ".txt", this one has suffix ".npz"'),
        ({"version": "0"}, 'this one has version "0"'),
    ],
)
def test_another_job_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    make_all(tmp_path, 1)
    other = dataclasses.replace(JOB, **change)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        run_shard(other, tmp_path, Shard(), writer(tmp_path))


def test_a_mark_of_another_bundle_is_corrupt(tmp_path: Path) -> None:
    make_all(tmp_path, 1)
    values = json.loads(mark_path(tmp_path, 2).read_text())
    mark_path(tmp_path, 2).write_text(json.dumps({**values, "bundle": "x" * 64}))
    assert "of bundle xxxxxxxxxxxx" in job_status(tmp_path, hashes=True).corrupt[2]


def test_marks_beyond_the_last_block_are_foreign(tmp_path: Path) -> None:
    make_all(tmp_path, 1)
    assert foreign_marks(tmp_path, JOB) == []
    mark_path(tmp_path, 6).write_text("{}")
    assert foreign_marks(tmp_path, JOB) == ["000006.done"]


def test_blocks_from_disks_of_their_own_come_together(tmp_path: Path) -> None:
    expected = make_all(tmp_path / "one", 1)
    folders = [tmp_path / "a", tmp_path / "b"]
    for index, folder in enumerate(folders):
        run_shard(JOB, folder, Shard(index=index, count=2), writer(folder))
    assert gather_blocks(folders, folders[0]) == 3
    assert contents(folders[0]) == expected
    assert gather_blocks(folders, folders[0]) == 0


def test_gathering_refuses_a_corrupt_source(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for index, folder in enumerate(folders):
        run_shard(JOB, folder, Shard(index=index, count=2), writer(folder))
    (folders[1] / "part-1.txt").write_text("4,5,7,6")
    with pytest.raises(Minit2iError, match="does not have the sha256 of its mark"):
        gather_blocks(folders, folders[0])
    assert not (folders[0] / "part-1.txt").exists()


def test_gathering_refuses_a_path_that_leads_out(tmp_path: Path) -> None:
    make_all(tmp_path / "a", 1)
    values = json.loads(mark_path(tmp_path / "a", 0).read_text())
    item = values["files"].pop("part-0.txt")
    (tmp_path / "evil.txt").write_bytes((tmp_path / "a" / "part-0.txt").read_bytes())
    values["files"]["../evil.txt"] = item
    mark_path(tmp_path / "a", 0).write_text(json.dumps(values))
    with pytest.raises(UsageError, match="leads out of"):
        gather_blocks([tmp_path / "a"], tmp_path / "deep" / "b")


def test_data_may_lie_beside_the_job(tmp_path: Path) -> None:
    job, folder = dataclasses.replace(JOB, data=BESIDE), job_folder(tmp_path / "out")
    assert job.data_folder(folder) == tmp_path / "out"
    run_shard(job, folder, Shard(), writer(tmp_path / "out"))
    assert job_status(folder, hashes=True).is_complete
    assert find_job(tmp_path / "out") == find_job(folder) == folder
    assert not list((tmp_path / "out").glob("_*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3/3", "expected K/N with K from 0 to N - 1"),
        ("0/0", "expected K/N"),
        ("1", "such as 0/4"),
        ("-1/2", "such as 0/4"),
        ("a/b", "such as 0/4"),
    ],
)
def test_no_such_shard(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Shard.parse(text)


def test_a_process_of_a_task_has_a_part_of_its_part() -> None:
    inner = [Shard(index=index, count=2) for index in range(2)]
    outer = [Shard(index=index, count=3) for index in range(3)]
    blocks = [list(i.within(o).blocks(14)) for o in outer for i in inner]
    assert sorted(block for part in blocks for block in part) == list(range(14))
    assert inner[1].within(outer[2]) == Shard(index=5, count=6)


def test_no_job(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name the \.shards folder"):
        find_job(tmp_path)
    (tmp_path / JOB_FILE).write_text('{"format_version": 2}')
    with pytest.raises(UsageError, match="format_version is 2, expected 1"):
        Job.read(tmp_path)


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("block_lines", [1, 3, 5, 100])
def test_blocks_of_lines_are_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_lines: int, end: str
) -> None:
    monkeypatch.setattr("minit2i_deploy.shards.line_blocks._CHUNK_BYTES", 7)
    path = tmp_path / "t.txt"
    texts = ["one", "", "three", "  ", "five", "six", "seven", "", "nine", "ten", "eleven"]
    path.write_bytes(("\ufeff" + "\n".join(texts) + end).encode())
    lines = LineBlocks.scan(path, block_lines)
    assert lines.num_lines == 11 and len(lines.offsets) == -(-11 // block_lines)
    read = [line for block in range(len(lines.offsets)) for line in lines.read(block, None)]
    assert [(line.number, line.text) for line in read] == [
        (number, text.strip()) for number, text in enumerate(texts, 1) if text.strip()
    ]


def test_an_empty_file_has_no_blocks(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(UsageError, match="is empty"):
        LineBlocks.scan(tmp_path / "t.txt", 4)
