"""Moving weights out of a graph: transposes, shared and unused matrices, unknown constants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from minit2i_deploy.bundle.manifest import TensorInfo
from minit2i_deploy.errors import VerificationError
from minit2i_deploy.export.graphs.onnx_export import Signature, to_onnx
from minit2i_deploy.export.graphs.weights_file import write_graph

SIGNATURE = Signature(
    inputs={"x": TensorInfo(dtype="float32", shape=("n", 3, 8))},
    outputs={"y": TensorInfo(dtype="float32", shape=("n", 3, 8))},
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def write(module: nn.Module, folder: Path) -> tuple[dict[str, Tensor], set[str], onnx.ModelProto]:
    """Export, check the values in onnxruntime, and return what the files hold."""
    module = module.eval().requires_grad_(False)
    write_graph(to_onnx(module, SIGNATURE, 23), module, folder, lambda name: name)
    x = torch.randn(4, 3, 8)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    actual = session.run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        # Measured 4e-6 on values up to 22.
        np.testing.assert_allclose(actual, module(x).numpy(), rtol=0, atol=2e-5)
    with safe_open(folder / "model.onnx.data", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        transposed = set(json.loads(file.metadata()["transposed"]))
    return tensors, transposed, onnx.load(folder / "model.onnx", load_external_data=False)


class BothWays(nn.Module):
    """One matrix, multiplied from the left and from the right."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight) @ self.weight.T


class Twins(nn.Module):
    """Two layers with equal values, one with the same tensor, one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.spare = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.two.weight.data.copy_(self.one.weight.data)
        self.same = nn.Linear(8, 8, bias=False)
        self.same.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.same(self.two(self.one(x)))


class Stranger(nn.Module):
    """A large table that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = [torch.randn(20000, 8)]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[0].mean(0) + self.table[0][x.shape[0]]


def test_a_matrix_read_both_ways_is_stored_as_it_is(tmp_path: Path) -> None:
    module = BothWays()
    tensors, transposed, model = write(module, tmp_path)
    assert transposed == set()
    torch.testing.assert_close(tensors["weight"], module.weight.data, rtol=0, atol=0)
    assert [node.op_type for node in model.graph.node].count("Transpose") == 1


def test_equal_tied_and_unused_matrices(tmp_path: Path) -> None:
    module = Twins()
    tensors, transposed, model = write(module, tmp_path)
    assert tensors.keys() == {"one.weight", "two.weight", "spare.weight"}
    assert transposed == {"one.weight", "two.weight"}
    names = [tensor.name for tensor in model.graph.initializer]
    assert names.count("one.weight") == 1 and "two.weight" in names
    torch.testing.assert_close(tensors["spare.weight"], module.spare.weight.data, rtol=0, atol=0)
    torch.testing.assert_close(tensors["one.weight"].T, module.one.weight.data, rtol=0, atol=0)


def test_a_large_unknown_constant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is not a parameter of the network"):
        write(Stranger(), tmp_path)


def test_other_outputs_than_the_signature_are_refused() -> None:
    with pytest.raises(VerificationError, match="the exported graph has outputs"):
        to_onnx(
            nn.Linear(8, 4).eval(),
            Signature(inputs={"input": SIGNATURE.inputs["x"]}, outputs=SIGNATURE.outputs),
            23,
        )
