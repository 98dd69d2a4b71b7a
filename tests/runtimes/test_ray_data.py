"""The classes for Ray Data, called as Ray calls them; tests/integrations runs them in Ray."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.runtimes.ray_data import (
    EmbedBlocks,
    EmbedTask,
    EmbedTexts,
    PaintPrompts,
    WorkerRuntime,
)
from minit2i_deploy.text.embed import embed
from minit2i_deploy.text.embedding_files import Contents
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

TEXTS = ["a red circle", "green", "red", "a green circle", "a"]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerRuntime:
    """The fake runtime of a bundle named b in the current folder, beside t.txt."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("\n".join(TEXTS))
    return WorkerRuntime(bundle=str(write_bundle(tmp_path / "b")), runtime="fake")


def test_blocks_are_those_of_the_command_line(
    worker: WorkerRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = Contents(tokens=True, pooled=True, lines=True)
    task = EmbedTask(
        worker=worker, texts="t.txt", output="ray.npz", contents=contents, block_lines=2
    )
    # As Ray sends it to a worker.
    blocks = EmbedBlocks(pickle.loads(pickle.dumps(task)))
    assert blocks({"id": [2, 0]}) == {"id": [2, 0], "items": [1, 2]}
    # Again after the loss of a node: only what is missing is made.
    assert blocks({"id": [0, 1]}) == {"id": [0, 1], "items": [0, 2]}
    command = ("embed", "b", "-i", "t.txt", "-o", "cli.npz", "--pooled", "--window", 2)
    assert run(capsys, *command, "--shard", "0/1", "--runtime", "fake").code == 0
    names = [path.relative_to("cli.npz.shards") for path in Path("cli.npz.shards").rglob("*.*")]
    assert len(names) == 7
    for name in names:
        assert (
            Path("ray.npz.shards", name).read_bytes() == Path("cli.npz.shards", name).read_bytes()
        )


def test_rows_get_embeddings(worker: WorkerRuntime) -> None:
    rows = EmbedTexts(worker, tokens=True)({"text": np.array(TEXTS), "n": np.arange(5)})
    bundle = Bundle.open("b")
    with FakeRuntime(bundle) as runtime:
        expected = embed(bundle, runtime, TEXTS)
    assert np.array_equal(rows["pooled"], expected.pooled())
    assert rows["tokens"].tolist() == expected.mask.sum(axis=1).tolist()
    assert [len(values) for values in rows["values"]] == rows["tokens"].tolist()
    assert rows["n"].tolist() == [0, 1, 2, 3, 4]


def test_rows_become_images_with_records(worker: WorkerRuntime) -> None:
    rows = {"prompt": TEXTS[:2], "seed": [3, 4], "__key__": ["x", "y"]}
    result = PaintPrompts(worker, guidance=2.0)(rows)
    assert result["__key__"] == ["x", "y"] and result["txt"] == TEXTS[:2]
    Path("y.png").write_bytes(result["png"][1])
    record = Record.read("y.png")
    assert (record.seed, record.guidance, record.prompt_text) == (4, 2.0, "green")
