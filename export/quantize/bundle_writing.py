"""Write a bundle of which some graphs are quantized; every other file is the source's."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import Check, GraphQuantization, Quantization
from minit2i_deploy.bundle.names import REFERENCE_OUTPUTS
from minit2i_deploy.evaluation.reference_outputs import OVERFLOWING, write_reference_outputs
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.model_graph import Graph, write_graph
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.options import STEP
from minit2i_deploy.export.quantize.schemes import GraphScheme
from minit2i_deploy.export.quantize.switch_bundle import copy_graph_after_switch

_TOOLS: Final = ("ml_dtypes", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedGraph:
    """A graph of the new bundle.

    Args:
        graph: nodes and weights.
        record: how it was made, for the manifest.
        precision: in the manifest; "" is the source's.
    """

    graph: Graph
    record: GraphQuantization
    precision: str = ""


def graph_record(
    graph: QuantizableGraph, scheme: GraphScheme, exclude: frozenset[str], method: str = ""
) -> GraphQuantization:
    """How a graph was quantized, for the manifest; ``method`` follows the scheme's description."""
    num_layers = len({layer.name for layer in graph.linears} - exclude)
    return GraphQuantization(
        scheme=scheme.description + method, layers=num_layers, excluded=tuple(sorted(exclude))
    )


def write_quantized_bundle(
    folder: Path,
    source: Bundle,
    graphs: Mapping[str, QuantizedGraph],
    record: Quantization,
    checks: Sequence[Check],
    switch_at: float | None = None,
) -> None:
    """Write the graphs, all other files of the source, and last of all the manifest.

    Args:
        folder: output; the caller makes it atomic.
        source: bundle that was quantized.
        graphs: by name; the source's others stay.
        record: of the quantization.
        checks: as measured.
        switch_at: time from which the source's own graph runs, or None.
    """
    manifest = source.manifest
    infos, written = dict(manifest.graphs), set()
    for name, item in graphs.items():
        info = infos[name]
        path = Path(info.path)
        write_graph(item.graph, folder / path.parent)
        written |= {path.as_posix(), manifest.data_file(info)}
        precision = item.precision or info.precision
        infos[name] = dataclasses.replace(info, opset=item.graph.opset, precision=precision)
    for name in manifest.files.keys() - written:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, folder / name)
    switch = None if switch_at is None else copy_graph_after_switch(source, folder, switch_at)
    overflows = STEP in graphs and graphs[STEP].precision in OVERFLOWING
    if overflows and REFERENCE_OUTPUTS not in manifest.files:
        with GraphsRuntime(source) as runtime:
            write_reference_outputs(source, runtime, folder)
    tools = {**manifest.provenance.tools, **{name: version(name) for name in _TOOLS}}
    provenance = dataclasses.replace(manifest.provenance, tools=dict(sorted(tools.items())))
    write_manifest(
        folder,
        dataclasses.replace(
            manifest,
            graphs=infos,
            checks=tuple(checks),
            quantization=record,
            switch=switch,
            provenance=provenance,
        ),
    )
