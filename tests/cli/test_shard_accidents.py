"""Work in shards whose processes are killed, have other clocks, or meet what is another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import write_manifest
from tests.helpers.bundles import draft, write_bundle, write_files
from tests.helpers.cli_runs import Run, run

Capsys = pytest.CaptureFixture[str]
TEXTS = [f"a red circle {number}" for number in range(9)]
EMBED = ("embed", "b", "-i", "t.txt", "--window", 1, "--pooled", "--runtime", "fake")
PAINT = ("eval", "paint", "folder", "b", "--prompts", "t.txt", "--block", 1, "--runtime", "fake")
WORK = {"v.npz": EMBED, "v.parquet": EMBED, "images": PAINT}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a bundle named b, nine texts and a folder for each run."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    write_bundle(tmp_path / "b")
    for name in ("one", "many"):
        Path(name).mkdir()
    return tmp_path


def work(capsys: Capsys, output: str, shard: str, *more: object) -> Run:
    command = WORK[Path(output).name]
    return run(capsys, *command, "-o", output, "--shard", shard, *more)


def contents(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def killed(output: str, shard: str, block: int) -> None:
    """Run a shard in a process of its own, killed when the files of a block have been written."""
    words = [*map(str, WORK[Path(output).name]), "-o", output, "--shard", shard]
    script = f"""
import os, signal
from minit2i_deploy.cli import main
from minit2i_deploy.shards import work
write_mark = work.write_mark
def mark_or_die(folder, data, block, mark):
    if block == {block}:
        os.kill(os.getpid(), signal.SIGKILL)
    write_mark(folder, data, block, mark)
work.write_mark = mark_or_die
main({words!r})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("output", ["v.npz", "images"])
def test_one_of_three_is_killed_and_eight_finish(folder: Path, capsys: Capsys, output: str) -> None:
    assert work(capsys, f"one/{output}", "0/1").code == 0
    killed(f"many/{output}", "1/3", block=4)
    assert work(capsys, f"many/{output}", "2/3").code == 0
    status = run(capsys, "shards", "status", f"many/{output}")
    # Block 4 has its files but no mark; block 1 was done before the kill.
    assert "missing: 5 (blocks 0, 3, 4, 6, 7)" in status.out
    assert run(capsys, "shards", "merge", f"many/{output}").code == 1
    for index in range(8):
        assert work(capsys, f"many/{output}", f"{index}/8").code == 0
    for name in ("one", "many"):
        assert run(capsys, "shards", "merge", f"{name}/{output}").code == 0
    assert contents("many") == contents("one")


@pytest.mark.parametrize("output", ["v.npz", "v.parquet", "images"])
def test_clocks_that_differ_change_nothing(
    folder: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    assert work(capsys, f"one/{output}", "0/1").code == 0
    for shard, now in (("0/3", 0.0), ("2/3", 4e9), ("1/2", 1e9)):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            patch.setattr(time, "time_ns", lambda now=now: int(now * 1e9))
            assert work(capsys, f"many/{output}", shard).code == 0
        for path in Path("many").rglob("*"):
            os.utime(path, (now, now))
    before = {path: path.stat().st_mtime for path in Path("many").rglob("*.done")}
    assert work(capsys, f"many/{output}", "0/1").code == 0
    # What was done is not made again, however old or new its files claim to be.
    assert len(before) == 8 and all(path.stat().st_mtime == at for path, at in before.items())
    assert contents("many") == contents("one")


def test_images_of_another_bundle_or_table_are_refused(folder: Path, capsys: Capsys) -> None:
    euler = ("--steps", 2, "--solver", "euler")
    assert work(capsys, "images", "0/2", *euler).code == 0
    before = contents("images")
    table = work(capsys, "images", "1/2", "--steps", 2, "--solver", "heun")
    # The line before says what is to be generated.
    error = table.err.splitlines()[-1]
    assert table.code == 2 and error.count('.."') == 2
    assert 'is of a run with table "euler-2", table_sha256 "' in error
    assert 'this one has table "heun-2", table_sha256 "' in error
    write_files(folder / "other")
    Path("other/transformer/model.onnx.data").write_bytes(b"other weights")
    write_manifest(folder / "other", draft())
    command = ["other" if word == "b" else word for word in PAINT]
    bundle = run(capsys, *command, "-o", "images", "--shard", "1/2", *euler)
    error = bundle.err.splitlines()[-1]
    assert bundle.code == 2 and error.count("..,") == 1 and error.count("..;") == 1
    assert "blocks are of bundle" in error and "but this is bundle" in error
    assert contents("images") == before
