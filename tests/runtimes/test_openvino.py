"""The openvino runtime against onnxruntime, where the library is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.evaluation.relative_error import max_relative_error
from minit2i_deploy.generate import generate
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.embed import embed
from tests.helpers.tiny_bundle import tiny_bundle

pytest.importorskip("openvino")
PROMPTS = ["a red circle", "green", ""]
TABLE = solver_table("heun", steps=6)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle())


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Iterator[Runtime]:
    with open_runtime(bundle, "onnxruntime", threads=1) as runtime:
        yield runtime


# Measured: fp32 4.0e-7 and 7.2e-7; bf16 4.9e-3 and 1.2e-2.
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 5e-2)])
def test_embeddings_and_images_agree(
    bundle: Bundle, reference: Runtime, precision: str, bound: float
) -> None:
    try:
        opened = open_runtime(bundle, "openvino", precision=precision, threads=1)
    except UsageError as error:
        # A processor without bf16 must refuse it in one line, and that is then what is tested.
        assert precision == "bf16" and "not offered by this processor" in str(error)
        return
    with opened as runtime:
        actual, expected = (embed(bundle, r, PROMPTS).values for r in (runtime, reference))
        assert max_relative_error(actual, expected) <= bound
        images = [
            generate(bundle, r, PROMPTS, seed=[1, 2, 3], table=TABLE).x
            for r in (runtime, reference)
        ]
        assert max_relative_error(*images) <= bound
        state = runtime.start(images[0], np.zeros((1, 3, 12, 64), np.float32))
        first = state.state()
        state.step(TABLE.steps()[0])
        assert np.array_equal(first[0], images[0]) and not first[1].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"precision": "int8"}, "choose one of fp32, bf16"), ({"threads": -1}, "got -1")],
)
def test_wrong_options_are_refused(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_runtime(bundle, "openvino", **options)


def test_an_empty_output_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_runtime(bundle, "openvino") as runtime:
        monkeypatch.setattr(
            runtime, "_compiled", lambda graph: lambda inputs: [np.zeros((0, 0, 8), np.float32)]
        )
        with pytest.raises(
            RuntimeFailure, match=r"empty output of text_encoder; unset ONEDNN_MAX_CPU_ISA"
        ):
            embed(bundle, runtime, "a red circle")


def test_engine_errors_are_one_line(bundle: Bundle) -> None:
    with open_runtime(bundle, "openvino", threads=1) as runtime:
        state = runtime.start(np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 1, 12, 63), "f4"))
        with pytest.raises(RuntimeFailure, match="openvino failed in transformer: ") as caught:
            state.step(TABLE.steps()[0])
        assert "\n" not in str(caught.value)


SIGNALLED = """
import ctypes, signal, sys
from pathlib import Path
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime

stack = (ctypes.c_size_t * 3)()
def signal_stack():
    assert ctypes.CDLL(None).sigaltstack(None, stack) == 0
    return list(stack)

before = signal_stack()
bundle = Bundle.open(Path(sys.argv[1]))
with open_runtime(bundle, "openvino", threads=1) as runtime:
    generate(bundle, runtime, "red", table=bundle.table("euler-20"), guidance=1.0)
assert signal_stack() == before, (before, signal_stack())
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


def test_signals_are_still_handled_where_they_were() -> None:
    # OpenVINO leaves a stack for them that it unmaps later; Ctrl-C then ends in a crash.
    command = [sys.executable, "-c", SIGNALLED, str(tiny_bundle())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
