"""What making a bundle may replace: a bundle, and never what it is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from minit2i_deploy.bundle.folder import bundle_folder, require_bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_directory, only_with
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import text_folder, tiny_bundle


def folder_of_images(folder: Path) -> Path:
    """A folder that took somebody years."""
    folder.mkdir()
    (folder / "a.png").write_bytes(b"image")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "manifest", [None, b"{", b"[]", b'{"kind": "another"}', b'"minit2i-bundle"', b"\xff"]
)
def test_what_is_no_bundle_stays(tmp_path: Path, manifest: bytes | None) -> None:
    there = folder_of_images(tmp_path / "pics")
    if manifest is not None:
        (there / "manifest.json").write_bytes(manifest)
    before = names(there)
    with (
        pytest.raises(UsageError, match=r"pics: exists and is not a bundle, so it is not replaced"),
        bundle_folder(there, overwrite=True),
    ):
        pytest.fail("the work began")
    assert names(there) == before and names(tmp_path) == ["pics"]


def test_a_bundle_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    corrupt = folder_of_images(tmp_path / "corrupt")
    (corrupt / "manifest.json").write_bytes(b'{"kind": "minit2i-bundle", "format_version": 99}')
    for place in (write_bundle(tmp_path / "b"), tmp_path / "empty", corrupt):
        with bundle_folder(place, overwrite=True) as folder:
            (folder / "new").write_bytes(b"")
        assert names(place) == ["new"]
    with pytest.raises(UsageError, match="is not empty"), bundle_folder(tmp_path / "b"):
        pass


def test_what_came_during_the_work_stays(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with (
        pytest.raises(UsageError, match="exists and is not a bundle"),
        bundle_folder(place, overwrite=True) as folder,
    ):
        (folder / "new").write_bytes(b"")
        folder_of_images(place)
    assert names(place) == ["a.png"] and names(tmp_path) == ["out"]


def test_the_output_is_apart_from_its_sources(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "all" / "b")
    (tmp_path / "link").symlink_to(source)
    wrong = {
        source: "the bundle is made from this path",
        tmp_path / "link": "the bundle is made from this path",
        source / "tables" / "..": "the bundle is made from this path",
        tmp_path / "all": "contains .*b, which the bundle is made from",
        source / "new": "is inside .*b, which the bundle is made from",
    }
    for place, message in wrong.items():
        with (
            pytest.raises(UsageError, match=message),
            bundle_folder(place, overwrite=True, sources=(None, source)),
        ):
            pytest.fail("the work began")
    require_bundle(source)
    # A checkpoint is not a bundle, so a bundle may be in its folder.
    run_folder = folder_of_images(tmp_path / "run")
    with bundle_folder(run_folder / "bundle", sources=(run_folder, tmp_path / "none")):
        pass


def test_a_folder_is_replaced_only_with_its_mark(tmp_path: Path) -> None:
    there = folder_of_images(tmp_path / "pics")
    check = only_with("adapter.json")
    with (
        pytest.raises(UsageError, match=r"pics: holds no adapter\.json, so it is not replaced"),
        atomic_directory(there, overwrite=True, check=check),
    ):
        pass
    (there / "adapter.json").write_bytes(b"{}")
    with atomic_directory(there, overwrite=True, check=check):
        pass
    assert names(there) == []


def test_quantize_refuses_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, options = (
        folder_of_images(tmp_path / "pics"),
        ("--scheme", "int8-weights", "--overwrite"),
    )
    done = run(capsys, "quantize", tiny_bundle(), there, *options)
    assert (done.code, "pics: exists and is not a bundle" in done.error) == (2, True)
    assert names(there) == ["a.png"]
    before = (tiny_bundle() / "manifest.json").read_bytes()
    for switch in ((), ("--switch-at", "0.5")):
        done = run(capsys, "quantize", tiny_bundle(), tiny_bundle(), *options, *switch)
        assert (done.code, "the bundle is made from this path" in done.error) == (2, True)
    assert (tiny_bundle() / "manifest.json").read_bytes() == before


def test_export_and_refit_refuse_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = folder_of_images(tmp_path / "pics")
    options = ("--text-encoder", text_folder(), "--overwrite")
    done = run(capsys, "export", there, there, *options)
    assert (done.code, "the bundle is made from this path" in done.error) == (2, True)
    done = run(capsys, "export", tmp_path / "none", there, *options)
    assert (done.code, "pics: exists and is not a bundle" in done.error) == (2, True)
    (tmp_path / "weights").mkdir()
    refit = ("refit", tiny_bundle(), "--lora", tmp_path / "weights", "--engine", "tensorrt-rtx")
    for place, message in (
        (there, "is not a bundle"),
        (tiny_bundle(), "the bundle is made from this"),
    ):
        done = run(capsys, *refit, "-o", place, "--overwrite")
        assert (done.code, message in done.error) == (2, True)
    assert names(there) == ["a.png"]


@pytest.mark.filterwarnings("default")
def test_a_quantized_bundle_is_not_refitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantized = run(capsys, "quantize", tiny_bundle(), tmp_path / "q", "--scheme", "int8-weights")
    assert quantized.code == 0, quantized.err
    options = ("--lora", tmp_path / "none", "-o", tmp_path / "o", "--engine", "tensorrt-rtx")
    done = run(capsys, "refit", tmp_path / "q", *options)
    assert done.code == 2
    assert "is quantized (int8-weights), so its weights cannot be replaced" in done.error
