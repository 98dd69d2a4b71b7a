"""Scheme int8-openvino in OpenVINO: what it multiplies in, the values, and refusals."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.export.quantize import QuantizeOptions, quantize_bundle
from minit2i_deploy.export.quantize.schemes import SCHEMES
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.runtimes import open_runtime, openvino
from minit2i_deploy.runtimes.int8_probe import STATIC
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.text.embed import embed
from tests.helpers.quantize_runs import (
    estimates,
    l2_error,
    ranges,
    source,
    states,
    step,
    step_graph,
)

pytest.importorskip("openvino")
NAME = "int8-openvino"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp(NAME)
    (folder / "prompts.txt").write_text("red\na star\nblue\ntwo dots\nred\n", encoding="utf-8")
    ranges().save(folder / "ranges.npz")
    options = QuantizeOptions(
        scheme=NAME, calibration=folder / "ranges.npz", prompts=folder / "prompts.txt"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCHEMES, NAME, dataclasses.replace(SCHEMES[NAME], bounds=(1.0, 1.0)))
        return quantize_bundle(source().path, folder / "bundle", options)


def test_its_record_says_what_is_quantized(quantized: Bundle) -> None:
    record = quantized.manifest.quantization
    assert record is not None
    assert record.graphs["transformer"].scheme == (
        "pair-safe int8 weights, int8 inputs with a range per token of *.img_mlp.w2, "
        "int8 queries and keys"
    )


def _one_step(runtime: Runtime) -> np.ndarray:
    inputs = states()[0].estimate_inputs()
    trajectory = runtime.start(inputs["x"], inputs["tokens"][:, None])
    trajectory.step(Row(values=inputs["row"][0], weights=inputs["weights"][:, 0]))
    return trajectory.state()[0]


# Measured: 0.047 and 0.051.
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_and_scores_are_integers(quantized: Bundle, precision: str) -> None:
    try:
        with open_runtime(quantized, "openvino", precision=precision, threads=1) as runtime:
            assert isinstance(runtime, openvino.OpenVinoRuntime)
            actual = _one_step(runtime)
            nodes = runtime._compiled("transformer").get_runtime_model().get_ordered_ops()
    except (UsageError, RuntimeFailure) as error:
        # A processor without bf16 or VNNI must refuse it in one line, and that is then tested.
        lacks = "not offered by this processor" if precision == "bf16" else "with VNNI"
        assert lacks in str(error) or "with VNNI" in str(error)
        return
    assert 1e-4 < l2_error(actual, estimates(step_graph())[0]) < 0.15
    kernels = Counter(
        node.get_rt_info()["layerType"].astype(str)
        for node in nodes
        if node.get_rt_info()["primitiveType"].astype(str).endswith("_i8")
    )
    layers = [layer for layer in step().linears if layer.name != "final_layer.linear"]
    assert kernels["FullyConnected"] == len(layers)
    # Attention: its scores, softmax and sums are one kernel.
    assert kernels["Subgraph"] == len(step().attention) // 3


def test_a_processor_without_vnni_is_refused(
    quantized: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "_saturating_forms", lambda: frozenset({STATIC}))
    with open_runtime(quantized, "openvino", threads=1) as runtime:
        with pytest.raises(RuntimeFailure, match=r"with VNNI, .* by int8-cpu instead") as caught:
            _one_step(runtime)
    assert "\n" not in str(caught.value)
    # Its other graphs have quantized weights alone.
    with open_runtime(quantized, "openvino", threads=1) as runtime:
        assert embed(quantized, runtime, ["red"]).values.any()
