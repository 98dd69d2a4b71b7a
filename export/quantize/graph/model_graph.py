"""A graph and its weights in memory: read from a bundle, changed, written, run.

The weights are memory maps of the bundle's file until they are changed.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from minit2i_deploy.bundle.names import DATA_SUFFIX, data_beside
from minit2i_deploy.errors import BundleError, RuntimeFailure, require
from minit2i_deploy.export.quantize.formats import PACKED_DTYPES
from minit2i_deploy.export.quantize.graph.data_file import read_transposed, unpack, write_data
from minit2i_deploy.protocol import check_threads

GRAPH_FILE: Final = "model.onnx"
DATA_FILE: Final = f"{GRAPH_FILE}{DATA_SUFFIX}"
_HALF_NAMES: Final = ("float16", "bfloat16")

Call = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Graph:
    """A model without the data of its weights, and the weights by name.

    Args:
        model: initializers named in ``weights`` have type and shape but no data.
        weights: in the graph's own layout; ml_dtypes' types where numpy has none.
        transposed: names of weights whose axes are swapped compared with the network's.
        folder: whose file holds exactly these weights; None if any differs.
        data_file: name of the file for the weights.
    """

    model: onnx.ModelProto
    weights: Mapping[str, np.ndarray]
    transposed: frozenset[str]
    folder: Path | None = None
    data_file: str = DATA_FILE

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        imports = self.model.opset_import
        return next(int(item.version) for item in imports if item.domain in ("", "ai.onnx"))

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(stored_bytes(value) for value in self.weights.values())


def stored_bytes(values: np.ndarray) -> int:
    """Bytes in a file, where two 4-bit values share one."""
    return (values.size + 1) // 2 if values.dtype.name in PACKED_DTYPES else values.nbytes


def read_graph(path: str | Path) -> Graph:
    """Read model.onnx and map its data file into memory, without weights that no node reads.

    Raises:
        BundleError: either cannot be read.
    """
    source = Path(path)
    try:
        model = onnx.load(str(source), load_external_data=False)
        data = data_beside(source)
        transposed = read_transposed(data)
        mapped = np.memmap(data, mode="r")
    except (OSError, ValueError) as error:
        raise BundleError(f"{source}: cannot be read ({error}); re-run minit2i export") from error
    except Exception as error:  # protobuf's own error class is private
        raise BundleError(f"{source}: not an ONNX graph; re-run minit2i export") from error
    weights = {
        tensor.name: _mapped(tensor, mapped)
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }
    return Graph(
        model=model,
        weights=weights,
        transposed=transposed & weights.keys(),
        folder=source.parent.resolve(),
        data_file=data.name,
    )


def _mapped(tensor: TensorProto, data: np.ndarray) -> np.ndarray:
    place = {entry.key: entry.value for entry in tensor.external_data}
    begin = int(place["offset"])
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    stored = data[begin : begin + int(place["length"])]
    view: np.ndarray = unpack(stored, dtype) if dtype.name in PACKED_DTYPES else stored.view(dtype)
    return view.reshape(tuple(tensor.dims))


def write_graph(graph: Graph, folder: str | Path) -> Graph:
    """Write model.onnx and its data file; equal graphs give equal bytes.

    Args:
        graph: to write.
        folder: created if it is missing.

    Returns:
        the graph in that folder.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    places = write_data(target / graph.data_file, graph.weights, graph.transposed)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        if tensor.name in places:
            _point_at(tensor, graph.data_file, *places[tensor.name])
    (target / GRAPH_FILE).write_bytes(model.SerializeToString(deterministic=True))
    return dataclasses.replace(graph, model=model, folder=target.resolve())


def _point_at(tensor: TensorProto, data_file: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", data_file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


class Session(AbstractContextManager["Session"]):
    """A graph in onnxruntime on the CPU: called with its inputs by name, returns its outputs.

    Everything is computed in float32: quantized values are rounded where the graph says so, and
    no node is fused to a kernel that multiplies integers or rounds inputs of its own. So results
    do not depend on which integer instructions a processor has.

    Args:
        graph: written to a temporary folder first unless it lies in one.
        outputs: names of values to return in place of the graph's outputs; only what they
            depend on is computed.
        threads: 0 takes one per core.

    Raises:
        RuntimeFailure: onnxruntime cannot open it; the text has the first line of its reason.
    """

    def __init__(self, graph: Graph, outputs: Sequence[str] = (), *, threads: int = 0) -> None:
        part = with_outputs(graph, outputs) if outputs else graph
        with tempfile.TemporaryDirectory(prefix="minit2i-graph-") as temporary:
            folder = part.folder or Path(temporary)
            if part.folder is None:
                part = write_graph(part, folder)
            self._session = _open(part.model, folder, threads)
        self.inputs = tuple(value.name for value in part.model.graph.input)
        self.outputs = tuple(value.name for value in part.model.graph.output)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            results: list[np.ndarray] = self._session.run(None, dict(inputs))
        except Exception as error:  # the library's errors share no base
            reason = str(error).strip().partition("\n")[0]
            raise RuntimeFailure(f"onnxruntime failed: {reason}") from error
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None


def with_outputs(graph: Graph, outputs: Sequence[str]) -> Graph:
    """The same graph with other values as its outputs, reduced to what they depend on."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.output[:]
    for name in outputs:
        # onnxruntime infers type and shape.
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    required, nodes = set(outputs), []
    for node in reversed(model.graph.node):
        if required.intersection(node.output):
            required.update(node.input)
            nodes.append(node)
    for target, content in (
        (model.graph.node, list(reversed(nodes))),
        (model.graph.initializer, [t for t in model.graph.initializer if t.name in required]),
        (model.graph.input, [v for v in model.graph.input if v.name in required]),
    ):
        del target[:]
        target.extend(content)
    weights = {name: value for name, value in graph.weights.items() if name in required}
    transposed = graph.transposed & weights.keys()
    return dataclasses.replace(graph, model=model, weights=weights, transposed=transposed)


def widen(graph: Graph) -> Graph:
    """The same graph in float32, with the values of its half-precision weights.

    onnxruntime's CPU has no bfloat16 kernels, and computes float16 in float32. Quantized values
    and the nodes that round to them stay.
    """
    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    if all(tensor.data_type not in halves for tensor in graph.model.graph.initializer):
        return graph
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if tensor.data_type in halves and tensor.name in graph.weights:
            tensor.data_type = TensorProto.FLOAT
        elif tensor.data_type in halves:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in halves:
                attribute.i = TensorProto.FLOAT
    weights = {
        name: values.astype(np.float32) if values.dtype.name in _HALF_NAMES else values
        for name, values in graph.weights.items()
    }
    return dataclasses.replace(graph, model=model, weights=weights, folder=None)


def _open(model: onnx.ModelProto, folder: Path, threads: int) -> Any:
    ort = require("onnxruntime", "quantize")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    check_threads(threads)
    options.intra_op_num_threads = threads
    # Threads that spin between calls slow down whatever else the machine does.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without fusion, Q/DQ nodes round and all products are float32's. Fused ones are integer
    # products, which saturate on some processors, and weight-only layers round their inputs.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    try:
        return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:  # the library's errors share no base
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeFailure(f"onnxruntime cannot open the graph: {reason}") from error
