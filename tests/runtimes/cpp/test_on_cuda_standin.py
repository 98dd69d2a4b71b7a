"""The C++ client on the real CUDA provider over stand-ins for CUDA's libraries: make test-cuda."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.config import VARIANTS
from tests.helpers.cpp_bundles import edit
from tests.helpers.cpp_client import build, program
from tests.helpers.cuda_standin import cpp_threads_run
from tests.helpers.cuda_standin.bundles import BLOCKS, INT8, NETWORKS, small_bundle
from tests.helpers.cuda_standin.census import cpp_census, cpp_image_run, documented, rows_of
from tests.helpers.cuda_standin.events import captures, count
from tests.helpers.cuda_standin.standin import Run, cpp_environment, run

pytestmark = pytest.mark.cuda

ROWS: Final = 20


@pytest.fixture(autouse=True)
def _built() -> None:
    """Before any process on the stand-in, which would build there."""
    build()


@functools.cache
def guided(variant: str, precision: str) -> Run:
    return cpp_image_run(small_bundle(variant, precision), rows=ROWS)


@functools.cache
def in_turns(variant: str, precision: str) -> Run:
    return cpp_image_run(small_bundle(variant, precision), rows=8, turns=True)


def test_recorded_steps_call_nothing_that_a_capture_forbids(network: tuple[str, str]) -> None:
    done = in_turns(*network)
    # Each of two pairs of states is read, with one branch and with two; then each row by itself.
    assert len(captures(done.events)) == 4 + 8
    assert count(done.events).violations == ()
    assert all(count(step).unpinned == 0 for step in captures(done.events))


def test_calls_of_other_threads_and_recordings_keep_apart() -> None:
    """ONNX Runtime records in CUDA's global mode, in which a call of another thread ends it."""
    bundle = small_bundle("b-16", "fp16")
    done = run(cpp_threads_run.__file__, bundle, variables=cpp_environment, capture_ms=100)
    begins = [event for event in done.events if event.kind == "capture" and event.name == "begin"]
    assert len(begins) >= 2 and {event.number("mode") for event in begins} == {0}
    assert done.answer == []
    assert count(done.events).violations == ()


def test_only_int8_is_warned_of(network: tuple[str, str]) -> None:
    warnings = in_turns(*network).answer
    assert len(warnings) == (network[1] == INT8)
    assert all("provider cuda runs slower than the bundle it was made from" in x for x in warnings)


@pytest.mark.parametrize("network", [pair for pair in NETWORKS if pair[1] != "fp32"], ids="-".join)
def test_every_block_has_flash_attention(network: tuple[str, str]) -> None:
    assert cpp_census(small_bundle(*network), guided(*network)).flash == BLOCKS


def test_products_of_float32_are_not_rounded_to_tf32(network: tuple[str, str]) -> None:
    assert count(in_turns(*network).events).products > 0
    assert count(in_turns(*network).events).tf32 == 0


def test_tf32_is_there_for_those_who_ask() -> None:
    done = cpp_image_run(small_bundle("b-16", "fp16"), rows=1, images=1, precision="tf32")
    assert done.answer == []
    # The text encoder's products are those of float32.
    assert count(done.events).tf32 > 0


def test_replays_with_and_without_guidance_read_what_they_recorded(
    network: tuple[str, str],
) -> None:
    done = in_turns(*network)
    last_image = count(rows_of(done.events, image=2))
    # The first row is before the first mark.
    assert last_image.replays == 7
    assert last_image.launches == 0
    assert count(done.events).stale == 0


def test_nothing_crosses_between_rows(network: tuple[str, str]) -> None:
    """Rows and weights of the table cross with the start, the image after its last row."""
    done = guided(*network)
    last_image = count(rows_of(done.events, image=2))
    assert last_image.replays == ROWS - 1
    assert last_image.copies == {"device-to-host": 2}
    assert "Memcpy nodes are added" not in done.err


def test_a_step_costs_no_more_than_the_page_says(network: tuple[str, str]) -> None:
    """``python benchmarks/cuda_launches.py --cpp`` prints the lines of the page."""
    census = cpp_census(small_bundle(*network), guided(*network))
    blocks = VARIANTS[network[0]].depth_double
    actual = (
        census.launches_of(blocks),
        census.graph_copies_of(blocks),
        census.start_copies,
        census.row_copies,
        census.row_waits,
    )
    bounds = documented(len(actual))[network]
    assert all(now <= bound for now, bound in zip(actual, bounds, strict=True)), (actual, bounds)


def test_without_graphs_each_row_launches_its_kernels() -> None:
    done = cpp_image_run(small_bundle("b-16", "fp16"), rows=3, images=1, cuda_graph="off")
    assert captures(done.events) == [] and count(done.events).replays == 0
    rows = rows_of(done.events, image=0)
    # Of a row that is not the last one, its numbers and the weights cross.
    assert count(rows).launches > 200
    assert count(rows).copies.get("host-to-device", 0) <= 4


def test_products_on_the_cpu_are_refused(tmp_path: Path) -> None:
    """Provider cuda has no product of integers, which goes to the CPU in silence."""
    copy = Path(shutil.copytree(small_bundle("b-16", "fp16"), tmp_path / "bundle"))
    path = copy / Bundle.open(copy).manifest.graphs["text_encoder"].path
    model = onnx.load(path, load_external_data=False)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["plain" if name == output else name for name in node.output]
    one = numpy_helper.from_array(np.ones((1, 1), np.int64), "one")
    axes = numpy_helper.from_array(np.array([2], np.int64), "axes")
    model.graph.initializer.extend([one, axes])
    model.graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["input_ids", "axes"], ["column"]),
            helper.make_node("MatMul", ["column", "one"], ["product"]),
            helper.make_node("Cast", ["product"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["plain", "real"], [output]),
        ]
    )
    onnx.save(model, path)
    name = str(path.relative_to(copy))
    edit(copy, lambda fields: fields["files"][name].update(bytes=path.stat().st_size))
    done = cpp_image_run(copy, rows=1, images=1)
    reason = "provider cuda left 1 MatMul to the CPU; choose provider cpu, or a bundle of another"
    assert f"{path}: {reason}" in done.answer["error"]


@pytest.mark.parametrize("mode", ["fast", "on"])
def test_modes_are_refused_in_one_line(mode: str) -> None:
    provider = "cpu" if mode == "on" else "cuda"
    options = ("--provider", provider, "--cuda-graph", mode, "-o", "a.png")
    line = program("minit2i-generate", small_bundle("b-16", "fp16"), "a", *options, code=2)
    expected = {
        "fast": "cuda_graph is 'fast'; choose one of off, on, auto",
        "on": "provider cpu records no CUDA graph; cuda_graph on is for cuda",
    }[mode]
    assert line == f"minit2i-generate: error: {expected}\n"
