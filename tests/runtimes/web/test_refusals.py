"""What the JavaScript module refuses: bundles, files and settings, each in one readable line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import write_bundle
from tests.helpers.cpp_bundles import edit, one_pass_bundle, shipped_bundle, shipped_student
from tests.helpers.web_client import Case, case, node, run_cases
from tests.runtimes.cpp.test_refusals import CHANGES

pytestmark = pytest.mark.web

NODE = "onnxruntime-web"


def errors(cases: list[Case]) -> list[tuple[str, str]]:
    """Name and line of each error; a case without one has two empty texts."""
    found = [result.get("error", {}) for result in run_cases(NODE, cases)]
    return [(error.get("name", ""), error.get("message", "")) for error in found]


def _linked(folder: Path) -> Path:
    """The shipped bundle with a manifest of its own."""
    shutil.copytree(shipped_bundle(), folder, copy_function=os.symlink)
    (folder / "manifest.json").unlink()
    shutil.copy(shipped_bundle() / "manifest.json", folder)
    return folder


def test_manifests_that_python_refuses(tmp_path: Path) -> None:
    folders = {name: tmp_path / str(index) for index, name in enumerate(CHANGES)}
    for name, folder in folders.items():
        edit(_linked(folder), CHANGES[name])
    _linked(tmp_path / "good")
    *refused, good = errors(
        [case("verify", path) for path in (*folders.values(), tmp_path / "good")]
    )
    assert good == ("", "")
    for name, (kind, line) in zip(folders, refused, strict=True):
        assert kind == "BundleError" and line.startswith(str(folders[name])), (name, kind, line)
        assert len(line.splitlines()) == 1 and "minit2i export" in line, name


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: missing; name a"),
    "edited manifest": (lambda f: _flip(f / "manifest.json"), "manifest.json: "),
    "not JSON": (lambda f: (f / "manifest.json").write_text("hello"), "expected a value at line 1"),
    "flipped byte": (
        lambda f: _flip(f / "transformer" / "model.onnx"), "model.onnx: sha256 ",
    ),
    "missing file": (
        lambda f: (f / "transformer" / "model.onnx.data").unlink(), "model.onnx.data: missing",
    ),
    "cut file": (
        lambda f: (f / "transformer" / "model.onnx").write_bytes(b"x"),
        "model.onnx: 1 bytes but manifest says ",
    ),
}  # fmt: skip


def test_corrupt_folders(tmp_path: Path) -> None:
    for index, (change, _) in enumerate(DAMAGE.values()):
        change(write_bundle(tmp_path / str(index)))
    found = errors([case("verify", tmp_path / str(index)) for index in range(len(DAMAGE))])
    for (name, (_, text)), (kind, line) in zip(DAMAGE.items(), found, strict=True):
        assert kind == "BundleError" and text in line, (name, line)
        assert len(line.splitlines()) == 1


def test_settings() -> None:
    base, student, one_pass = shipped_bundle(), shipped_student(), one_pass_bundle()
    rescaled = solver_table("euler", steps=2, interval=(1.0, 1.0), rescale=0.5)
    table = json.dumps({"columns": [], "format_version": 1, "meta": {}, "name": "a", "rows": [[]]})
    expected = {
        "table 'x' is not in the bundle; it has ab2-20,": (base, {"table": "x"}),
        "preset 'x' is not in the bundle; it has ": (base, {"preset": "x"}),
        "seed must be an integer from 0 to 2**64 - 1": (base, {"seed": "-1"}),
        "seed must be an integer from 0 to 2**64 - 1 (a": (base, {"seed": str(2**64)}),
        "expected one seed, or one for each of 1 prompts, got 2": (base, {"seed": ["1", "2"]}),
        "guidance must be a number, got string": (base, {"guidance": "2"}),
        "guidance must be finite in float32, got 1e+39": (base, {"guidance": 1e39}),
        "negative must be a string, got number": (base, {"negative": 3}),
        "interval must satisfy 0 <= start <= end <= 1, got 0.7, 0.3": (
            base, {"interval": [0.7, 0.3]},
        ),
        "takes no interval": (student, {"interval": [0.3, 0.7]}),
        "takes no negative prompt; omit it": (student, {"negative": "a"}),
        "guidance of a student must be at least 1 (none) and a float32, got 0.5": (
            student, {"guidance": 0.5},
        ),
        "(one-pass adapter), got 4; omit it": (one_pass, {"preset": "fast", "guidance": 4}),
        "has no branch for a negative prompt": (one_pass, {"preset": "fast", "negative": "a"}),
        "but table euler-20 runs a second branch": (one_pass, {"table": "euler-20"}),
        "(one-pass adapter); omit the interval": (
            one_pass, {"preset": "fast", "interval": [0.2, 0.6]},
        ),
        "one-pass adapter); omit the interval": (
            one_pass, {"preset": "fast", "interval": [1.0, 1.0]},
        ),
        "has guidance rescale, which compares two": (one_pass, {"tableJson": rescaled.to_json()}),
        "noise must be a Float32Array of 12288 unit normal values, [1, 3, 64, 64], got 1": (
            base, {"noise": "AAAAAA=="},
        ),
        "not a solver table: table a has columns": (base, {"tableJson": table}),
    }  # fmt: skip
    cases = [case("generate", path, ["a"], options) for path, options in expected.values()]
    for (text, _), (kind, line) in zip(expected.items(), errors(cases), strict=True):
        assert kind == "UsageError" and text in line, (text, kind, line)


def test_prompts() -> None:
    expected = {
        "expected at least one prompt": [],
        "a mix must be pairs of a text and a number": [[]],
        "mix weights must be finite numbers whose sum is not 0, got 1, -1": [[["a", 1], ["b", -1]]],
        "prompt 1 has weights 0.25,0.75, but prompt 0 has 0.5,0.5": [
            [["a", 1], ["b", 1]], [["a", 1], ["b", 3]],
        ],
    }  # fmt: skip
    cases = [case("generate", shipped_bundle(), prompts, {}) for prompts in expected.values()]
    for (text, _), (kind, line) in zip(expected.items(), errors(cases), strict=True):
        assert kind == "UsageError" and text in line, (text, kind, line)


@pytest.mark.parametrize("precision", ["bf16", "mxfp8", "fp4"])
def test_graphs_that_the_engine_refuses(tmp_path: Path, precision: str) -> None:
    def as_other(fields: dict[str, object]) -> None:
        fields["graphs"]["transformer"]["precision"] = precision  # type: ignore[index]

    no_graphs = write_bundle(tmp_path / "none")
    edit(_linked(tmp_path / "bf16"), as_other)
    edit(_linked(tmp_path / "cuda"), lambda fields: fields.update(only_for="cuda"))
    places = (no_graphs, tmp_path / "bf16", tmp_path / "cuda")
    names, lines = zip(*errors([case("embed", path, ["a"]) for path in places]), strict=True)
    assert set(names) == {"RuntimeFailure"}
    first_line, second_line, third_line = lines
    assert "is for provider cuda of onnxruntime alone (export --for cuda), so wasm" in third_line
    assert "text_encoder/model.onnx: onnxruntime cannot open it: " in first_line
    reason = "which ONNX Runtime has no kernels for here"
    assert f"graph transformer is {precision}, {reason}" in second_line


def test_what_servers_do_wrong() -> None:
    """A web page for any address, a broken connection, a missing file, no server."""
    assert node("source_test.mjs", str(shipped_student())) == ""


def test_a_gpu_is_requested_once_for_all_graphs() -> None:
    assert node("engine_test.mjs") == ""


def test_where_memory_runs_out() -> None:
    """An error that says so, and what the browser has stored stays."""
    assert node("memory_test.mjs", str(shipped_student())) == ""
