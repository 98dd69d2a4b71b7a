"""Shards: where they lie, what is in them, and what is wrong with some."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from webdataset import tariterators

from minit2i_deploy.errors import MissingDependencyError, TrainingError, UsageError
from minit2i_deploy.training.data.shards import storage
from minit2i_deploy.training.data.shards.index import SUFFIX, open_index, open_indexes
from minit2i_deploy.training.data.shards.storage import expand_names
from minit2i_deploy.training.data.shards.tar import iterate_samples
from minit2i_deploy.training.data.shards.writer import write_shard
from tests.helpers.shard_files import good, served, write_set, write_tar


def test_names_are_expanded_in_order(tmp_path: Path) -> None:
    paths = [str(path) for path in write_set(tmp_path, [1, 1, 1])]
    assert expand_names([f"{tmp_path}/{{00..02}}.tar"]) == paths
    assert expand_names([f"{tmp_path}/*.tar"]) == paths
    assert expand_names([f"{tmp_path}/{{02,00}}.tar"]) == [paths[2], paths[0]]
    assert expand_names(["s3://bucket/{08..11}.tar"]) == [
        f"s3://bucket/{n}.tar" for n in ("08", "09", "10", "11")
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{00..", "write them as {000..099}"),
        ("*.tar", "matches no file"),
        ("a{0,0}", "named twice"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message.replace("{", r"\{")):
        expand_names([name])


def test_any_sample_is_read_alone(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, [5])
    index = open_index(str(path))
    assert len(index) == 5
    for number in (3, 0, 4):
        raw = index.read(number)
        assert raw.key == f"{number:05d}" and raw.members == good(number)


def read_by_webdataset(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Keys and files as the library groups them."""
    with open(path, "rb") as stream:
        files = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        return [
            (sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")})
            for sample in tariterators.group_by_keys(files)
        ]


def test_samples_are_webdatasets_own(tmp_path: Path) -> None:
    """Long names, folders, upper case, several dots, links and special members."""
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (
            "__index__",
            "a.txt",
            "A.JPG",
            "deep/b.x.y.txt",
            "deep/b.jpg",
            "nosuffix",
            f"{'long' * 60}.jpg",
            f"{'long' * 60}.txt",
            "\u00e9.txt",
            "again.txt",
            "other.txt",
            "again.jpg",
        ):
            data = name.encode() * 100
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("empty.txt"))
    index = open_index(str(path))
    actual = [index.read(number) for number in range(len(index))]
    expected = read_by_webdataset(path)
    assert [(raw.key, raw.members) for raw in actual] == expected and len(expected) == 9
    with open(path, "rb") as stream:
        walked = list(iterate_samples(str(path), stream))
    assert [(raw.key, raw.members) for raw in walked] == expected


def test_what_is_written_is_read_by_webdataset_and_always_the_same(tmp_path: Path) -> None:
    samples = [(f"{n:03d}", good(n)) for n in range(3)]
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.tar", samples, '{"x": 1}')
    one, other = ((tmp_path / f"{name}.tar").read_bytes() for name in ("a", "b"))
    assert one == other
    assert read_by_webdataset(tmp_path / "a.tar") == samples
    index = open_index(str(tmp_path / "a.tar"))
    assert index.text == {"x": 1} and len(index) == 3


def test_the_index_is_kept_and_rebuilt_for_another_shard(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, [3])
    first = open_index(str(path))
    retained = Path(f"{path}{SUFFIX}")
    message = json.loads(retained.read_text())
    assert message["offsets"] == first.offsets.tolist() and message["bytes"] == path.stat().st_size
    before = retained.stat().st_mtime_ns
    assert np.array_equal(open_index(str(path)).offsets, first.offsets)
    assert retained.stat().st_mtime_ns == before
    write_tar(path, {"x": good(1)})
    os.utime(path, ns=(before + 10**9, before + 10**9))
    assert len(open_index(str(path))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 2},
        {"format": "other"},
        {"bytes": 1},
        {"offsets": []},
        {"offsets": [0, 10**12]},
        {"offsets": [512, 0]},
        {"offsets": "many"},
        {"offsets": [10**30]},
        {"text": 3},
        None,
    ],
    ids=str,
)
def test_a_corrupt_index_is_rebuilt(tmp_path: Path, damage: dict[str, object] | None) -> None:
    (path,) = write_set(tmp_path, [3])
    retained = Path(f"{path}{SUFFIX}")
    open_index(str(path))
    good_text = retained.read_text()
    retained.write_text("{" if damage is None else json.dumps(json.loads(good_text) | damage))
    assert len(open_index(str(path))) == 3
    assert retained.read_text() == good_text


def test_an_index_that_fits_in_size_alone_is_detected(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, [3])
    index = open_index(str(path))
    retained = Path(f"{path}{SUFFIX}")
    values = json.loads(retained.read_text())
    values["offsets"][1] += 512
    retained.write_text(json.dumps(values))
    for number in (0, 1):
        with pytest.raises(
            TrainingError, match="its index does not match it; run minit2i data check"
        ):
            open_index(str(path)).read(number)
    assert index.read(0).key == "00000"


def test_a_folder_that_may_not_be_written_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minit2i_deploy.training.data.shards import index as module

    def refuse(path: str, text: str) -> None:
        raise UsageError(f"{path}: cannot be written")

    monkeypatch.setattr(module, "atomic_write_text", refuse)
    (path,) = write_set(tmp_path, [3])
    assert open_index(str(path)).read(2).key == "00002"
    assert not Path(f"{path}{SUFFIX}").exists()


def cut(path: Path, length: int = 2000) -> None:
    path.write_bytes(path.read_bytes()[:length])


