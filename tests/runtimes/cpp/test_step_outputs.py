"""Step graphs whose outputs are no images: refused by the C++ client in one line."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import onnx
import pytest

from tests.helpers.cpp_bundles import edit
from tests.helpers.cpp_client import program
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp


@pytest.mark.parametrize("output", ["x_next", "h_next"])
@pytest.mark.parametrize("operator", ["Cast", "ReduceMax"])
def test_a_step_graph_of_other_outputs_is_one_line(
    tmp_path: Path, output: str, operator: str
) -> None:
    """Half precision, and one value in place of an image: no image is read from either."""
    copy = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    path = copy / "transformer" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    (result,) = (value for value in model.graph.output if value.name == output)
    for node in model.graph.node:
        node.output[:] = [f"{name}_full" if name == output else name for name in node.output]
        node.input[:] = [f"{name}_full" if name == output else name for name in node.input]
    settings = {"to": onnx.TensorProto.FLOAT16} if operator == "Cast" else {"keepdims": 1}
    node = onnx.helper.make_node(operator, [f"{output}_full"], [output], **settings)
    model.graph.node.append(node)
    result.type.tensor_type.ClearField("shape")
    if operator == "Cast":
        result.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    path.write_bytes(model.SerializeToString())
    info = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    edit(copy, lambda fields: fields["files"].update({"transformer/model.onnx": info}))
    line = program("minit2i-generate", copy, "a", "-o", tmp_path / "a.png", code=1)
    assert line == (
        f"minit2i-generate: error: transformer: its output {output} is not float32 of the state's "
        "shape; re-run minit2i export\n"
    )
    assert not (tmp_path / "a.png").exists()
