"""A graph prepared for quantization: its linear layers and the values that they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from minit2i_deploy.export.quantize.graph.linear_layers import Linear, linear_layers
from minit2i_deploy.export.quantize.graph.model_graph import Graph, read_graph

# Inputs of an attention node, in its order.
_PARTS: Final = "qkv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One value of the graph whose range is measured.

    Args:
        name: label of the first layer that reads it, or ``double_blocks.0.attention.q`` (k, v).
        value: its name in the graph; channels are its last axis.
        width: values per token.
        node: index of the attention node that reads it, -1 for a linear layer's input.
        input: which input of that node it is.
    """

    name: str
    value: str
    width: int
    node: int = -1
    input: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizableGraph:
    """A graph, its linear layers, and the inputs of its attention nodes.

    Args:
        graph: not quantized.
        linears: in the order they run.
        attention: queries, keys and values of every attention node; none where attention is
            decomposed, or is an operator of one engine.
    """

    graph: Graph
    linears: tuple[Linear, ...]
    attention: tuple[Site, ...]

    @classmethod
    def of(cls, graph: Graph) -> QuantizableGraph:
        """Find layers and attention of a graph."""
        linears = linear_layers(graph)
        return cls(graph=graph, linears=linears, attention=_attention_sites(graph, linears))

    @classmethod
    def read(cls, path: Path) -> QuantizableGraph:
        """As ``of``, of a model.onnx; raises what ``read_graph`` raises."""
        return cls.of(read_graph(path))

    @property
    def sites(self) -> tuple[Site, ...]:
        """Inputs of linear layers, each value once, in the order they run; then attention's."""
        inputs = {
            layer.source: Site(name=layer.site, value=layer.source, width=layer.num_inputs)
            for layer in self.linears
        }
        return (*inputs.values(), *self.attention)

    def attention_inputs(self, *, scores_only: bool) -> tuple[Site, ...]:
        """Queries and keys of every attention node, and values unless ``scores_only``."""
        return tuple(
            site for site in self.attention if not (scores_only and _PARTS[site.input] == "v")
        )

    def readers(self, exclude: Collection[str] = ()) -> dict[str, list[Linear]]:
        """Layers by site, without the excluded ones."""
        by_site: dict[str, list[Linear]] = {}
        for layer in self.linears:
            if layer.name not in exclude:
                by_site.setdefault(layer.site, []).append(layer)
        return by_site

    def matrix(self, layer: Linear) -> np.ndarray:
        """float32 [inputs, outputs]: the weight of a layer."""
        return np.asarray(self.graph.weights[layer.weight], dtype=np.float32)

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> QuantizableGraph:
        """The same graph with other values of its weights."""
        graph = dataclasses.replace(self.graph, weights=weights, folder=None)
        return dataclasses.replace(self, graph=graph)


def _attention_sites(graph: Graph, linears: Sequence[Linear]) -> tuple[Site, ...]:
    """Named after the block that they are in."""
    sites = []
    for index, node in enumerate(graph.model.graph.node):
        if node.op_type != "Attention":
            continue
        projection = next(layer for layer in linears if layer.node > index)
        block = projection.name.rpartition(".")[0]
        number = projection.label.removeprefix(projection.name)
        sites += [
            Site(
                name=f"{block}.attention.{part}{number}",
                value=node.input[i],
                width=projection.num_inputs,
                node=index,
                input=i,
            )
            for i, part in enumerate(_PARTS)
        ]
    return tuple(sites)
