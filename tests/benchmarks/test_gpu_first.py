"""benchmarks/gpu_first.py rehearsed on the CPU: every part, failures of parts, and the budget."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_first
from benchmarks.first_half_hour import device_parts, onnxruntime_parts
from benchmarks.first_half_hour.figures import append, read_lines
from benchmarks.first_half_hour.plan import PARTS, Task, find_part, make_plan
from benchmarks.first_half_hour.stripped_bundle import data_files, fill, strip
from minit2i_deploy.bundle.bundle import Bundle
from tests.helpers.tiny_bundle import tiny_bundle


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one stripped bundle."""
    folder = tmp_path_factory.mktemp("skeletons")
    strip(tiny_bundle(), folder / "1-tiny")
    return folder


def options(folder: Path, bundles: Path, *arguments: str) -> argparse.Namespace:
    return gpu_first.parse([str(bundles), "-o", str(folder / "f.jsonl"), "--rehearse", *arguments])


def here(task: Task, seconds: float, chosen: argparse.Namespace) -> tuple[int, str]:
    """A part in this process, which saves the start of another."""
    find_part(task.part)(gpu_first.context_of(chosen, task.part, task.bundle))
    return 0, ""


def test_every_part_is_rehearsed(
    skeletons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compiling twice more shows nothing new, and a pytest in a process of its own takes seconds.
    monkeypatch.setattr(onnxruntime_parts, "GPU_TESTS", ("--version",))
    chosen = options(tmp_path, skeletons)
    gpu_first.run_plan(chosen, here)
    lines = read_lines(chosen.output)
    assert [line["ended"] for line in lines if "ended" in line] == [
        task.name for task in make_plan(["1-tiny"])
    ]
    assert {task.part for task in make_plan(["1-tiny"])} == set(PARTS)
    figures = {(line["part"], line["figure"]): line["value"] for line in lines if "figure" in line}
    failed = {
        key for key, value in figures.items() if isinstance(value, dict) and "failed" in value
    }
    # The CPU has neither of these back ends.
    assert {name.rpartition(" ")[2] for _, name in failed} <= {
        "cudnn_attention",
        "efficient_attention",
    }
    # Measured 3e-7 and less.
    assert figures["plain 1-tiny", "plain"]["difference"] <= 1e-5
    assert figures["one-graph 1-tiny", "default"]["difference"] <= 1e-5
    assert figures["encoder 1-tiny", "difference"] <= 1e-5
    assert figures["recorded 1-tiny", "recorded"]["batch 4"]["finite"]


def test_a_part_that_ends_badly_costs_itself_alone(
    skeletons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In processes: one part whose bundle has no weights, one that is right."""
    chosen = options(tmp_path, skeletons, "--only", "machine", "--only", "fill")
    shutil.copytree(skeletons, tmp_path / "broken")
    (spec,) = data_files(tmp_path / "broken" / "1-tiny" / "transformer", ".json")
    spec.write_text("{")
    chosen.bundles = tmp_path / "broken"
    gpu_first.run_plan(chosen)
    lines = read_lines(chosen.output)
    ended = {line["ended"]: line for line in lines if "ended" in line}
    assert ended["machine"]["exit"] == ended["fill 1-tiny"]["exit"] == 0
    (failure,) = [line["value"] for line in lines if line.get("part") == "fill 1-tiny"]
    assert failure["failed"].startswith("JSONDecodeError: ")
    assert "machine: done" in capsys.readouterr().out


def test_a_part_that_hangs_or_crashes_is_ended_and_named(
    skeletons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(tmp_path, skeletons)
    chosen.work.mkdir()
    for number, (body, expected) in enumerate(
        (("import time; time.sleep(60)", (124, "ended after 1 s")),
         ("import os; os.write(1, b'loaded\\n'); os.abort()", (-6, "SIGABRT after: loaded")))
    ):  # fmt: skip
        script = tmp_path / f"part{number}.py"
        script.write_text(body)
        monkeypatch.setattr(gpu_first, "__file__", str(script))
        assert gpu_first.launch_process(Task(part="machine", limit_s=1), 1.0, chosen) == expected


def test_what_has_ended_is_not_run_again_and_time_is_kept(skeletons: Path, tmp_path: Path) -> None:
    chosen = options(tmp_path, skeletons, "--budget", "0.5")
    append(chosen.output, {"ended": "machine", "exit": 0})
    started = []

    def slow(task: Task, seconds: float, _: argparse.Namespace) -> tuple[int, str]:
        started.append((task.name, seconds))
        return 0, ""

    gpu_first.run_plan(chosen, slow)
    assert started[0][0] == "products"
    assert all(seconds <= 30 for _, seconds in started)
    chosen.budget = 0.2
    chosen.output.unlink()
    gpu_first.run_plan(chosen, lambda *_: pytest.fail("there is no time"))
    assert {line["reason"] for line in read_lines(chosen.output)} == {"no time left"}


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    append(path, {"ended": "machine"})
    with path.open("a") as file:
        file.write('{"ended": "prod')
    assert [line["ended"] for line in read_lines(path)] == ["machine"]


def test_weights_come_back_from_a_seed(tmp_path: Path) -> None:
    strip(tiny_bundle(), tmp_path / "a")
    size = sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert size < 500_000
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fill(tmp_path / "a") == fill(tmp_path / "b") > 1_000_000
    assert fill(tmp_path / "a") == 0
    for data in data_files(tmp_path / "a"):
        other = tmp_path / "b" / data.relative_to(tmp_path / "a")
        original = tiny_bundle() / data.relative_to(tmp_path / "a")
        assert data.read_bytes() == other.read_bytes()
        assert len(data.read_bytes()) == original.stat().st_size
    Bundle.open(tmp_path / "a")


def test_constants_are_not_made_again(tmp_path: Path) -> None:
    strip(tiny_bundle(), tmp_path / "a")
    fill(tmp_path / "a")
    original, refilled = (
        _tensors(*data_files(folder / "transformer")) for folder in (tiny_bundle(), tmp_path / "a")
    )
    constants = [key for key in original if key.startswith("_constant.")]
    assert constants
    assert all(np.array_equal(original[key], refilled[key]) for key in constants)
    weight = "final_layer.linear.weight"
    assert not np.array_equal(original[weight], refilled[weight])


def test_shapes_of_the_products_are_those_of_the_network() -> None:
    """Of B/16 at 512 px: 1024 image and 256 text tokens, two branches."""
    assert {rows for rows, *_ in device_parts.PRODUCTS[:-1]} == {2 * 1024, 2 * 256}
    assert {width for _, width in device_parts.HEADS} == {64, 52, 56}


def _tensors(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    base = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:base])
    header.pop("__metadata__")
    return {
        name: np.frombuffer(
            data[base + tensor["data_offsets"][0] : base + tensor["data_offsets"][1]], np.uint8
        )
        for name, tensor in header.items()
    }
