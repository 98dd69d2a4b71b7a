"""From a torch module to a small ONNX graph that shares the module's weights.

torch's exporter runs without its optimizer, whose folding would copy every weight to transpose
it. The same passes run here, but keep the transposes of weights in the graph: weights_file.py
removes them and writes the transposed bytes straight to the data file.
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
from minit2i_deploy.errors import VerificationError

# Distinct sizes for the free axes of the example inputs, none of them special to the exporter.
_EXAMPLE_SIZES: Final = {"n": 3, "tokens": 5, "batch": 3, "branches": 2, "sequences": 7}
# Free axes that are multiples of a patch, and what counts their patches.
_PATCH_COUNTS: Final = {"height": "lines", "width": "columns"}
_FOLDING_ROUNDS: Final = 2
# What folding would turn into a copy of a weight inside the graph, which weights that are replaced
# later (a LoRA, a refit) would not reach. Norms and positions of a bfloat16 network are read as
# float32, the patch embedding's convolutions as matrices.
_READS_A_WEIGHT: Final = ("Cast", "Reshape", "Transpose")
# The oldest that has the operators. Of opset 23 it is 11 by the book, which adds nothing that these
# graphs use; every engine with the operators reads 10.
_IR_VERSIONS: Final = {18: 8, 23: 10}


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """Heights and widths that are free: multiples of a patch between bounds.

    Args:
        size: pixels of a patch's side.
        least: patches of a side.
        most: as ``least``.
    """

    size: int
    least: int
    most: int

    @classmethod
    def of(cls, sides: tuple[int, int], size: int) -> Patches:
        """Between two sides in pixels."""
        return cls(size=size, least=sides[0] // size, most=sides[1] // size)

    def axes(self) -> dict[str, torch.export.Dim]:
        """Each free axis as a number of patches."""
        return {
            name: self.size * torch.export.Dim(count, min=self.least, max=self.most)
            for name, count in _PATCH_COUNTS.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Names, types and shapes of a graph's inputs and outputs; a size that is a name is free.

    Args:
        inputs: by name.
        outputs: by name.
        patches: of free heights and widths, where there are any.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    patches: Patches | None = None


def to_onnx(module: nn.Module, signature: Signature, opset: int) -> onnx_ir.Model:
    """Export a module; its parameters stay shared with the graph's initializers.

    Args:
        module: takes the signature's inputs by name, in evaluation mode.
        signature: inputs and outputs that the graph must have.
        opset: one of ``choices.OPSETS``.

    Raises:
        VerificationError: the exported graph has other inputs or outputs.
    """
    program = _export(module, signature, opset)
    model: onnx_ir.Model = program.model
    _optimize(model)
    _drop_unused_outputs(model)
    model.ir_version = _IR_VERSIONS[opset]
    _drop_metadata(model)
    if signature.patches is not None:
        _name_free_axes(model, signature.patches)
    _check_signature(model, signature)
    return model


def _export(module: nn.Module, signature: Signature, opset: int) -> torch.onnx.ONNXProgram:
    axes = {name: torch.export.Dim(name) for name in _EXAMPLE_SIZES}
    sizes, patches = dict(_EXAMPLE_SIZES), signature.patches
    if patches is not None:
        axes |= patches.axes()
        # Two numbers of patches that the exporter cannot take for one.
        counts = zip(_PATCH_COUNTS, (patches.most, patches.least), strict=True)
        sizes |= {name: patches.size * count for name, count in counts}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            kwargs={name: _example(info, sizes) for name, info in signature.inputs.items()},
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


def _example(info: TensorInfo, sizes: Mapping[str, int]) -> torch.Tensor:
    shape = [sizes[size] if isinstance(size, str) else size for size in info.shape]
    return torch.ones(shape, dtype=getattr(torch, info.dtype))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages on its internals and on optional packages."""
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


def _optimize(model: onnx_ir.Model) -> None:
    # No pass that merges equal initializers: every weight keeps its own name and place.
    common.InlinePass()(model)
    for _ in range(_FOLDING_ROUNDS):
        optimizer.fold_constants(model, should_fold=_should_fold)
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


def _should_fold(node: onnx_ir.Node) -> bool | None:
    """False for what would copy a weight; None leaves the decision to the folder's own rules."""
    source = node.inputs[0] if node.inputs else None
    is_weight = source is not None and source.is_initializer()
    return False if is_weight and node.op_type in _READS_A_WEIGHT else None


def _drop_unused_outputs(model: onnx_ir.Model) -> None:
    """Leave out optional outputs of private operators that nothing reads."""
    for node in model.graph:
        if node.domain and len(node.outputs) > 1:
            for value in node.outputs:
                if not value.uses() and not value.is_graph_output():
                    value.name = ""


def _name_free_axes(model: onnx_ir.Model, patches: Patches) -> None:
    """Call the axes of inputs and outputs height and width, which are 16*lines and 16*columns."""
    names = {f"{patches.size}*{count}": name for name, count in _PATCH_COUNTS.items()}
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        sizes = [size if isinstance(size, int) else str(size.value) for size in value.shape]
        value.shape = onnx_ir.Shape([names.get(str(size), size) for size in sizes])


def _drop_metadata(model: onnx_ir.Model) -> None:
    """Drop stack traces: they contain paths of this machine, so that equal exports differ."""
    for holder in (model, model.graph, *model.graph, *_values(model)):
        holder.metadata_props.clear()
        holder.doc_string = None


def _values(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs


def _check_signature(model: onnx_ir.Model, signature: Signature) -> None:
    for kind, values, expected in (
        ("inputs", model.graph.inputs, signature.inputs),
        ("outputs", model.graph.outputs, signature.outputs),
    ):
        actual = {str(value.name): _info(value) for value in values}
        if actual != dict(expected):
            raise VerificationError(
                f"the exported graph has {kind} {actual}, expected {dict(expected)}; install the"
                " versions of torch and onnxscript in constraints.txt"
            )


def _info(value: onnx_ir.Value) -> TensorInfo:
    assert value.shape is not None and value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorInfo(dtype=str(value.dtype.numpy()), shape=shape)
