"""What the C++ client refuses: bundles and settings as Python does, each in one line."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import BundleError, RuntimeFailure
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.embed import embed
from tests.helpers.cpp_bundles import edit, one_pass_bundle, shipped_bundle, shipped_student
from tests.helpers.cpp_client import (
    BUNDLE,
    build,
    last_error,
    library,
    program,
)
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))


def move(fields: dict[str, Any], old: str, new: str) -> None:
    fields["files"][new] = fields["files"].pop(old)


def also_listed(fields: dict[str, Any], name: str) -> None:
    fields["files"][name] = fields["files"]["transformer/model.onnx"]


def set_to(*keys: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        fields[keys[-1]] = value

    return change


def after_switch(**changes: object) -> Callable[[dict[str, Any]], None]:
    """A second step graph, which is the bundle's text adapter's file."""

    def change(fields: dict[str, Any]) -> None:
        graph = fields["graphs"]["transformer"] | {"path": "text_adapter/model.onnx"}
        values = {"t": 0.5} | changes
        fields["late"] = values | {"graph": graph | values.get("graph", {})}

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": set_to("format_version", value=3),
    "version as text": set_to("format_version", value="1"),
    "version as float": set_to("format_version", value=1.0),
    "kind": set_to("kind", value="zip"),
    "unknown field": set_to("colour", value="red"),
    "missing field": lambda fields: fields.pop("checks"),
    "missing graph": lambda fields: fields["graphs"].pop("text_adapter"),
    "unknown graph field": set_to("graphs", "transformer", "gpu", value=1),
    "precision": set_to("graphs", "transformer", "precision", value="fp3"),
    "opset": set_to("graphs", "transformer", "opset", value=0),
    "dtype": set_to("graphs", "transformer", "inputs", "x", "dtype", value="float128"),
    "shape": set_to("graphs", "transformer", "inputs", "x", "shape", value=[1, -3]),
    "graph not listed": set_to("graphs", "transformer", "path", value="transformer/other.onnx"),
    "parent folder": lambda f: move(f, "transformer/model.onnx", "../model.onnx"),
    "absolute": lambda f: move(f, "transformer/model.onnx", "/model.onnx"),
    "backslash": lambda f: move(f, "transformer/model.onnx", "transformer\\model.onnx"),
    "double slash": lambda f: move(f, "transformer/model.onnx", "transformer//model.onnx"),
    "ends in a dot": lambda f: move(f, "transformer/model.onnx", "transformer/model.onnx."),
    "long path": lambda f: move(f, "transformer/model.onnx", "a/" * 120 + "b"),
    "not ASCII": lambda f: move(f, "transformer/model.onnx", "transformer/m\u00f6del.onnx"),
    "case": lambda f: also_listed(f, "Transformer/model.onnx"),
    "manifest listed": lambda f: also_listed(f, "Manifest.json"),
    "engines listed": lambda f: also_listed(f, "engines/a"),
    "size": set_to("files", "transformer/model.onnx", "bytes", value=1),
    "negative size": set_to("files", "transformer/model.onnx", "bytes", value=-1),
    "size as truth": set_to("files", "transformer/model.onnx", "bytes", value=True),
    "hash": set_to("files", "transformer/model.onnx", "sha256", value="AB" * 32),
    "preset's table": set_to("presets", "reference", "table", value="heun-3"),
    "default preset": set_to("default_preset", value="best"),
    "prompt length": set_to("tokenizer", "prompt_length", value=13),
    "tokenizer path": set_to("tokenizer", "path", value="tokeniser"),
    "noise": set_to("noise", "generator", value="mt19937"),
    "noise scale": set_to("noise", "scale", value=0),
    "rounding": set_to("flavour", "rounding", value="nearest"),
    "a_min": set_to("flavour", "a_min", value=0.0),
    "hidden size": set_to("model", "hidden_size", value=65),
    "patch size": set_to("model", "patch_size", value=7),
    "unknown size": set_to("model", "t_embedder", value=7),
    "provenance": set_to("provenance", "checkpoint_sha256", value="abc"),
    "one-pass guidance": set_to("one_pass_guidance", value=1.0),
    "one-pass guidance as text": set_to("one_pass_guidance", value="2.5"),
    "text encoder's adapter": set_to("text_encoder_lora_sha256", value="abc"),
    "adapter's hash": set_to("adapters", value=[{"sha256": "abc", "strength": 0.5}]),
    "adapter's field": set_to("adapters", value=[{"sha256": "0" * 64}]),
    "trained for one side": set_to("trained_size", value=[64]),
    "trained for three sides": set_to("trained_size", value=[64, 64, 64]),
    "trained for no pixel": set_to("trained_size", value=[64, 0]),
    "trained for floats": set_to("trained_size", value=[64.0, 64.0]),
    "sides as floats": set_to("side_bounds", value=[16.0, 64.0]),
    "sides of no pixel": set_to("side_bounds", value=[0, 64]),
    "one side": set_to("side_bounds", value=[64]),
    "three sides": set_to("side_bounds", value=[16, 32, 64]),
    "sides beside the patch": set_to("side_bounds", value=[16, 68]),
    "sides above the images": set_to("side_bounds", value=[72, 128]),
    "sides below the images": set_to("side_bounds", value=[16, 24]),
    "sides beyond 32 bits": set_to("side_bounds", value=[16, 2**31]),
    "sides beyond 64 bits": set_to("side_bounds", value=[16, 2**64]),
    "late time": after_switch(t=1.0),
    "late time as text": after_switch(t="0.5"),
    "late field": after_switch(colour="red"),
    "late graph not listed": after_switch(graph={"path": "transformer/other.onnx"}),
    "late graph is the same": after_switch(graph={"path": "transformer/model.onnx"}),
    "late graph's inputs": after_switch(graph={"inputs": {}}),
    "late is null": set_to("late", value=None),
    "padding that is none": set_to("padded_head_dim", value=16),
    "odd padding": set_to("padded_head_dim", value=57),
    "padding as text": set_to("padded_head_dim", value="64"),
    "padding is null": set_to("padded_head_dim", value=None),
    "unknown engine": set_to("only_for", value="rocm"),
    "engine is null": set_to("only_for", value=None),
    "check": set_to("checks", value=[{"name": "a"}]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_both_sides_refuse_a_manifest(copy: Path, name: str) -> None:
    edit(copy, CHANGES[name])
    with pytest.raises(BundleError):
        Bundle.open(copy)
    handle = ctypes.c_void_p()
    status = library().minit2i_open(str(copy).encode(), None, ctypes.byref(handle))
    assert status == BUNDLE and handle.value is None
    line = last_error()
    assert line.startswith(str(copy)) and len(line.splitlines()) == 1
    assert "minit2i export" in line


RAW: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "not JSON": lambda data: data[:-20],
    "a list": lambda data: b"[]",
    "doubled key": lambda data: data.replace(b'"variant"', b'"kind": "minit2i-bundle", "variant"'),
    "NaN": lambda data: data.replace(b'"scale": 2.0', b'"scale": NaN'),
    "infinity": lambda data: data.replace(b'"scale": 2.0', b'"scale": 1e999'),
    "deep": lambda data: b"[" * 100000,
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "not UTF-8": lambda data: data.replace(b'"kind"', b'"k\xffind"'),
    "edited": lambda data: data.replace(b'"scale": 2.0', b'"scale": 2.5'),
    "unsealed": lambda data: data.replace(b'"manifest_sha256": "', b'"manifest_sha256": "g'),
}


@pytest.mark.parametrize("name", RAW)
def test_both_sides_refuse_corrupt_bytes(copy: Path, name: str) -> None:
    path = copy / "manifest.json"
    data = path.read_bytes()
    path.write_bytes(RAW[name](data))
    assert path.read_bytes() != data
    with pytest.raises(BundleError):
        Bundle.open(copy)
    line = program("minit2i-embed", copy, "a", "--tokens", code=1)
    assert line.startswith(f"minit2i-embed: error: {copy}") and line.count("\n") == 1


def test_links_folders_and_missing_files(copy: Path, tmp_path: Path) -> None:
    target = copy / "transformer" / "config.json"
    outside = tmp_path / "config.json"
    target.rename(outside)
    for make, reason in (
        (lambda: None, "missing or unreadable"),
        (lambda: target.symlink_to(outside), "leads out of the bundle"),
        (lambda: target.mkdir(), "not a file"),
    ):
        make()
        with pytest.raises(BundleError, match=reason):
            Bundle.open(copy)
        assert reason in program("minit2i-embed", copy, "a", "--tokens", code=1)
        if target.is_symlink():
            target.unlink()
    nowhere = tmp_path / "nowhere"
    assert "no bundle there" in program("minit2i-embed", nowhere, "a", "--tokens", code=1)


def test_a_snapshot_in_a_hubs_cache_opens(copy: Path, tmp_path: Path) -> None:
    """A tree of links into blobs/; links to anywhere else are refused there too."""
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = blobs.parent / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    files = [path for path in copy.rglob("*") if path.is_file()]
    for index, path in enumerate(files):
        link = snapshot / path.relative_to(copy)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(path.rename(blobs / str(index)), link.parent))
    output = ("-o", tmp_path / "a.png", "--verify", "--table", "euler-20")
    program("minit2i-generate", snapshot, "a red circle", *output)
    link = snapshot / "transformer" / "config.json"
    target = link.resolve()
    target.rename(tmp_path / "config.json")
    link.unlink()
    link.symlink_to(tmp_path / "config.json")
    line = program("minit2i-embed", snapshot, "a", "--tokens", code=1)
    assert "leads out of the bundle" in line


def test_verify_finds_a_changed_byte(copy: Path, tmp_path: Path) -> None:
    path = copy / "transformer" / "config.json"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    line = program("minit2i-generate", copy, "a", "-o", tmp_path / "a.png", "--verify", code=1)
    with pytest.raises(BundleError) as error:
        Bundle.open(copy).verify()
    assert line == f"minit2i-generate: error: {error.value}\n"
    assert not (tmp_path / "a.png").exists()


WRONG_TABLES = {
    "no row": '"rows": []',
    "uneven": '"rows": [[0.0], [0.0, 1.0]]',
    "text": '"rows": [["a"]]',
    "huge": '"rows": [[0, 1e300, 0, 0, 0, 0, 1, 0, 0]]',
    "t": '"rows": [[2, 1, 0, 0, 0, 0, 1, 0, 0]]',
    "clip": '"rows": [[0, 1, 0, 0, 0, 0, 1, -1, 0]]',
    "rescale": '"rows": [[0, 1, 0, 0, 0, 0, 1, 0, 2]]',
    "noise and history": '"rows": [[0, 1, 0, 1, 1, 0, 1, 0, 0]]',
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_wrong_tables(tmp_path: Path, name: str) -> None:
    columns = '["t", "a", "b", "c", "n", "s", "share", "clip", "rescale"]'
    path = tmp_path / "table.json"
    head = f'{{"columns": {columns}, "format_version": 1, "meta": {{}}, "name": "own", '
    path.write_text(f"{head}{WRONG_TABLES[name]}}}")
    options = ("-o", tmp_path / "a.png", "--table", path)
    line = program("minit2i-generate", tiny_bundle(), "a", *options, code=2)
    assert str(path) in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "-o FILE.png is missing"),
        (["-o", "a.jpg"], "a.jpg: expected a .png file"),
        (["-o", "nowhere/a.png"], "cannot be written: No such file or directory"),
        (["-o", "a.png", "--seed", "-1"], "but an integer from 0 to 2**64 - 1 is needed"),
        (
            ["-o", "a.png", "--seed", "18446744073709551616"],
            "but an integer from 0 to 2**64 - 1 is needed",
        ),
        (["-o", "a.png", "--guidance", "nan"], "but a finite number is needed"),
        (["-o", "a.png", "--table", "heun-3"], "table 'heun-3' is not in the bundle; it has"),
        (["-o", "a.png", "--preset", "best"], "preset 'best' is not in the bundle; it has"),
        (["-o", "a.png", "--interval", "0.7,0.3"], "interval must satisfy 0 <= start <= end <= 1"),
        (["-o", "a.png", "--interval", "0.7"], "but START,END is needed"),
        (["-o", "a.png", "--noise", "none.npy"], "none.npy: cannot be read"),
        (["-o", "a.png", "--provider", "tpu"], "provider 'tpu' is unknown"),
        (["-o", "a.png", "--colour"], "option --colour is unknown"),
        (["-o"], "option -o expects a value"),
        (["-o", "a.png", "--seed", "1", "--seed=2"], "option --seed is given twice; give it once"),
        (["-o", "a.png", "--output", "b.png"], "option --output is given twice"),
        (["-o", "a.png", "--json", "--json"], "option --json is given twice"),
        (["-o", "a.png", "--also", "b:1", "--also", "c"], "but TEXT:WEIGHT is needed"),
    ],
)
def test_wrong_use_exits_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = program("minit2i-generate", tiny_bundle(), "a red circle", *options, code=2)
    assert line in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_provider_is_a_failure(tmp_path: Path) -> None:
    options = ("-o", tmp_path / "a.png", "--provider", "cuda")
    line = program("minit2i-generate", tiny_bundle(), "a", *options, code=1)
    assert "onnxruntime cannot open it on cuda" in line and line.count("\n") == 1


@pytest.mark.parametrize("graph", ["text_encoder", "transformer"])
def test_a_graph_that_gives_another_output_is_refused_as_in_python(
    tmp_path: Path, graph: str
) -> None:
    """Here the bundle's samples are changed, so that the error in the line is a measured one."""
    copy = Path(shutil.copytree(shipped_bundle("int8"), tmp_path / "bundle"))
    path = copy / "reference_outputs.json"
    samples = json.loads(path.read_text(encoding="utf-8"))
    samples[graph] = [-1.3 * value for value in samples[graph]]
    data = json.dumps(samples).encode()
    path.write_bytes(data)
    info = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(copy, lambda fields: fields["files"].update({path.name: info}))
    bundle = Bundle.open(copy)
    with open_runtime(bundle, "onnxruntime") as runtime, pytest.raises(RuntimeFailure) as error:
        generate(bundle, runtime, "a red circle")
    options = ("-o", tmp_path / "a.png")
    line = program("minit2i-generate", copy, "a red circle", *options, code=1)
    assert line == f"minit2i-generate: error: {error.value}\n"
    assert f": {graph} is broken on onnxruntime" in line and not (tmp_path / "a.png").exists()


