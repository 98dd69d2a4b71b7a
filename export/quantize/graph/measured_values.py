"""Where a graph's values are measured: inputs of linear layers, and of attention."""

from __future__ import annotations

from dataclasses import dataclass

from minit2i_deploy.export.quantize.graph.linear_layers import linear_layers
from minit2i_deploy.export.quantize.graph.model_graph import Graph


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One value of the graph.

    Args:
        name: of the first layer that reads it, or ``double_blocks.0.attention.q`` (k, v).
        value: its name in the graph; channels are its last axis.
        width: values a token.
        node: index of the attention node that reads it, -1 for a linear layer's input.
        input: which input of that node it is.
    """

    name: str
    value: str
    width: int
    node: int = -1
    input: int = 0


def linear_sites(graph: Graph) -> tuple[Site, ...]:
    """Inputs of the linear layers, each value once, in the order they are made."""
    sites = {
        layer.source: Site(name=layer.site, value=layer.source, width=layer.num_inputs)
        for layer in linear_layers(graph)
    }
    return tuple(sites.values())


def attention_sites(graph: Graph) -> tuple[Site, ...]:
    """Queries, keys and values of every attention node, named after the block it stands in.

    There are none where attention stands in parts, or is an operator of one engine's own.
    """
    layers = linear_layers(graph)
    sites = []
    for index, node in enumerate(graph.model.graph.node):
        if node.op_type != "Attention":
            continue
        after = next(layer for layer in layers if layer.node > index)
        block = after.name.rpartition(".")[0]
        sites += [
            Site(
                name=f"{block}.attention.{part}",
                value=node.input[i],
                width=after.num_inputs,
                node=index,
                input=i,
            )
            for i, part in enumerate("qkv")
        ]
    return tuple(sites)
