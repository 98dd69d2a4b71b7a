"""The log of the stand-in for CUDA, counted: no library is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.cuda_standin.events import captures, count, read_events, sections

LOG = """mark open
launch _ZN4ort0_10CastKernelIfEEvPT_l grid=1,1,1 block=256,1,1 captured=0
copy waiting kind=host-to-device bytes=24 pinned=0 captured=0
wait stream
mark image 0 row 0
capture begin
launch _Z11flash_fwd_kernelv grid=4,1,1 block=256,1,1 captured=1
product cublasGemmEx m=2 n=3 k=4 type=2 compute=68 math=3 captured=1
copy queued kind=host-to-device bytes=8 pinned=0 captured=1
violation cudaMalloc
capture end nodes=3 valid=0
replay graph=1 host_copies=1 stale=1
mark open
fill bytes=4 captured=0
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text(LOG)
    return path


def test_every_kind_of_call_is_counted(log: Path) -> None:
    parts = sections(read_events(log))
    assert list(parts) == ["", "open", "image 0 row 0"]
    opening = count(parts["open"])
    assert (opening.launches, opening.fills, opening.waits) == (1, 1, 2)
    assert opening.copies == {"host-to-device": 1}
    row = count(parts["image 0 row 0"])
    assert (row.launches, row.products, row.tf32, row.unpinned) == (2, 1, 1, 1)
    assert (row.replays, row.stale, row.violations) == (1, 1, ("cudaMalloc",))
    assert row.kernels_with("flash_fwd") == 1


def test_a_capture_is_what_lies_between_its_ends(log: Path) -> None:
    (capture,) = captures(read_events(log))
    assert [event.kind for event in capture] == ["launch", "product", "copy", "violation"]
