"""Opening, verifying and writing a bundle folder, and what damage each of them finds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import add_checksum
from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import CONFIG, draft, write_bundle, write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def refuses_to_open(folder: Path, text: str) -> None:
    with pytest.raises(BundleError, match=text) as caught:
        Bundle.open(folder)
    assert "\n" not in str(caught.value)


def test_a_whole_bundle_opens_and_verifies(folder: Path) -> None:
    bundle = Bundle.open(str(folder))
    shares: list[float] = []
    bundle.verify(progress=lambda share, label="": shares.append(share))
    sizes = [path.stat().st_size for path in parts(folder) if path.name != "manifest.json"]
    assert shares[-1] == 1.0 and len(shares) == len(parts(folder)) - 1
    assert all(share * sum(sizes) == pytest.approx(round(share * sum(sizes))) for share in shares)
    assert bundle.config == CONFIG
    assert repr(bundle) == f"<Bundle {folder.resolve()}, no variant, fp32>"
    data = (folder / "manifest.json").read_bytes()
    assert bundle.digest == hashlib.sha256(data).hexdigest()


def test_its_parts(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.graph_path("text_adapter") == folder.resolve() / "text_adapter" / "model.onnx"
    table = solver_table("euler", steps=4)
    assert bundle.table("euler-4") == table
    assert bundle.preset() == bundle.preset("default") == (table, 2.5)
    assert bundle.tokenizer().encode([""])[0].ids.tolist() == [1]
    assert bundle.tokenizer().prompt_length == 12


def test_names_it_lacks_are_wrong_use(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(UsageError, match="'denoiser' is not in the bundle; it has text_adapter"):
        bundle.graph_path("denoiser")
    with pytest.raises(UsageError, match="'heun-9' is not in the bundle; it has euler-4"):
        bundle.table("heun-9")
    with pytest.raises(UsageError, match="'best' is not in the bundle; it has default"):
        bundle.preset("best")


def test_every_flipped_byte_is_detected(folder: Path) -> None:
    draw = random.Random(0)
    for path in parts(folder):
        original = path.read_bytes()
        ends = {0, len(original) - 1}
        for position in ends | {draw.randrange(len(original)) for _ in range(12)}:
            changed = bytearray(original)
            changed[position] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(BundleError) as caught:
                Bundle.open(folder).verify()
            name = path.relative_to(folder).as_posix()
            assert name in str(caught.value) and "re-run minit2i export" in str(caught.value)
        path.write_bytes(original)
    Bundle.open(folder).verify()


def test_verify_names_the_file_and_both_digests(folder: Path) -> None:
    path = folder / "transformer" / "model.onnx.data"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.write_bytes(path.read_bytes()[::-1])
    actual = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder).verify()
    assert str(caught.value) == (
        f"transformer/model.onnx.data: sha256 {actual}.. but manifest says {expected}..;"
        " re-run minit2i export"
    )


def test_verify_sees_a_manifest_changed_after_opening(folder: Path) -> None:
    bundle = Bundle.open(folder)
    write_manifest(folder, dataclasses.replace(draft(), variant="b-16"))
    with pytest.raises(BundleError, match=r"^manifest\.json: sha256"):
        bundle.verify()
    Bundle.open(folder).verify()


def test_wrong_sizes_and_missing_files_are_refused_at_open(folder: Path) -> None:
    for path in parts(folder):
        original = path.read_bytes()
        path.write_bytes(original[:-1])
        refuses_to_open(folder, path.name)
        path.write_bytes(original + b"x")
        refuses_to_open(folder, path.name)
        path.unlink()
        refuses_to_open(folder, path.name)
        path.mkdir()
        refuses_to_open(folder, path.name)
        path.rmdir()
        path.write_bytes(original)
    Bundle.open(folder)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        refuses_to_open(place, r"no bundle there \(manifest\.json is missing\)")
    with open(tmp_path / "manifest.json", "wb") as stream:
        stream.truncate(2**24 + 1)
    refuses_to_open(tmp_path, "too large for a manifest, 16777217 bytes")


def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "transformer" / "config.json"
    outside = tmp_path / "outside.json"
    shutil.move(path, outside)
    path.symlink_to(outside)
    refuses_to_open(folder, "leads out of the bundle")
    path.unlink()
    shutil.move(folder / "tables", tmp_path / "tables")
    (folder / "tables").symlink_to(tmp_path / "tables")
    shutil.move(outside, path)
    refuses_to_open(folder, "leads out of the bundle")


def hub_cache(folder: Path, root: Path, repository: str = "models--a--b") -> Path:
    """A copy of the folder as huggingface_hub stores it: links to files named by their hash."""
    blobs = root / repository / "blobs"
    snapshot = root / repository / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    for file in parts(folder):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_bundle_in_the_hubs_cache_opens(folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(folder, tmp_path)
    bundle = Bundle.open(snapshot)
    bundle.verify()
    assert bundle.digest == Bundle.open(folder).digest
    (tmp_path / "inner").mkdir()
    shutil.copytree(folder, tmp_path / "inner" / "fp32")
    nested = hub_cache(tmp_path / "inner", tmp_path, "models--a--two") / "fp32"
    Bundle.open(nested).verify()


def test_other_links_in_the_hubs_cache_are_refused(folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(folder, tmp_path)
    outside = tmp_path / "outside.json"
    outside.write_bytes((snapshot / "transformer" / "config.json").read_bytes())
    other = tmp_path / "models--a--c" / "blobs" / "x"
    other.parent.mkdir(parents=True)
    shutil.copyfile(outside, other)
    for target in (outside, other):
        link = snapshot / "transformer" / "config.json"
        link.unlink()
        link.symlink_to(target)
        refuses_to_open(snapshot, "leads out of the bundle")
    # The same tree elsewhere is no cache.
    refuses_to_open(hub_cache(folder, tmp_path, "models"), "leads out of the bundle")


def test_links_inside_the_folder_and_to_it_are_accepted(folder: Path, tmp_path: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.rename(folder / "kept.json")
    path.symlink_to(folder / "kept.json")
    (tmp_path / "link").symlink_to(folder)
    Bundle.open(tmp_path / "link").verify()


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.unlink()
    path.symlink_to(path)
    refuses_to_open(folder, "missing or unreadable")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "tables/../../secret"])
def test_a_hostile_manifest_reads_nothing_outside(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(b"12345")
    fields = json.loads((folder / "manifest.json").read_bytes())
    fields["files"][name] = {"sha256": hashlib.sha256(b"12345").hexdigest(), "bytes": 5}
    (folder / "manifest.json").write_bytes(add_checksum(fields))
    refuses_to_open(folder, "must be relative")


def test_a_corrupt_table_is_refused_when_read(tmp_path: Path) -> None:
    write_files(tmp_path / "b")
    (tmp_path / "b" / "tables" / "euler-4.json").write_text("{}", encoding="utf-8")
    write_manifest(tmp_path / "b", draft())
    with pytest.raises(BundleError, match=r"euler-4\.json: not a solver table"):
        Bundle.open(tmp_path / "b").table("euler-4")


def test_engines_and_other_files_are_not_part_of_the_promise(folder: Path) -> None:
    (folder / "engines" / "x").mkdir(parents=True)
    (folder / "engines" / "x" / "plan").write_bytes(b"x")
    before = (folder / "manifest.json").read_bytes()
    write_manifest(folder, draft())
    assert (folder / "manifest.json").read_bytes() == before
    (folder / "README.md").write_text("hello", encoding="utf-8")
    Bundle.open(folder).verify()


def test_writing_lists_every_file_with_its_hash(folder: Path) -> None:
    written = write_manifest(folder, draft())
    listed = {name: (info.sha256, info.bytes) for name, info in written.files.items()}
    assert listed == {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
        )
        for path in parts(folder)
        if path.name != "manifest.json"
    }
    assert Bundle.open(folder).manifest == written


def test_a_manifest_is_not_written_over_missing_or_odd_files(tmp_path: Path) -> None:
    target = tmp_path / "b"
    write_files(target)
    (target / "text_encoder" / "model.onnx").rename(target / "text_encoder" / "other.onnx")
    with pytest.raises(BundleError, match=r"text_encoder\.path names"):
        write_manifest(target, draft())
    (target / "text_encoder" / "other.onnx").rename(target / "text_encoder" / "model.onnx")
    (target / "a file").write_bytes(b"")
    with pytest.raises(BundleError, match="'a file' must be relative"):
        write_manifest(target, draft())
    (target / "a file").unlink()
    (target / "link").symlink_to(target / "transformer" / "config.json")
    with pytest.raises(BundleError, match="is a link or a device"):
        write_manifest(target, draft())
    (target / "link").unlink()
    os.mkfifo(target / "pipe")
    with pytest.raises(BundleError, match="is a link or a device"):
        write_manifest(target, draft())
    assert not (target / "manifest.json").exists()
