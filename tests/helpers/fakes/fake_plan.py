"""Plans of the fake TensorRT: JSON that names a graph, and the weights that a refit put in."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

MAGIC = "fake plan"


def write_plan(stored: Mapping[str, Any]) -> bytes:
    """A plan's bytes."""
    head = {key: value for key, value in stored.items() if key != "weights"}
    buffer = io.BytesIO()
    np.savez(buffer, **stored["weights"])
    return json.dumps({"magic": MAGIC, **head}).encode() + b"\n" + buffer.getvalue()


def read_plan(plan: bytes) -> dict[str, Any]:
    """What ``write_plan`` was given; ValueError where it is no plan."""
    head, _, tail = plan.partition(b"\n")
    stored: dict[str, Any] = json.loads(head)
    if not isinstance(stored, dict) or stored.get("magic") != MAGIC:
        raise ValueError("no plan")
    with np.load(io.BytesIO(tail)) as weights:
        stored["weights"] = dict(weights)
    return stored


class _Same:
    """Equal to every other: left out of what a cache goes by."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


def shared_session(path: Path, *digests: str) -> Any:
    """A session of a graph; of files with the same digests it is the same one."""
    return _cached_session(_Same(path), *digests)


@functools.lru_cache(maxsize=16)
def _cached_session(path: _Same, *digests: str) -> Any:
    # Every test copies the bundle; a graph of the same bytes is opened once.
    return open_session(str(path.value))


def open_session(graph: Any) -> Any:
    """onnxruntime on one thread, which gives the same bits each time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])


def initializers(path: Path) -> dict[str, np.ndarray]:
    """Weights and constants of a graph, as a refitter lists them."""
    import onnx

    model = onnx.load(str(path))
    return {
        item.name: onnx.numpy_helper.to_array(item)
        for item in model.graph.initializer
        if item.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }


def with_weights(path: Path, weights: Mapping[str, np.ndarray]) -> bytes:
    """A whole model in memory, some of its weights replaced."""
    import onnx

    model = onnx.load(str(path))
    for item in model.graph.initializer:
        if item.name in weights:
            item.CopyFrom(onnx.numpy_helper.from_array(weights[item.name], item.name))
    content: bytes = model.SerializeToString()
    return content
