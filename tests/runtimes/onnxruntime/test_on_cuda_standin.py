"""The real CUDA provider over stand-ins for CUDA's libraries: make test-cuda."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from minit2i_deploy.config import VARIANTS
from minit2i_deploy.demo.ready import ready_bundle
from tests.helpers.cuda_standin import threads_run
from tests.helpers.cuda_standin.bundles import BLOCKS, NETWORKS, small_bundle
from tests.helpers.cuda_standin.census import FUSED, documented, image_run, rows_of, take_census
from tests.helpers.cuda_standin.events import captures, count, sections
from tests.helpers.cuda_standin.standin import ROOT, Run, run

pytestmark = pytest.mark.cuda

# What ONNX Runtime computes on the CPU anyway: sizes for other nodes, eight bytes each.
SHAPE_NODES: Final = {"Cast", "Concat", "Gather", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
MAX_SHAPE_NODES: Final = 8
# cudaStreamCaptureModeGlobal.
CAPTURE_MODE_GLOBAL: Final = 0


@functools.cache
def rows_in_turns(variant: str, precision: str) -> Run:
    """Two images of eight rows, with guidance and without it in turns."""
    return image_run(small_bundle(variant, precision), rows=8, turns=True)


def test_the_gpu_computes_everything_but_sizes(network: tuple[str, str]) -> None:
    done = rows_in_turns(*network)
    assert set(done.answer) == {"text_encoder", "text_adapter", "transformer"}
    for graph, placement in done.answer.items():
        elsewhere: Counter[str] = Counter()
        for provider, operators in placement.items():
            if provider != "CUDAExecutionProvider":
                elsewhere.update(operators)
        assert set(elsewhere) <= SHAPE_NODES, graph
        assert sum(elsewhere.values()) <= MAX_SHAPE_NODES, graph
    assert "Memcpy nodes are added" not in done.err


@pytest.mark.parametrize("network", [pair for pair in NETWORKS if pair[1] != "fp32"], ids="-".join)
def test_every_block_has_flash_attention(network: tuple[str, str]) -> None:
    (first, *_) = captures(rows_in_turns(*network).events)
    assert sum(map(count(first).kernels_with, FUSED)) == BLOCKS


def test_norms_of_a_residual_sum_add_up_in_float32() -> None:
    """Their epsilon had the graph's type as long as the sum had it (onnxruntime #28682)."""
    (first, *_) = captures(rows_in_turns("b-16", "fp16").events)
    norms = {event.name for event in first if "SkipLayerNormKernel" in event.name}
    # The second form is a name that nothing has written in full.
    assert norms and all(re.search(r", float, int, int\)$|fii$", name) for name in norms), norms


def test_recorded_steps_call_nothing_that_a_capture_forbids(network: tuple[str, str]) -> None:
    done = rows_in_turns(*network)
    # Each of two pairs of states is read, with one branch and with two; then each row by itself.
    assert len(captures(done.events)) == 4 + 8
    assert count(done.events).violations == ()
    assert all(count(step).unpinned == 0 for step in captures(done.events))


@pytest.mark.parametrize("gated", [True, False])
def test_calls_of_other_threads_and_recordings_keep_apart(gated: bool) -> None:
    """ONNX Runtime records in the mode in which both fail; without the gate they do here."""
    done = run(threads_run.__file__, small_bundle("b-16", "fp16"), gated, capture_ms=100)
    begins = [event for event in done.events if event.kind == "capture" and event.name == "begin"]
    assert {event.number("mode") for event in begins} == {CAPTURE_MODE_GLOBAL}
    if gated:
        assert done.answer == [] and count(done.events).violations == ()
        # Of the first image; and each row of the second one by itself.
        assert len(begins) == 4 + 6
    else:
        assert count(done.events).violations
        assert any("running without CUDA graphs" in line for line in done.answer)


def test_replays_with_and_without_guidance_read_what_they_recorded(
    network: tuple[str, str],
) -> None:
    done = rows_in_turns(*network)
    last_image = count(rows_of(done.events, image=2))
    assert last_image.replays == 8
    assert last_image.launches == 0
    assert count(done.events).stale == 0


def test_a_step_costs_no_more_than_the_page_says(network: tuple[str, str]) -> None:
    """``python benchmarks/cuda_launches.py`` prints the lines of the page."""
    census = take_census(small_bundle(*network))
    blocks = VARIANTS[network[0]].depth_double
    actual = (
        census.launches_of(blocks),
        census.graph_copies_of(blocks),
        census.image_copies_of(blocks),
        census.image_waits,
    )
    bounds = documented(len(actual))[network]
    assert all(now <= bound for now, bound in zip(actual, bounds, strict=True)), (actual, bounds)


def test_products_of_float32_are_not_rounded_to_tf32(network: tuple[str, str]) -> None:
    done = rows_in_turns(*network)
    assert count(done.events).products > 0
    assert count(done.events).tf32 == 0


def test_tf32_is_there_for_those_who_ask() -> None:
    done = image_run(small_bundle("b-16", "fp16"), rows=1, images=1, tf32=True)
    encoder = count(sections(done.events)["encode"])
    assert encoder.tf32 == encoder.products > 0


def test_marks_divide_the_log() -> None:
    parts = sections(rows_in_turns("b-16", "fp16").events)
    assert {"open", "encode", "adapt", "start", "read", "close"} <= set(parts)
    assert count(parts["encode"]).products > 0


def test_int8_starts_more_kernels_than_its_source_and_says_so(tmp_path: Path) -> None:
    """What the warning on provider cuda rests on; measured 409 and 312 launches."""
    source = ready_bundle("demo", tmp_path)
    command = [sys.executable, "-m", "minit2i_deploy", "quantize", source, tmp_path / "int8"]
    subprocess.run([*map(str, command), "--scheme", "int8"], cwd=ROOT, check=True)
    runs = {path: image_run(path, rows=2, images=1) for path in (source, tmp_path / "int8")}
    counts = [count(captures(done.events)[0]) for done in runs.values()]
    assert counts[1].launches > counts[0].launches
    assert counts[1].kernels_with("Quantize") > 0 == counts[0].kernels_with("Quantize")
    assert "runs slower than the bundle it was made from" in runs[tmp_path / "int8"].err
    assert all(done.code == 0 and "Memcpy" not in done.err for done in runs.values())
