"""The linear layers of a graph: matrix products with a weight, by their canonical names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.graph.model_graph import Graph

_SUFFIX: Final = ".weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """One use of a linear layer, y = x W; a looped network uses some of them several times.

    Args:
        name: canonical, ``double_blocks.0.img_mlp.w1``.
        label: the name, for the second use and later ones with ``.pass2`` and so on.
        node: index of its MatMul among the graph's nodes.
        source: name of the graph's value that it reads.
        output: name of the graph's value that it computes, before the bias.
        site: label of the first layer that reads the same value: w1 and w3 share w1's. Ranges
            and scales of inputs are kept by site.
        num_inputs: channels of x, first axis of W.
        num_outputs: second axis of W.
    """

    name: str
    label: str
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

    @property
    def num_weights(self) -> int:
        """Size of its weight."""
        return self.num_inputs * self.num_outputs


def linear_layers(graph: Graph) -> tuple[Linear, ...]:
    """All linear layers, in the order they run; one that runs several times is there each time."""
    layers: list[Linear] = []
    sites: dict[str, str] = {}
    uses: Counter[str] = Counter()
    for index, node in enumerate(graph.model.graph.node):
        if node.op_type != "MatMul" or node.input[1] not in graph.weights:
            continue
        name = node.input[1].removesuffix(_SUFFIX)
        uses[name] += 1
        label = name if uses[name] == 1 else f"{name}.pass{uses[name]}"
        num_inputs, num_outputs = graph.weights[node.input[1]].shape
        layers.append(
            Linear(
                name=name,
                label=label,
                node=index,
                source=node.input[0],
                output=node.output[0],
                site=sites.setdefault(node.input[0], label),
                num_inputs=num_inputs,
                num_outputs=num_outputs,
            )
        )
    return tuple(layers)


def match_layers(layers: Sequence[Linear], patterns: Iterable[str]) -> frozenset[str]:
    """Names of the layers that match a user's patterns.

    Args:
        layers: to choose from.
        patterns: ``double_blocks.3.*``, ``*.w2``, or a complete name.

    Raises:
        UsageError: a pattern matches no layer.
    """
    matches: set[str] = set()
    for pattern in patterns:
        names = match_any(layers, [pattern])
        if not names:
            raise UsageError(
                f"pattern {pattern!r} matches no linear layer; names are like {layers[0].name},"
                " and * stands for any characters"
            )
        matches |= names
    return frozenset(matches)


def match_any(layers: Sequence[Linear], patterns: Iterable[str]) -> frozenset[str]:
    """As ``match_layers``, for a scheme's patterns, which need not match in every graph."""
    every = tuple(patterns)
    return frozenset(
        layer.name for layer in layers if any(fnmatchcase(layer.name, item) for item in every)
    )


def excluded_layers(
    layers: Sequence[Linear],
    by_scheme: Iterable[str],
    include: Iterable[str],
    exclude: Iterable[str],
) -> frozenset[str]:
    """Names of the layers that are not quantized.

    Args:
        layers: of a graph.
        by_scheme: patterns that a scheme excludes.
        include: patterns that are quantized all the same.
        exclude: patterns that are excluded besides.

    Raises:
        UsageError: a pattern of the last two matches no layer, or no layer would be quantized.
    """
    included = match_layers(layers, include)
    excluded = (match_any(layers, by_scheme) - included) | match_layers(layers, exclude)
    if not {layer.name for layer in layers} - excluded:
        raise UsageError("every linear layer is excluded; exclude fewer")
    return excluded
