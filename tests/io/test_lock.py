"""An output has one writer: every command that writes one refuses to be the second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.folder import bundle_folder
from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.io.lock import output_lock
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run


def pack(out: Path) -> None:
    from minit2i_deploy.training.data.pack import pack_shapes

    pack_shapes(out, num_samples=1, seed=0, size=8, per_shard=1)


def embed_shards(out: Path) -> None:
    from minit2i_deploy.training.data.shards import embed

    nothing: Any = None
    embed.embed_shards(["a.tar"], out, nothing, nothing, bad_limit=0)


def make_bundle(out: Path) -> None:
    with bundle_folder(out):
        raise AssertionError("the folder is locked")


@pytest.mark.parametrize("write", [pack, embed_shards, make_bundle])
def test_a_second_writer_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    if write is not make_bundle:
        pytest.importorskip("torch")
    out = tmp_path / "out"
    message = f"out: process {os.getpid()} is writing it; wait for it to end"
    with output_lock(out), pytest.raises(Minit2iError, match=message):
        write(out)
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from minit2i_deploy.io.lock import output_lock\n"
        "with output_lock(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "new" / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        assert (tmp_path / "new" / ".out.lock").is_file()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("generate", "b", "a", "--seed", "1,2", "--runtime", "fake", "-o"), "images"),
        (("sensitivity", "b", "--scheme", "int8", "-o"), "layers.json"),
    ],
)
def test_commands_refuse_to_be_second(
    command: tuple[str, ...],
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(Path("b"))
    with output_lock(Path(output)):
        done = run(capsys, *command, output)
    assert (done.code, f"{output}: process {os.getpid()} is writing it" in done.error) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_may_not_be_replaced_is_refused_before_the_lock(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with output_lock(out), pytest.raises(UsageError, match="not empty"):
        make_bundle(out)
