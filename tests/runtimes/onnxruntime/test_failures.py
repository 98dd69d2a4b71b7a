"""What is said of errors of ONNX Runtime: one line, in plain words where memory or CUDA fails."""

from __future__ import annotations

import pytest

from minit2i_deploy.runtimes.onnxruntime.trajectory import first_line
from tests.helpers.fakes.fake_onnxruntime import OUT_OF_MEMORY

CAPTURE = (
    "[ONNXRuntimeError] : 11 : EP_FAIL : std::conditional_t<THRW, void, Status> CudaCall(ERRTYPE) "
    "CUDA failure 901: operation failed due to a previous error during capture ; GPU=0 ; "
    "hostname=h ; file=cuda_graph.cc ; line=61 ; expr=cudaStreamEndCapture(stream_, &graph);"
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (OUT_OF_MEMORY, "out of memory, 12 MB more were needed; use a smaller batch, or free some"),
        (CAPTURE, "CUDA failure 901: operation failed due to a previous error during capture"),
        (
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; file=x.cc ; line=9 ; expr=f();",
            "CUDA failure 2: out of memory; use a smaller batch, or free some",
        ),
        ("CUBLAS failure 15: not supported; GPU=0", "CUBLAS failure 15: not supported"),
        ("first\nsecond", "first"),
        ("", "RuntimeError"),
        ("Failed to build: " + "{}" * 500, "Failed to build: " + "{}" * 191 + "{ ..."),
    ],
)
def test_the_reason_in_one_line(message: str, expected: str) -> None:
    assert first_line(RuntimeError(message)) == expected