# Between them lies a hundred kB where ONNX Runtime crashes: it frees a graph that it has half read.
KILOBYTES = (50_000, 62_000, 80_000, 120_000)


def test_a_text_encoder_that_overflows_is_refused_as_in_python(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shipped_bundle(), tmp_path / "bundle"))
    name = "text_encoder/model.onnx_data"
    data = bytearray((copy / name).read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    start, stop = header["encoder.final_layer_norm.weight"]["data_offsets"]
    data[8 + size + start : 8 + size + stop] = struct.pack("<f", math.inf) * ((stop - start) // 4)
    (copy / name).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    edit(copy, lambda fields: fields["files"][name].update(sha256=sha256))
    bundle = Bundle.open(copy)
    with open_runtime(bundle, "onnxruntime") as runtime, pytest.raises(RuntimeFailure) as error:
        embed(bundle, runtime, "a red circle")
    for program_name, file in (("minit2i-embed", "a.npz"), ("minit2i-generate", "a.png")):
        line = program(program_name, copy, "a red circle", "-o", tmp_path / file, code=1)
        assert line == f"{program_name}: error: {error.value}\n"
        assert not (tmp_path / file).exists()


@pytest.mark.parametrize("kilobytes", KILOBYTES)
def test_out_of_memory_is_one_line(tmp_path: Path, kilobytes: int) -> None:
    seeds = ",".join(map(str, range(3000)))
    command = (build() / "minit2i-generate", tiny_bundle(), "a", "--seed", seeds, "--threads", "1",
               "-o", tmp_path / "a.png")  # fmt: skip
    quoted = " ".join(f"'{argument}'" for argument in command)
    # The limit takes hold at the allocation that passes it: the loader's, the graph's, the batch's.
    shell = f"ulimit -v {kilobytes}; exec {quoted}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "out of memory" in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_one_pass_guidance_knows_one_scale_and_one_branch(tmp_path: Path) -> None:
    output = ("-o", tmp_path / "a.png")
    rescaled = tmp_path / "rescaled.json"
    solver_table("euler", steps=2, interval=(1.0, 1.0), rescale=0.5).save(rescaled)
    for options, text in (
        (("--preset", "fast", "--guidance", "4"), ", got 4.0; omit it"),
        (("--preset", "fast", "--negative", "b"), "has no branch for a negative prompt"),
        (("--table", "euler-20"), "but table euler-20 runs a second branch"),
        (("--preset", "fast", "--interval", "0.2,0.6"), "(one-pass adapter); omit the interval"),
        (("--preset", "fast", "--interval", "1,1"), "(one-pass adapter); omit the interval"),
        (("--table", rescaled), "has guidance rescale"),
    ):
        line = program("minit2i-generate", one_pass_bundle(), "a", *output, *options, code=2)
        assert "guidance 2.5 is part of the weights of" in line and text in line
    assert not (tmp_path / "a.png").exists()


def test_tables_must_fit_the_model(tmp_path: Path) -> None:
    options: tuple[object, ...] = ("-o", tmp_path / "a.png", "--negative", "b")
    line = program("minit2i-generate", shipped_student(), "a", *options, code=2)
    assert "takes no negative prompt" in line
    solver_table("euler", steps=2).save(tmp_path / "base.json")
    options = ("-o", tmp_path / "a.png", "--table", tmp_path / "base.json")
    line = program("minit2i-generate", shipped_student(), "a", *options, code=2)
    assert "take a table that holds its conditions" in line
    line = program("minit2i-generate", shipped_student(), "a", "-o", tmp_path / "a.png",
                   "--guidance", "0.5", code=2)  # fmt: skip
    assert "a student takes 1 (none) or more" in line
