"""benchmarks/gpu_first_pack.py: code of one architecture, and pieces that find together again."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_first_pack
from benchmarks.first_half_hour.fatbin import Pruned, prune
from benchmarks.first_half_hour.pieces import Source, write_pieces

MAGIC = 0xBA55ED50


def entry(architecture: int, code: bytes) -> bytes:
    header = struct.pack("<HHIQQIIQ", 2, 0x101, 64, len(code), 0, 0, architecture, 0)
    return header.ljust(64, b"\0") + code


def fat_binary(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", MAGIC, 1, 16, len(body)) + body


def test_code_of_other_architectures_becomes_zeros() -> None:
    first = fat_binary(entry(80, b"a" * 40), entry(90, b"b" * 24))
    # The number alone, as some constant of the library, is not a fat binary.
    between = struct.pack("<IHHQ", MAGIC, 7, 7, 7) + b"text"
    second = fat_binary(entry(90, b"c" * 8), entry(120, b"d" * 16))
    library = bytearray(b"ELF" + first + between + second)
    size = len(library)
    assert prune(library, 90) == Pruned(retained=32, zeroed=56)
    assert len(library) == size
    assert b"a" not in library.replace(b"text", b"") and b"d" not in library
    assert b"b" * 24 in library and b"c" * 8 in library and between in library


def test_an_architecture_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no code for compute capability 75"):
        prune(bytearray(fat_binary(entry(90, b"b" * 8))), 75)


def test_pieces_are_joined_and_checked(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(bytes(range(256)) * 64)
    link = tmp_path / "link"
    link.symlink_to("content")
    archives = {
        "first": [Source(path=content, name="source/a"), Source(path=link, name="source/l")],
        "second": [Source(path=content, name="site/b")],
    }
    pieces = write_pieces(archives, tmp_path / "pieces", max_bytes=300)
    assert len(pieces) >= 3
    assert max(piece.stat().st_size for piece in pieces) <= 300
    # The first archive alone is of use.
    waiting = [piece for piece in pieces if piece.name.startswith("second")]
    for piece in waiting:
        piece.rename(tmp_path / piece.name)
    done = unpack(tmp_path)
    assert done.returncode == 1
    assert "first: unpacked" in done.stdout
    assert f"second: {waiting[0].name} is not here" in done.stdout
    assert (tmp_path / "out" / "source" / "a").read_bytes() == content.read_bytes()
    assert (tmp_path / "out" / "source" / "l").is_symlink()
    for piece in waiting:
        (tmp_path / piece.name).rename(piece)
    good = waiting[0].read_bytes()
    waiting[0].write_bytes(good[:-1] + b"\0")
    done = unpack(tmp_path)
    assert done.returncode == 1 and "is damaged, copy it again" in done.stdout
    waiting[0].write_bytes(good)
    done = unpack(tmp_path)
    assert (done.returncode, done.stdout) == (0, "second: unpacked\n")


def unpack(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "unpack.py", str(folder / "out")]
    return subprocess.run(
        command, cwd=folder / "pieces", capture_output=True, text=True, check=False
    )


def test_the_checkout_travels_without_weights_and_pages(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout")
    sources = list(gpu_first_pack.checkout_files())
    names = {source.name for source in sources}
    assert {"source/minit2i_deploy/export", "source/tests/test_gpu.py"} <= names
    assert not any(name.startswith("source/docs/") for name in names)
    total = sum(s.path.stat().st_size for s in sources if not s.path.is_symlink())
    # Measured 9.6 MB before it is compressed.
    assert total < 15_000_000


def test_an_existing_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        gpu_first_pack.main([str(tmp_path)])
    assert refused.value.code == 2
    assert "exists; name a new folder" in capsys.readouterr().err


def test_the_list_names_every_piece(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    (piece,) = write_pieces({"only": [Source(path=path, name="f")]}, tmp_path / "p", 1000)
    listed = json.loads((tmp_path / "p" / "pieces.json").read_text())
    assert [entry["name"] for entry in listed["only"]["pieces"]] == [piece.name]
