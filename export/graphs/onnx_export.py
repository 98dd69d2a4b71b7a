"""From a torch module to a small, clean ONNX graph whose weights are still the module's own.

torch's exporter is asked not to optimise: its folding would copy every weight to transpose it.
The same passes run here with the weights' transposes left in the graph, where weights.py meets
them and writes the transposed bytes straight to the data file.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import onnx_ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from torch import nn

from minit2i_deploy.bundle.manifest import TensorInfo
from minit2i_deploy.errors import UsageError, VerificationError

# One Attention and one RMSNormalization node each, which every engine fuses at its best.
DEFAULT_OPSET: Final = 23
# 18 decomposes both, for engines that refuse float32 Attention (TensorRT-RTX).
OPSETS: Final = (18, 23)

# Distinct sizes for the free axes of the example inputs, none of them special to the exporter.
_EXAMPLE_SIZES: Final = {"n": 3, "tokens": 5, "batch": 3, "branches": 2}
_FOLDING_ROUNDS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Names, types and shapes of a graph's inputs and outputs; text sizes are free axes."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


def check_opset(opset: int) -> None:
    """Refuse an opset that the graphs are not tested at.

    Raises:
        UsageError: the opset is none of OPSETS.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset is {opset!r}; choose one of {', '.join(map(str, OPSETS))}")


def to_onnx(module: nn.Module, signature: Signature, opset: int) -> onnx_ir.Model:
    """Export a module; its parameters stay shared with the graph's initializers.

    Args:
        module: takes the signature's inputs by name, in evaluation mode.
        signature: what the graph must look like from outside.
        opset: one of OPSETS.

    Raises:
        VerificationError: the exporter made other inputs or outputs than the signature's.
    """
    program = _export(module, signature, opset)
    model: onnx_ir.Model = program.model
    _optimise(model)
    _forget_sources(model)
    _check_signature(model, signature)
    return model


def _export(module: nn.Module, signature: Signature, opset: int) -> torch.onnx.ONNXProgram:
    axes = {name: torch.export.Dim(name) for name in _EXAMPLE_SIZES}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            kwargs={name: _example(info) for name, info in signature.inputs.items()},
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_shapes={
                name: {i: axes[size] for i, size in enumerate(info.shape) if isinstance(size, str)}
                for name, info in signature.inputs.items()
            },
            opset_version=opset,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    return program


def _example(info: TensorInfo) -> torch.Tensor:
    shape = [_EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in info.shape]
    return torch.ones(shape, dtype=getattr(torch, info.dtype))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's remarks on its own internals and on packages nobody asked for."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _optimise(model: onnx_ir.Model) -> None:
    # No pass that merges equal initializers: every weight keeps its own name and place.
    common.InlinePass()(model)
    for _ in range(_FOLDING_ROUNDS):
        optimizer.fold_constants(model, should_fold=_unless_weight)
        rewriter.rewrite(model)
        optimizer.remove_unused_nodes(model)
    onnx_ir.passes.Sequential(
        common.CommonSubexpressionEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    )(model)


def _unless_weight(node: onnx_ir.Node) -> bool | None:
    source = node.inputs[0] if node.inputs else None
    # Besides transposes: a bfloat16 network's norms and positions, where they are read as float32.
    is_weight = source is not None and source.is_initializer()
    return False if is_weight and node.op_type in ("Transpose", "Cast") else None


def _forget_sources(model: onnx_ir.Model) -> None:
    """Drop stack traces: they name paths of this machine and make equal exports differ."""
    for holder in (model, model.graph, *model.graph, *_values(model)):
        holder.metadata_props.clear()
        holder.doc_string = None


def _values(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs


def _check_signature(model: onnx_ir.Model, signature: Signature) -> None:
    for kind, values, wanted in (
        ("inputs", model.graph.inputs, signature.inputs),
        ("outputs", model.graph.outputs, signature.outputs),
    ):
        found = {str(value.name): _info(value) for value in values}
        if found != dict(wanted):
            raise VerificationError(
                f"the exporter made {kind} {found}, but {dict(wanted)} are needed; use the"
                " versions of torch and onnxscript in constraints.txt"
            )


def _info(value: onnx_ir.Value) -> TensorInfo:
    assert value.shape is not None and value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorInfo(dtype=str(value.dtype.numpy()), shape=shape)