def compress(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


def overwrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    start = int(open_index(str(path)).offsets[1])
    data[start : start + 512] = b"\x07" * 512
    path.write_bytes(data)


DAMAGE = {
    "cut in a picture": (lambda path: cut(path, 700), "not a complete tar file"),
    "cut in a header": (lambda path: cut(path, 1800), "is corrupt at byte 1536"),
    "empty": (lambda path: path.write_bytes(b""), "not a complete tar file"),
    "text": (lambda path: path.write_text("no tar" * 500), "not a complete tar file"),
    "compressed": (compress, r"is compressed \(gzip\); decompress it"),
    "header": (overwrite, "is corrupt at byte"),
    "missing": (lambda path: path.unlink(), "cannot be read .No such file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read .Is a directory"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_corrupt_shard_is_named(tmp_path: Path, name: str) -> None:
    (path,) = write_set(tmp_path, [3])
    damage, message = DAMAGE[name]
    damage(path)
    with pytest.raises(TrainingError, match=message) as caught:
        open_indexes([str(path)])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_shard_that_shrinks_later_is_named(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, [3])
    index = open_index(str(path))
    cut(path)
    with pytest.raises(TrainingError, match=r"has no bytes \d+ to \d+, which its index names"):
        index.read(2)


def test_http_in_parts(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, [4])
    with served(tmp_path) as (address, state):
        url = f"{address}/{path.name}"
        index = open_index(url)
        state["asked"].clear()
        assert index.read(2).members == good(2)
        start, stop = index.offsets[2:4]
        assert state["asked"] == [("GET", f"/{path.name}", f"bytes={start}-{stop - 1}")]
        # With the index beside it, the shard itself is not read.
        open_index(str(path))
        state["asked"].clear()
        again = open_index(url)
        assert np.array_equal(again.offsets, index.offsets)
        names = [(verb, name) for verb, name, _ in state["asked"]]
        assert names == [("HEAD", f"/{path.name}"), ("GET", f"/{path.name}{SUFFIX}")]


def test_http_without_parts_needs_copies(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path / "served", [4])
    with served(path.parent, ranges=False) as (address, state):
        url = f"{address}/{path.name}"
        with pytest.raises(TrainingError, match=r"does not support range requests.*set data.cache"):
            open_index(url).read(2)
        copied = open_index(url, str(tmp_path / "copies"))
        state["asked"].clear()
        assert copied.read(3).members == good(3) and copied.url == url
        assert open_index(url, str(tmp_path / "copies")).read(1).members == good(1)
        assert state["asked"] == []
        assert len(list((tmp_path / "copies").glob("*.tar"))) == 1


def test_a_server_that_stumbles_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_AFTER_S", (0.01, 0.01))
    (path,) = write_set(tmp_path, [4])
    with served(tmp_path) as (address, state):
        index = open_index(f"{address}/{path.name}")
        state["failures"] = [503, 500]
        assert index.read(2).members == good(2)
        state["failures"] = [503, 503, 503]
        with pytest.raises(TrainingError, match=r"cannot be read .*503"):
            index.read(2)
        with pytest.raises(TrainingError, match=r"missing.tar: cannot be read .*404"):
            open_index(f"{address}/missing.tar")
    with pytest.raises(TrainingError, match="cannot be read"):
        index.read(0)


def test_a_broken_connection_leaves_no_half_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_AFTER_S", (0.01, 0.01))
    (path,) = write_set(tmp_path / "served", [4])
    copies = tmp_path / "copies"
    with served(path.parent) as (address, state):
        url = f"{address}/{path.name}"
        index = open_index(url)
        state["cut"] = 100
        with pytest.raises(TrainingError, match="cannot be read"):
            index.read(2)
        size = path.stat().st_size
        with pytest.raises(TrainingError, match=f"the copy ended after 100 of {size} bytes"):
            open_index(url, str(copies))
        assert list(copies.iterdir()) == []
        with pytest.raises(TrainingError, match=r"not a complete tar file|corrupt"):
            open_index(url)


def test_errors_of_other_libraries_become_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> bytes:
        raise KeyError("no credentials\nanywhere")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", refuse)
    with pytest.raises(TrainingError, match=r"cannot be read .*no credentials.*anywhere"):
        open_index("memory://x.tar")


def test_fsspec_reaches_the_rest(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, [4])
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/shards/a.tar", path.read_bytes())
    index = open_index("memory://shards/a.tar")
    assert index.read(3).members == good(3)
    memory.pipe_file(f"/shards/a.tar{SUFFIX}", index.to_json().encode())
    assert open_index("memory://shards/a.tar").read(1).members == good(1)
    copied = open_index("memory://shards/a.tar", str(tmp_path / "copies"))
    memory.rm("/shards", recursive=True)
    assert copied.read(0).members == good(0)
    with pytest.raises(TrainingError, match=r"memory://shards/a.tar: cannot be read"):
        open_index("memory://shards/a.tar")


def test_a_file_system_without_its_package_names_it() -> None:
    with pytest.raises(MissingDependencyError, match=r"s3://bucket/a.tar: .*s3fs"):
        open_index("s3://bucket/a.tar")
    with pytest.raises(UsageError, match=r"nope://a.tar: .*nope"):
        open_index("nope://a.tar")


@pytest.mark.parametrize("place", ["http", "memory"])
def test_a_corrupt_remote_shard_is_named(tmp_path: Path, place: str) -> None:
    (path,) = write_set(tmp_path, [40])
    overwrite(path)
    Path(f"{path}{SUFFIX}").unlink()
    with served(tmp_path) as (address, _):
        url = f"{address}/{path.name}"
        if place == "memory":
            url = "memory://damaged.tar"
            fsspec.filesystem("memory").pipe_file("/damaged.tar", path.read_bytes())
        with pytest.raises(TrainingError, match="is corrupt at byte"):
            open_index(url)
