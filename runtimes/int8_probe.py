"""Whether an engine's 8-bit products are right on this processor: two products of known answer.

x86 processors without VNNI multiply 8-bit numbers in pairs that are added in 16 bits. Two products
of 255 and 127 are 64770, and 32767 is the most that fits: the sum saturates, without an error.
Pairs of weights that add up to 128 at most cannot saturate, whatever they are multiplied with:
minit2i quantize writes such pairs, and describes the graph as pair-safe. Its scheme int8-text does
not, because weights of all 8 bits are a third finer.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.fields import PAIR_SAFE
from minit2i_deploy.errors import PrecisionWarning, RuntimeFailure
from minit2i_deploy.runtimes import onnx_writer

# 2 * 255 * 64 = 32640 is below 2 ** 15.
SAFE_WEIGHT: Final = 64
# Forms of 8-bit products in bundles: inputs with a scale of each run, or with a fixed one.
DYNAMIC, STATIC = "dynamic", "static"
_ROWS, _INNER, _COLUMNS = 4, 64, 16
# safetensors' name of the type.
_INT8: Final = "I8"

Run = Callable[[bytes, np.ndarray], np.ndarray]


def saturating_forms(run: Run) -> frozenset[str]:
    """The forms in which a sum of 64 products is wrong: DYNAMIC, STATIC, both or none.

    Args:
        run: opens a model on the engine, and gives its output for the input ``a``.
    """
    dynamic = run(dynamic_model(), np.full((_ROWS, _INNER), 255, np.uint8))
    static = run(static_model(), np.full((_ROWS, _INNER), 127, np.float32))
    # Right are 2072640 and 1032256; onnxruntime 1.32 without VNNI gives 1048544 and 8160.
    right = {
        DYNAMIC: bool(np.all(dynamic == _INNER * 255 * 127)),
        STATIC: bool(np.all(static == np.float32(_INNER * 127 * 127))),
    }
    return frozenset(form for form, is_right in right.items() if not is_right)


def warn_of_saturation(
    bundle: Bundle, graph: str, engine: str, forms: Callable[[], frozenset[str]]
) -> None:
    """Warn with a PrecisionWarning if a graph's products saturate; other graphs cost nothing.

    Args:
        bundle: holds the graph.
        graph: its name in the manifest.
        engine: name for the text.
        forms: gives what ``saturating_forms`` gives for the engine.

    Raises:
        RuntimeFailure: the graph's weights cannot be read.
    """
    if bundle.manifest.graphs[graph].precision != "int8" or PAIR_SAFE in _scheme(bundle, graph):
        return
    if _form(bundle, graph) in forms() and _has_large_weights(bundle, graph):
        warnings.warn(
            f"{bundle.path}: 8-bit products saturate in {engine} on this processor, which has no "
            "VNNI, so its values lose precision; run the bundle that this one was made from, or "
            "quantize that by a scheme other than int8-text with this version of minit2i",
            PrecisionWarning,
            stacklevel=2,
        )


def _scheme(bundle: Bundle, graph: str) -> str:
    """Description of a quantized graph, or "" where there is none."""
    quantization = bundle.manifest.quantization
    record = None if quantization is None else quantization.graphs.get(graph)
    return "" if record is None else record.scheme


def _form(bundle: Bundle, graph: str) -> str:
    return DYNAMIC if DYNAMIC in _scheme(bundle, graph) else STATIC


def _has_large_weights(bundle: Bundle, graph: str) -> bool:
    arrays = _int8_weights(bundle.data_path(graph))
    return any(np.abs(array.astype(np.int16)).max(initial=0) > SAFE_WEIGHT for array in arrays)


def _int8_weights(data_file: Path) -> Iterator[np.ndarray]:
    """The INT8 tensors of a safetensors file, as views of the file."""
    try:
        data = np.memmap(data_file, np.uint8, "r")
        length = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + length].tobytes())
        for entry in header.values():
            if entry.get("dtype") == _INT8:
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                yield data[begin:end].view(np.int8)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeFailure(f"{data_file}: not a weights file ({error})") from error


def dynamic_model() -> bytes:
    """Unsigned inputs whose scale is measured in each run: MatMulInteger."""
    return onnx_writer.model(
        [onnx_writer.node("MatMulInteger", ["a", "b"], "y")],
        [onnx_writer.value("a", (_ROWS, _INNER), "uint8")],
        [onnx_writer.value("y", (_ROWS, _COLUMNS), "int32")],
        [onnx_writer.constant("b", np.full((_INNER, _COLUMNS), 127, np.int8))],
    )


def static_model() -> bytes:
    """Signed inputs of a fixed scale: Q/DQ pairs around MatMul, which engines fuse."""
    node, constant = onnx_writer.node, onnx_writer.constant
    return onnx_writer.model(
        [
            node("QuantizeLinear", ["a", "one", "zero"], "a8"),
            node("DequantizeLinear", ["a8", "one", "zero"], "a32"),
            node("DequantizeLinear", ["b", "ones"], "b32", axis=1),
            node("MatMul", ["a32", "b32"], "y"),
        ],
        [onnx_writer.value("a", (_ROWS, _INNER))],
        [onnx_writer.value("y", (_ROWS, _COLUMNS))],
        [
            constant("one", np.array(1, np.float32)),
            constant("zero", np.array(0, np.int8)),
            constant("b", np.full((_INNER, _COLUMNS), 127, np.int8)),
            constant("ones", np.ones(_COLUMNS, np.float32)),
        ],
    )
