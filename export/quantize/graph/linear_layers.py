"""The linear layers of a graph: matrix products with a weight, by their canonical names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.graph.model_graph import Graph

_SUFFIX: Final = ".weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """One linear layer, y = x W.

    Args:
        name: canonical, ``double_blocks.0.img_mlp.w1``.
        node: index of its MatMul among the graph's nodes.
        source: name of the graph's value that it reads.
        output: name of the graph's value that it makes, before the bias.
        site: name of the first layer that reads the same value: w1 and w3 share w1's. Ranges and
            scales of inputs are kept by site.
        num_inputs: channels of x, rows of W.
        num_outputs: columns of W.
    """

    name: str
    node: int
    source: str
    output: str
    site: str
    num_inputs: int
    num_outputs: int

    @property
    def weight(self) -> str:
        """Name of its weight among ``Graph.weights``, [num_inputs, num_outputs]."""
        return self.name + _SUFFIX


def linear_layers(graph: Graph) -> tuple[Linear, ...]:
    """All linear layers, in the order they run."""
    found: list[Linear] = []
    sites: dict[str, str] = {}
    for index, node in enumerate(graph.model.graph.node):
        if node.op_type != "MatMul" or node.input[1] not in graph.weights:
            continue
        name = node.input[1].removesuffix(_SUFFIX)
        rows, columns = graph.weights[node.input[1]].shape
        found.append(
            Linear(
                name=name,
                node=index,
                source=node.input[0],
                output=node.output[0],
                site=sites.setdefault(node.input[0], name),
                num_inputs=rows,
                num_outputs=columns,
            )
        )
    return tuple(found)


def excluded_layers(layers: Sequence[Linear], patterns: Iterable[str]) -> frozenset[str]:
    """Names of the layers that a pattern fits: ``double_blocks.3.*``, ``*.w2``, or a whole name.

    Raises:
        UsageError: a pattern fits no layer.
    """
    names = [layer.name for layer in layers]
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            raise UsageError(
                f"pattern {pattern!r} fits no linear layer; they are called like {names[0]}, and *"
                " stands for any characters"
            )
        found |= fitting
    return frozenset(found)


def default_exclusions(layers: Sequence[Linear], patterns: Iterable[str]) -> frozenset[str]:
    """As ``excluded_layers``, for patterns that need not fit any layer: a scheme's own."""
    chosen = tuple(patterns)
    return frozenset(
        layer.name for layer in layers if any(fnmatchcase(layer.name, item) for item in chosen)
    )
