"""What is said of errors of ONNX Runtime: one line, in plain words where memory or CUDA fails."""

from __future__ import annotations

import pytest

from minit2i_deploy.runtimes.onnxruntime.trajectory import first_line

# As onnxruntime-gpu 1.31.1 says it.
MEMORY = (
    "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime_src/onnxruntime/"
    "core/framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool,"
    " onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 11534336\n"
)
CAPTURE = (
    "[ONNXRuntimeError] : 11 : EP_FAIL : std::conditional_t<THRW, void, Status> CudaCall(ERRTYPE) "
    "CUDA failure 901: operation failed due to a previous error during capture ; GPU=0 ; "
    "hostname=h ; file=cuda_graph.cc ; line=61 ; expr=cudaStreamEndCapture(stream_, &graph);"
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (MEMORY, "out of memory, 12 MB more were needed; use a smaller batch, or free some"),
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
