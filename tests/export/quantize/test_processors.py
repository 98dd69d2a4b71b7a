"""INT8 products are right on every class of processor, one by one and in a bundle's step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorShapeProto

from minit2i_deploy.export.quantize import (
    GraphScheme,
    QuantizableGraph,
    Session,
    quantize_graph,
    write_graph,
)
from minit2i_deploy.export.quantize.formats import INT8
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.rounding import matrix as rounding_matrix
from minit2i_deploy.export.quantize.weights import quantize_weight
from tests.export.quantize.test_graph import inputs, one_layer
from tests.helpers.processors import WITHOUT_VNNI, run_without_vnni

STATIC = GraphScheme(weights=INT8, activations=INT8)
PER_TOKEN = GraphScheme(weights=INT8, activations=INT8, per_token=True)

# The graph as any program opens it: with integer products.
RUN = """
import json, sys
import numpy as np
import onnxruntime
sums = []
for path in sys.argv[2:]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sums.append(session.run(None, {"x": np.load(sys.argv[1])})[0].tolist())
print(json.dumps(sums))
"""


def extreme_inputs() -> np.ndarray:
    """[1, tokens, channels] at the ends of their range, where products are largest."""
    return 3 * np.sign(inputs())[None].astype(np.float32)


def graph(scheme: GraphScheme) -> Graph:
    source = one_layer()
    for value in (source.model.graph.input[0], source.model.graph.output[0]):
        # As in a bundle: of three axes, the first free. A Gemm would not be fused.
        value.type.tensor_type.shape.dim.insert(0, TensorShapeProto.Dimension(dim_param="n"))
    return quantize_graph(QuantizableGraph.of(source), scheme, {"layer": 3 / 127})


def unsafe_graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    """As quantize wrote it when weights had all of their eight bits."""

    def plain(matrix: np.ndarray, form: object, block: int, **_: object) -> object:
        return quantize_weight(matrix, INT8, block)

    with monkeypatch.context() as patch:
        patch.setattr(rounding_matrix, "quantize_weight", plain)
        return graph(STATIC)


@pytest.mark.parametrize("kind", WITHOUT_VNNI)
def test_products_are_right_without_vnni(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = extreme_inputs()
    np.save(tmp_path / "x.npy", x)
    graphs = [graph(STATIC), graph(PER_TOKEN), unsafe_graph(monkeypatch)]
    paths = [tmp_path / str(number) / "model.onnx" for number in range(3)]
    for each, path in zip(graphs, paths, strict=True):
        write_graph(each, path.parent)
    printed = run_without_vnni(RUN, kind, tmp_path / "x.npy", *paths)
    static, per_token, unsafe = (np.array(values, np.float32) for values in json.loads(printed))
    expected = [Session(each)({"x": x})[0] for each in graphs]
    # Measured: 9e-8 and 4e-8, and 0.17 with all eight bits.
    for actual, exact in zip((static, per_token), expected, strict=False):
        assert np.abs(actual - exact).max() < 1e-5 * np.abs(exact).max()
    assert np.abs(unsafe - expected[2]).max() > 0.05 * np.abs(expected[2]).max()


# The same graph as calibration, checks and sensitivity run it.
MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from minit2i_deploy.export.quantize import Session, read_graph
x = np.load(sys.argv[1])
print(json.dumps([Session(read_graph(Path(path)))({"x": x})[0].tolist() for path in sys.argv[2:]]))
"""


@pytest.mark.parametrize("kind", WITHOUT_VNNI)
def test_measurements_do_not_depend_on_the_processor(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are float32's, as the manifest says, even of weights that saturate in use."""
    x, unsafe = extreme_inputs(), unsafe_graph(monkeypatch)
    np.save(tmp_path / "x.npy", x)
    write_graph(unsafe, tmp_path)
    printed = run_without_vnni(MEASURE, kind, tmp_path / "x.npy", tmp_path / "model.onnx")
    (actual,) = (np.array(values, np.float32) for values in json.loads(printed))
    expected = Session(unsafe)({"x": x})[0]
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


def test_pairs_of_products_fit_in_sixteen_bits_by_the_arithmetic() -> None:
    """The same on any machine: unsigned inputs, and pairs that are added and saturated in int16."""
    values = graph(STATIC).weights["layer.weight"].astype(np.int64)
    rng = np.random.default_rng(0)
    x = rng.choice([0, 255], (200, len(values)))
    pairs = x[:, 0::2, None] * values[None, 0::2] + x[:, 1::2, None] * values[None, 1::2]
    saturated = np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)
    assert np.array_equal(saturated, x @ values)
